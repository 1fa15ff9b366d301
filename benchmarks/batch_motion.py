"""What a batch size in motion costs: a ramp in `plan.fit`, beside the same sizes as separate `fit` calls.

    python benchmarks/batch_motion.py            # some five minutes
    python benchmarks/batch_motion.py --quick    # a minute, to see that it runs

Three questions. In steady state: the seconds of an example while the batch size changes in every pass,
beside plain `model.fit` calls with the same sizes on the same arrays, once everything is traced. At a
switch: the seconds from one size to the next, beside a second `fit` and beside compiling anew. And for
small models: 32 steps in one execution with the schedule in the graph, beside a callback that sets the
learning rate before each batch; both must end with the same weights.

Targets: steady state at least 0.97 of the plain calls' examples a second; a switch no dearer than a second
`fit` and five times cheaper than compiling anew; at most two traces without XLA; 32 steps in one execution
at least twice as fast as the callback.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from timing import console, measure, ratio, table, where

import kwarmup as kw

SIZES = (32, 64, 128, 256)
WIDTH, CLASSES = 64, 10
SMALL_BATCH, SMALL_STEPS = 32, 32 * 20
PEAK = 0.01


def data(examples):
    random = np.random.default_rng(0)
    return random.normal(size=(examples, WIDTH)).astype("float32"), random.integers(0, CLASSES, examples)


def network(learning_rate, units=256, **compiled):
    """A dense network, always with the same first weights."""
    keras.utils.set_random_seed(0)
    dense = [
        keras.layers.Dense(units, "relu"),
        keras.layers.Dense(units, "relu"),
        keras.layers.Dense(CLASSES),
    ]
    model = keras.Sequential([keras.Input((WIDTH,)), *dense])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), loss, jit_compile=False, **compiled)
    return model


class Traces:
    """Counts how often Python runs the loss: once for each trace of the training step."""

    def __init__(self, model):
        self.count, real = 0, model.compute_loss

        def counted(*arguments, **keywords):
            self.count += 1
            return real(*arguments, **keywords)

        model.compute_loss = counted


def ramp(examples, passes):
    """A plan that is a whole round: each size for as many passes, and as often as there are sizes."""
    first = SIZES[0]
    size = kw.hold(1, epochs=passes)
    for other in SIZES[1:]:
        size = size >> kw.hold(other // first, epochs=passes)
    return kw.Plan(
        learning_rate=PEAK,
        batch_size=first * size,
        examples=examples,
        epochs=passes * len(SIZES),
        scaling=0.5,
    )


class Steady(keras.callbacks.Callback):
    """Seconds within passes, from the end of the first batch to the end of the last, without any switch."""

    def __init__(self):
        super().__init__()
        self.seconds = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.before = None

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if self.before is not None:
            self.seconds += now - self.before
        self.before = now


def steady(examples, passes, rounds):
    """Seconds within the passes of a ramp, beside separate plain calls; all is traced in warm-up rounds."""
    x, y = data(examples)
    plan = ramp(examples, passes)
    planned, plain, control = (network(plan.learning_rate) for _ in range(3))

    def in_ramp(model, callbacks):
        plan.fit(model, x, y, verbose=0, callbacks=callbacks)

    def calls(model, callbacks):
        for size in SIZES:
            model.fit(x, y, batch_size=size, epochs=passes, verbose=0, callbacks=callbacks)

    def timed(train, model):
        def once():
            model.optimizer.iterations.assign(0)  # where a plan begins
            inside = Steady()
            train(model, [inside])
            return inside.seconds

        return once

    variants = {
        "plan.fit, a ramp": timed(in_ramp, planned),
        "plain fit calls": timed(calls, plain),
        "plain fit calls again (A/A)": timed(calls, control),
    }
    base = dict.fromkeys(["plan.fit, a ramp", "plain fit calls again (A/A)"], "plain fit calls")
    return measure(variants, base, rounds, label="a ramp beside plain calls"), base


class Switch(keras.callbacks.Callback):
    """Seconds from the end of a pass's last batch to the end of the next pass's first one."""

    def __init__(self):
        super().__init__()
        self.ended, self.seconds, self.begun = None, [], False

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = True

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if self.begun and self.ended is not None:
            self.seconds.append(now - self.ended)
        self.begun, self.ended = False, now


def compile_anew(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(PEAK, momentum=0.9), loss, jit_compile=False)


def switches(examples, rounds):
    """Seconds of a switch from one size to the next: in a ramp, in plain calls, and with compiling anew."""
    x, y = data(examples)
    plan = ramp(examples, 1)
    planned, plain, control, anew = (network(plan.learning_rate) for _ in range(4))

    def in_ramp():
        switch = Switch()
        planned.optimizer.iterations.assign(0)
        plan.fit(planned, x, y, verbose=0, callbacks=[switch])
        return float(np.median(switch.seconds))

    def in_calls(model, compiled_anew):
        def once():
            switch = Switch()
            for size in SIZES:
                if compiled_anew:
                    compile_anew(model)
                model.fit(x, y, batch_size=size, verbose=0, callbacks=[switch])
            return float(np.median(switch.seconds))

        return once

    variants = {
        "a switch in plan.fit": in_ramp,
        "the same switch": in_ramp,
        "a second fit": in_calls(plain, compiled_anew=False),
        "a second fit again (A/A)": in_calls(control, compiled_anew=False),
        "compiling anew": in_calls(anew, compiled_anew=True),
    }
    base = {
        "a switch in plan.fit": "a second fit",
        "the same switch": "compiling anew",
        "a second fit again (A/A)": "a second fit",
    }
    return measure(variants, base, rounds, label="switches"), base


def traces(examples):
    """How often the training step is traced over a ramp with every size from 32 to 256 in it."""
    x, y = data(examples)
    plan = kw.Plan(learning_rate=PEAK, batch_size=32 * kw.linear(to=8), examples=examples, epochs=8)
    model = network(plan.learning_rate)
    model.build((None, WIDTH))
    counted = Traces(model)
    plan.fit(model, x, y, verbose=0)
    sizes = plan.clock.batch_size_at(np.arange(plan.clock.steps))
    return counted.count, len(set(sizes.tolist()))


class EveryBatch(keras.callbacks.Callback):
    """Sets the learning rate before each batch."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def on_train_begin(self, logs=None):
        self.step = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rate(self.step)
        self.step += 1


