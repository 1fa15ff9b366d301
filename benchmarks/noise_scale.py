"""What it costs to know the gradient noise scale, and how right the answer is.

    python benchmarks/noise_scale.py            # some ten minutes
    python benchmarks/noise_scale.py --quick    # a minute, to see that it runs

Three tables. What the monitor adds to a training step in `model.fit`, beside training without it, which runs
beside itself too: that ratio says what this machine can tell apart. Targets: at most 1.02 at the default
frequency and 1.10 at every step, for a model whose gradient is a mean over examples. Then the error of
`noise_scale` and of the monitor against the exact value, over seeds. Last, the time to the gradients of
the same examples: in micro-batches, and one by one as vectorised per-example gradients.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.table import Table
from timing import console, measure, table

from kwarmup import NoiseScaleMonitor, noise_scale

EXAMPLES, FEATURES, CLASSES, BATCH_SIZE = 8_192, 64, 10, 256

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(EXAMPLES, FEATURES)).astype("float32")
Y = (X @ RANDOM.normal(size=(FEATURES, CLASSES)) + 4 * RANDOM.normal(size=(EXAMPLES, CLASSES))).argmax(1)


def build(units=256, normalised=False):
    keras.utils.set_random_seed(0)
    hidden = []
    for _ in range(2):
        hidden.append(keras.layers.Dense(units, "relu"))
        if normalised:
            hidden.append(keras.layers.BatchNormalization())
    model = keras.Sequential([keras.Input((FEATURES,)), *hidden, keras.layers.Dense(CLASSES)])
    # Slow enough that the noise is the same from the first step to the last.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-9, momentum=0.9), loss)
    return model


class Stopwatch(keras.callbacks.Callback):
    """Seconds a step over all passes but the first, in which functions are compiled."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.began = time.perf_counter()

    def on_train_end(self, logs=None):
        self.seconds = time.perf_counter() - self.began


