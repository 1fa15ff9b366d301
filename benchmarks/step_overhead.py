"""What a schedule costs: the time of a training step in `model.fit`, beside a constant learning rate.

    python benchmarks/step_overhead.py            # some five minutes
    python benchmarks/step_overhead.py --quick    # half a minute, to see that it runs

A small dense network at batch 32 is the worst case: its step takes well under a millisecond, so whatever
is added to it shows. The constant runs beside itself too, and that ratio says what this machine can tell
apart. Target, on a machine that does nothing else: each interval of a Schedule within 0.97 and 1.03.
"""

from __future__ import annotations

import argparse
import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from timing import console, measure, table

from kwarmup import Clock, Profile, Schedule, cosine, hold, linear, warmup

BATCH_SIZE = 32
EXAMPLES = 1_000  # 31 whole batches and one of 8
PEAK = 0.01


class Stopwatch(keras.callbacks.Callback):
    """Seconds from the end of the first execution of a pass to the end of its last."""

    def on_epoch_begin(self, epoch, logs=None):
        self.began = None

    def on_train_batch_end(self, batch, logs=None):
        self.ended, self.last = time.perf_counter(), batch
        if self.began is None:
            self.began, self.first = self.ended, batch

    @property
    def seconds_per_step(self):
        return (self.ended - self.began) / (self.last - self.first)


class EveryBatch(keras.callbacks.Callback):
    """Sets the learning rate before each batch, as `LearningRateScheduler` does before each pass."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def on_train_begin(self, logs=None):
        self.step = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rate(self.step)
        self.step += 1


def variant(learning_rate, steps, steps_per_execution=1, callbacks=()):
    """A function that trains for `steps` steps and returns the seconds of one."""
    keras.utils.set_random_seed(0)
    dense = [keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((32,)), *dense])
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution,
    )
    stopwatch = Stopwatch()

    def run():
        arguments = dict(steps_per_epoch=steps, shuffle=False, verbose=0)
        model.fit(batches(), callbacks=[*callbacks, stopwatch], **arguments)
        return stopwatch.seconds_per_step

    return run


@functools.cache
def batches():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(EXAMPLES, 32)).astype("float32"), rng.integers(0, 10, EXAMPLES)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE).cache().repeat()


def variants(steps, rounds):
    """All that is timed, and for each what it is timed beside."""
    total = 2 * steps * (rounds + 2)
    epochs = -(-total * BATCH_SIZE // EXAMPLES)
    clock = Clock(examples=EXAMPLES, epochs=epochs, batch_size=BATCH_SIZE)
    warm, part = total // 10, total // 20
    down = Profile([linear(steps=part, to=1 - i / 10) for i in range(8)])
    one = Schedule(PEAK * cosine(steps=total))
    three = Schedule(PEAK * (warmup(steps=warm) >> hold(steps=warm) >> cosine(steps=total - 2 * warm)))
    ten = Schedule(PEAK * (warmup(steps=warm) >> down >> cosine(steps=warm)))
    in_epochs = Schedule(PEAK * (warmup(epochs=epochs // 10) >> hold(fraction=0.3) >> cosine()), clock)
    of_keras = keras.optimizers.schedules.CosineDecay(
        0.0, total - warm, warmup_target=PEAK, warmup_steps=warm
    )
    one_by_one = {
        "constant again (A/A)": variant(PEAK, steps),
        "Keras CosineDecay with warmup": variant(of_keras, steps),
        "Schedule, 1 phase": variant(one, steps),
        "Schedule, 3 phases": variant(three, steps),
        "Schedule, 10 phases": variant(ten, steps),
        "Schedule, 3 phases in epochs, partial batches": variant(in_epochs, steps),
        "callback, every batch": variant(PEAK, steps, callbacks=[EveryBatch(three.curve)]),
    }
    by_32 = {
        "constant again (A/A), 32 steps an execution": variant(PEAK, steps, 32),
        "Keras CosineDecay with warmup, 32 steps": variant(of_keras, steps, 32),
        "Schedule, 3 phases, 32 steps": variant(three, steps, 32),
        "Schedule, 3 phases in epochs, 32 steps": variant(in_epochs, steps, 32),
    }
    base = {**dict.fromkeys(one_by_one, "constant"), **dict.fromkeys(by_32, "constant, 32 steps")}
    constants = {"constant": variant(PEAK, steps), "constant, 32 steps": variant(PEAK, steps, 32)}
    return {**one_by_one, **by_32, **constants}, base


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: shows that it runs, no more"
    )
    parser.add_argument("--rounds", type=int, default=100, help="rounds that count (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=192, help="steps a variant and round (default: %(default)s)"
    )
    arguments = parser.parse_args()
    rounds, steps = (3, 64) if arguments.quick else (arguments.rounds, arguments.steps)
    made, base = variants(steps, rounds)
    pairs = measure(made, base, rounds, label="step overhead")
    title = f"A training step in model.fit: {rounds} rounds of {steps} steps, batch {BATCH_SIZE}, small dense network"
    console().print(table(title, pairs, base))


if __name__ == "__main__":
    main()