def small(rounds):
    """Seconds of a small model's training: 32 steps an execution, beside a callback for every batch."""
    x, y = data(SMALL_BATCH * SMALL_STEPS)
    profile = PEAK * (kw.warmup(fraction=0.1) >> kw.cosine())
    plan = kw.Plan(learning_rate=profile, batch_size=SMALL_BATCH, examples=len(x), epochs=1)
    in_graph, by_one = (
        network(plan.learning_rate, 32, steps_per_execution=32),
        network(plan.learning_rate, 32),
    )
    called, control = network(0.0, 32), network(0.0, 32)
    first = called.get_weights()

    def planned(model):
        def once():
            _set_back(model, first)
            begun = time.perf_counter()
            plan.fit(model, x, y, verbose=0)
            return time.perf_counter() - begun

        return once

    def with_callback(model):
        def once():
            _set_back(model, first)
            begun = time.perf_counter()
            # The batches of the plan, so that both train on the same ones.
            arguments = dict(plan.fit_arguments, shuffle=False, verbose=0)
            arguments.pop("batch_size")
            model.fit(plan.batches(x, y), callbacks=[EveryBatch(plan.curve)], **arguments)
            return time.perf_counter() - begun

        return once

    variants = {
        "schedule in the graph, 32 steps an execution": planned(in_graph),
        "schedule in the graph, one by one": planned(by_one),
        "a callback for every batch": with_callback(called),
        "a callback again (A/A)": with_callback(control),
    }
    beside = "a callback for every batch"
    base = {name: beside for name in variants if name != beside}
    pairs = measure(variants, base, rounds, label="small models")
    # Each ended a whole training last, from the same weights over the same batches.
    for one, other in zip(in_graph.get_weights(), called.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    return pairs, base


def _set_back(model, weights):
    model.set_weights(weights)
    for variable in model.optimizer.variables:
        if variable is not model.optimizer.learning_rate:
            variable.assign(np.zeros(variable.shape, variable.dtype))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few and short rounds: that it runs, no more")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore", kw.PlanWarning)
    examples, passes, rounds = (4_096, 1, 3) if quick else (16_384, 1, 20)
    out = console()

    pairs, base = steady(examples, passes, rounds)
    out.print(table(f"Batch {' → '.join(map(str, SIZES))}, {examples:,} examples a pass", pairs, base, "ms"))
    rate = ratio(pairs["plan.fit, a ramp"].base, pairs["plan.fit, a ramp"].variant)
    _verdict(out, "examples a second, of those of the plain calls", rate, "at least 0.97", rate.value >= 0.97)

    pairs, base = switches(2_048, rounds)
    out.print(table("One switch of the batch size", pairs, base, "ms"))
    second = ratio(*pairs["a switch in plan.fit"])
    anew = ratio(*reversed(pairs["the same switch"]))
    _verdict(out, "a switch, beside a second fit", second, "at most 1", second.low <= 1)
    _verdict(out, "compiling anew, beside a switch", anew, "at least 5", anew.value >= 5)

    count, sizes = traces(2_048)
    _verdict(out, f"traces over {sizes} different sizes", count, "at most 2", count <= 2)

    pairs, base = small(rounds)
    out.print(table(f"{SMALL_STEPS:,} steps of a small network, batch {SMALL_BATCH}", pairs, base, "ms"))
    faster = ratio(*reversed(pairs["schedule in the graph, 32 steps an execution"]))
    _verdict(out, "callback, beside 32 steps an execution", faster, "at least 2", faster.value >= 2)
    out.print("The weights of both are equal to 1e-5.")
    out.print(where())


def _verdict(out, what, found, target, met):
    out.print(f"{what}: {found}   target {target}: {'met' if met else 'MISSED'}\n", highlight=False)


if __name__ == "__main__":
    main()