def variant(epochs, normalised=False, **arguments):
    """A function that trains and returns the seconds of a step."""
    model, stopwatch = build(normalised=normalised), Stopwatch()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH_SIZE).cache()
    callbacks = [NoiseScaleMonitor(**arguments), stopwatch] if arguments else [stopwatch]

    def run():
        model.fit(data, epochs=1 + epochs, shuffle=False, verbose=0, callbacks=callbacks)
        return stopwatch.seconds / (epochs * EXAMPLES // BATCH_SIZE)

    return run


def overhead(rounds, epochs):
    plain, normalised = "no monitor", "no monitor, batch normalisation"
    base = {
        "no monitor again (A/A)": plain,
        "every 10 steps, 2 parts (the default)": plain,
        "every step, 2 parts": plain,
        "every step, 4 parts": plain,
        "batch normalisation, every 10 steps": normalised,
    }
    made = {
        "no monitor again (A/A)": variant(epochs),
        "every 10 steps, 2 parts (the default)": variant(epochs, every=10),
        "every step, 2 parts": variant(epochs, every=1),
        "every step, 4 parts": variant(epochs, every=1, parts=4),
        "batch normalisation, every 10 steps": variant(epochs, normalised=True, every=10),
        plain: variant(epochs),
        normalised: variant(epochs, normalised=True),
    }
    title = f"A training step in model.fit: {rounds} rounds, batch {BATCH_SIZE}, dense {FEATURES}-256-256-{CLASSES}"
    return table(title, measure(made, base, rounds, label="overhead"), base)


def squared_gradients(model):
    """A function from a batch to the mean gradient and the sum of squares of vectorised per-example ones."""

    @tf.function
    def one_by_one(x, y):
        def of_example(pair):
            with tf.GradientTape() as tape:
                loss = model.compute_loss(y=pair[1][None], y_pred=model(pair[0][None], training=True))
            return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

        gradients = tf.vectorized_map(of_example, (x, y))
        mean = tf.concat([tf.reshape(tf.reduce_mean(g, 0), [-1]) for g in gradients], 0)
        return mean, sum(tf.reduce_sum(g**2) for g in gradients)

    return one_by_one


def exact(model):
    """Trace over squared norm from the gradients of all examples, one by one."""
    one_by_one = squared_gradients(model)
    means, squares = [], 0.0
    for begin in range(0, EXAMPLES, BATCH_SIZE):
        mean, square = one_by_one(X[begin : begin + BATCH_SIZE], Y[begin : begin + BATCH_SIZE])
        means.append(mean.numpy().astype("float64"))
        squares += float(square)
    norm = np.square(np.mean(means, 0)).sum()
    return (squares - EXAMPLES * norm) / (EXAMPLES - 1) / norm


def accuracy(seeds):
    model = build(32)
    truth = exact(model)
    shown = Table(
        title=f"Against the exact noise scale, {truth:.1f} examples: {seeds} seeds", title_justify="left"
    )
    for column in ("estimate", "median error", "largest error", "truth in the interval", "examples"):
        shown.add_column(column, justify="left" if column == "estimate" else "right")

    def row(name, found):
        errors = np.array([abs(value / truth - 1) for value, _, _ in found])
        covered = np.mean([low <= truth <= high for _, (low, high), _ in found])
        examples = f"{np.median([count for _, _, count in found]):.0f}"
        shown.add_row(name, f"{np.median(errors):.1%}", f"{errors.max():.1%}", f"{covered:.0%}", examples)

    for size, precision in ((1, 0.2), (32, 0.2), (32, 0.05)):
        found = [
            noise_scale(model, X, Y, micro_batch_size=size, precision=precision, seed=seed)
            for seed in range(seeds)
        ]
        name = f"noise_scale, micro-batches of {size}, precision {precision}"
        row(name, [(one.value, one.interval, one.examples) for one in found])
    followed = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        monitor = NoiseScaleMonitor(every=1, examples=EXAMPLES)
        model.fit(X, Y, batch_size=64, epochs=4, verbose=0, callbacks=[monitor])
        followed.append((monitor.estimate.value, monitor.estimate.interval, int(64 * monitor.averages[0])))
    row("NoiseScaleMonitor, halves of batches of 64", followed)
    return shown


def gradients(rounds):
    model = build()
    one_by_one = squared_gradients(model)

    def vectorised():
        begun = time.perf_counter()
        for begin in range(0, EXAMPLES, BATCH_SIZE):
            one_by_one(X[begin : begin + BATCH_SIZE], Y[begin : begin + BATCH_SIZE])[1].numpy()
        return time.perf_counter() - begun

    def micro_batches(size):
        def run():
            begun = time.perf_counter()
            # So precise that it reads all examples; its compilation is part of the price.
            noise_scale(model, X, Y, micro_batch_size=size, precision=1e-9)
            return time.perf_counter() - begun

        return run

    names = {f"noise_scale, micro-batches of {size}": micro_batches(size) for size in (8, 32, 128)}
    base = dict.fromkeys(names, "vectorised, example by example")
    made = {**names, "vectorised, example by example": vectorised}
    title = f"The gradients of {EXAMPLES} examples: {rounds} rounds, dense {FEATURES}-256-256-{CLASSES}"
    return table(title, measure(made, base, rounds, warm_up=1, label="gradients"), base, unit="ms")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: shows that it runs, no more"
    )
    parser.add_argument("--rounds", type=int, default=40, help="rounds that count (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=20, help="seeds of the estimates (default: %(default)s)")
    arguments = parser.parse_args()
    rounds, seeds, epochs = (3, 3, 2) if arguments.quick else (arguments.rounds, arguments.seeds, 6)
    console().print(overhead(rounds, epochs))
    console().print(accuracy(seeds))
    console().print(gradients(max(3, rounds // 4)))


if __name__ == "__main__":
    main()
