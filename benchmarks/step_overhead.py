"""What a schedule costs: the time of a training step in `model.fit`, against a constant learning rate.

    python benchmarks/step_overhead.py            # about three minutes
    python benchmarks/step_overhead.py --quick    # a few seconds, to see that it runs

A small dense network at batch 32 is the worst case: its step takes well under a millisecond, so anything
that is added to it shows. The constant runs twice, and the ratio of the two says what this machine can
tell apart. Target: the interval of every Schedule within 0.97 and 1.03.
"""

from __future__ import annotations

import argparse
import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from timing import console, interleave, table

from kwarmup import Clock, Profile, Schedule, cosine, hold, linear, warmup

BATCH_SIZE = 32
EXAMPLES = 1_000  # 31 whole batches and one of 8
PEAK = 0.01


class Stopwatch(keras.callbacks.Callback):
    """Seconds from the end of the first execution of a pass to the end of its last."""

    def on_epoch_begin(self, epoch, logs=None):
        self.began = None

    def on_train_batch_end(self, batch, logs=None):
        self.ended = time.perf_counter()
        if self.began is None:
            self.began, self.first = self.ended, batch
        self.last = batch

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
    model = keras.Sequential(
        [
            keras.Input((32,)),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution,
    )
    data = batches()
    stopwatch = Stopwatch()

    def run():
        model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[*callbacks, stopwatch])
        return stopwatch.seconds_per_step

    return run


@functools.cache
def batches():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(EXAMPLES, 32)).astype("float32"), rng.integers(0, 10, EXAMPLES)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE).cache().repeat()


def variants(steps, rounds):
    """All that is compared, and what with."""
    total = 2 * steps * (rounds + 2)
    clock = Clock(examples=EXAMPLES, epochs=-(-total * BATCH_SIZE // EXAMPLES), batch_size=BATCH_SIZE)
    warm, part = total // 10, total // 20
    ten = (
        warmup(steps=warm)
        >> Profile([linear(steps=part, to=1 - i / 10) for i in range(8)])
        >> cosine(steps=warm)
    )
    three = warmup(steps=warm) >> hold(steps=warm) >> cosine(steps=total - 2 * warm)
    in_epochs = warmup(epochs=clock.epochs // 10) >> hold(fraction=0.3) >> cosine()
    curve = Schedule(PEAK * three).curve
    keras_schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=total - warm, warmup_target=PEAK, warmup_steps=warm
    )
    made = {
        "constant": variant(PEAK, steps),
        "constant again (A/A)": variant(PEAK, steps),
        "Keras CosineDecay with warmup": variant(keras_schedule, steps),
        "Schedule, 1 phase": variant(Schedule(PEAK * cosine(steps=total)), steps),
        "Schedule, 3 phases": variant(Schedule(PEAK * three), steps),
        "Schedule, 10 phases": variant(Schedule(PEAK * ten), steps),
        "Schedule, 3 phases in epochs, partial batches": variant(Schedule(PEAK * in_epochs, clock), steps),
        "callback, every batch": variant(PEAK, steps, callbacks=[EveryBatch(curve)]),
        "constant, 32 steps per execution": variant(PEAK, steps, 32),
        "constant again, 32 steps per execution": variant(PEAK, steps, 32),
        "Schedule, 3 phases, 32 steps per execution": variant(Schedule(PEAK * three), steps, 32),
        "Schedule in epochs, 32 steps per execution": variant(Schedule(PEAK * in_epochs, clock), steps, 32),
    }
    base = {name: "constant, 32 steps per execution" if " 32 steps" in name else "constant" for name in made}
    return made, base


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: shows that it runs, no more"
    )
    parser.add_argument("--rounds", type=int, default=100, help="rounds that count (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=320, help="steps a round and variant (default: %(default)s)"
    )
    arguments = parser.parse_args()
    rounds, steps = (3, 96) if arguments.quick else (arguments.rounds, arguments.steps)
    made, base = variants(steps, rounds)
    times = interleave(made, rounds, label="step overhead")
    title = (
        f"Seconds a training step, {rounds} rounds of {steps} steps, batch {BATCH_SIZE}, small dense network"
    )
    console().print(table(title, times, base))


if __name__ == "__main__":
    main()
