"""Images, networks and trainings for an accelerator; `gpu.py` runs them.

The images are either those of a folder of IDX files (Fashion-MNIST), or scikit-learn's digits, each drawn again and
again, shifted, turned and noisy, in 28 by 28 points: that needs no network, and there are as many as wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import kwarmup as kw

#: Looks at the held-out images in a training.
LOOKS = 40


class Images(NamedTuple):
    """Training and held-out images with their classes."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray


def images(folder: Path | None, examples: int, held: int) -> Images:
    """Return the images of a folder, at most so many, or digits drawn anew."""
    if folder is None:
        return _digits(examples, held)
    from kwarmup.cli.idx import read_folder

    (x, y), _ = read_folder(folder)
    x = ((x.astype("float32") / 255 - 0.286) / 0.353)[..., None]
    order = np.random.default_rng(0).permutation(len(x))
    held_out, kept = order[:held], order[held:][:examples]
    return Images(x[kept], y[kept].astype("int32"), x[held_out], y[held_out].astype("int32"))


def _digits(examples: int, held: int) -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    # No digit of the held-out images is among those that the training ones were drawn from.
    kept, held_out = order[:1_400], order[1_400:]
    pictures, classes = digits.images.astype("float32") / 16, digits.target.astype("int32")
    x, y = _drawn(pictures[kept], classes[kept], examples, seed=1)
    return Images(x, y, *_drawn(pictures[held_out], classes[held_out], held, seed=2))


def _drawn(pictures: np.ndarray, classes: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    chosen = draw.integers(len(pictures), size=count)
    x = np.empty((count, 28, 28, 1), "float32")
    grid = (np.stack(np.meshgrid(np.arange(28), np.arange(28), indexing="ij")) - 13.5) * (8 / 28)
    for begin in range(0, count, 2_000):
        some = chosen[begin : begin + 2_000]
        turn, size = draw.normal(0, 0.2, len(some)), draw.uniform(0.9, 1.25, len(some))
        sine, cosine = np.sin(turn) * size, np.cos(turn) * size
        shift = draw.uniform(-1, 1, (2, len(some), 1, 1)) + 3.5
        row = cosine[:, None, None] * grid[0] + sine[:, None, None] * grid[1] + shift[0]
        column = cosine[:, None, None] * grid[1] - sine[:, None, None] * grid[0] + shift[1]
        x[begin : begin + len(some), ..., 0] = _between(pictures[some], row, column)
    x += draw.normal(0, 0.3, x.shape).astype("float32")
    return (x - 0.3) / 0.45, classes[chosen]


def _between(pictures: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Read pictures between their points, linearly; outside they are 0."""
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1)))
    row, column = np.clip(row + 1, 0, 8.999), np.clip(column + 1, 0, 8.999)
    r, c = row.astype(int), column.astype(int)
    down, right = row - r, column - c
    n = np.arange(len(pictures))[:, None, None]
    upper = padded[n, r, c] * (1 - right) + padded[n, r, c + 1] * right
    lower = padded[n, r + 1, c] * (1 - right) + padded[n, r + 1, c + 1] * right
    return upper * (1 - down) + lower * down


def dense() -> keras.Model:
    """784 - 128 - 10."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def convolutions() -> keras.Model:
    """Two convolutions and a dense layer, 13,000 weights."""
    layers: list[Any] = [keras.Input((28, 28, 1))]
    for filters in (16, 32):
        layers += [keras.layers.Conv2D(filters, 3, padding="same", activation="relu")]
        layers += [keras.layers.MaxPooling2D()]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])


def wide() -> keras.Model:
    """A wide residual network, WRN-16-2, with batch normalisation, in bfloat16; 690,000 weights."""

    def convolved(x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
        layer = keras.layers.Conv2D(
            filters, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal",
            dtype="mixed_bfloat16",
        )  # fmt: skip
        return layer(x)

    def active(x: Any) -> Any:
        normal = keras.layers.BatchNormalization(dtype="mixed_bfloat16")(x)
        return keras.layers.ReLU(dtype="mixed_bfloat16")(normal)

    inputs = keras.Input((28, 28, 1))
    x = convolved(inputs, 16)
    for stage, filters in enumerate((32, 64, 128)):
        for block in range(2):
            strides = 2 if stage and not block else 1
            y = active(x)
            x = x if block else convolved(y, filters, 1, strides)
            y = convolved(active(convolved(y, filters, strides=strides)), filters)
            x = keras.layers.Add(dtype="mixed_bfloat16")([x, y])
    x = keras.layers.GlobalAveragePooling2D(dtype="mixed_bfloat16")(active(x))
    return keras.Model(inputs, keras.layers.Dense(10, dtype="float32")(x))


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "dense": dense,
    "convolutions": convolutions,
    "wide": wide,
}


def compiled(network: str, learning_rate: Any = 0.01, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = NETWORKS[network]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), loss, metrics=["accuracy"])
    return model


class Runner:
    """Trains one network at one batch size to a target, again and again: it is compiled once, and anew begun.

    Args:
        network: its name.
        size: examples per update.
        data: the images.
        target: the accuracy on the held-out ones at which a training ends.
        most: examples that a training may see.
    """

    def __init__(self, network: str, size: int, data: Images, target: float, most: int):
        self.network, self.size, self.data, self.target = network, size, data, target
        self.updates = max(1, most // size)
        self.model = compiled(network)
        begun = time.perf_counter()
        self._fit(0, 2, [])
        self.model.evaluate(data.held_x, data.held_y, batch_size=1_000, verbose=0)
        #: Seconds until the first two updates and the first look were over.
        self.first = time.perf_counter() - begun

    def train(self, rate: float, seed: int) -> dict[str, Any]:
        """Train with a constant rate; return updates, examples and seconds to the target, none where it is not met."""
        optimizer = self.model.optimizer
        self.model.set_weights(compiled(self.network, seed=seed).get_weights())
        for variable in optimizer.variables:
            variable.assign(np.zeros(variable.shape, keras.backend.standardize_dtype(variable.dtype)))
        optimizer.learning_rate = rate
        race = Race(self.updates, self.data, self.target)
        self._fit(seed, self.updates, [race])
        found = {"updates": race.done, "examples": race.done * self.size, "seconds": race.seconds}
        if not race.reached:
            found = dict.fromkeys(found)
        return {**found, "accuracy": race.accuracy}

    def _fit(self, seed: int, updates: int, callbacks: list[keras.callbacks.Callback]) -> None:
        examples = len(self.data.x)
        epochs = -(-updates * self.size // examples) + 1
        plan = kw.Plan(learning_rate=0.01, batch_size=self.size, examples=examples, epochs=epochs)
        # Whole batches alone: each shape is compiled anew on JAX.
        whole = (
            batch for batch in plan.batches(self.data.x, self.data.y, seed=seed) if len(batch[0]) == self.size
        )
        self.model.fit(
            whole, epochs=1, steps_per_epoch=updates, verbose=0, callbacks=callbacks, shuffle=False
        )


class Race(keras.callbacks.Callback):
    """Looks at the held-out images now and then while the stopwatch stands still; ends where the target is met."""

    def __init__(self, updates: int, data: Images, target: float):
        super().__init__()
        self.places = set(np.ceil(np.geomspace(max(1, updates / 200), updates, LOOKS)).astype(int).tolist())
        self.data, self.target = data, target
        self.seconds, self.done, self.accuracy, self.reached = 0.0, 0, 0.0, False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if self.done not in self.places:
            return
        model = self.model
        keras.ops.convert_to_numpy(model.optimizer.iterations)  # waits for the device
        self.seconds += time.perf_counter() - self.begun
        found = model.evaluate(self.data.held_x, self.data.held_y, batch_size=1_000, verbose=0)
        self.accuracy = float(found[1])
        self.reached = self.accuracy >= self.target
        if self.reached or not np.isfinite(found[0]):
            model.stop_training = True
        self.begun = time.perf_counter()


def rows(small: int, large: int, peak: float, examples: int) -> dict[str, kw.Plan]:
    """Ways to train as plans: with one size or the other, a warmup of the rate, of the batch, of neither.

    Args:
        small: the base batch size.
        large: that of the others.
        peak: the learning rate for `large`.
        examples: of the training data.
    """
    share, common = small / large, {"examples": examples, "epochs": 4}
    gradual = kw.warmup(epochs=1, start=share) >> kw.linear()
    between = round((small * large) ** 0.5)
    ramp = kw.Plan(
        learning_rate=peak * share * (kw.hold(epochs=1) >> kw.linear()),
        batch_size=small * (kw.hold(epochs=0.25) >> kw.hold(between / small, epochs=0.75) >> kw.hold(large / small)),
        scaling=1, **common,
    )  # fmt: skip
    wanted = ramp.clock.steps
    control = min(range(small, large), key=lambda size: abs(4 * -(-examples // size) - wanted))
    drops = kw.hold(epochs=3) >> kw.hold(0.2, epochs=2) >> kw.hold(0.04, epochs=1)
    decayed = kw.Plan(learning_rate=peak * share * drops, batch_size=small, examples=examples, epochs=6)
    return {
        f"{small}, linear decay": kw.Plan(
            learning_rate=peak * share * (kw.hold(epochs=1) >> kw.linear()), batch_size=small, **common
        ),
        f"{large}, no warmup": kw.Plan(
            learning_rate=peak * (kw.hold(epochs=1) >> kw.linear()), batch_size=large, **common
        ),
        f"{large}, constant warmup": kw.Plan(
            learning_rate=peak * (kw.hold(share, epochs=1) >> kw.linear(start=1)), batch_size=large, **common
        ),
        f"{large}, gradual warmup": kw.Plan(learning_rate=peak * gradual, batch_size=large, **common),
        f"{small} → {between} → {large}": ramp,
        f"control: {control}, as many updates, gradual": kw.Plan(
            learning_rate=peak * gradual, batch_size=control, **common
        ),
        "decay ×1/5 twice": decayed,
        "grow ×5 twice": decayed.grow_batch(max=min(25 * small, examples)),
    }


def train_by(plan: kw.Plan, network: str, data: Images, seed: int) -> dict[str, Any]:
    """Train by a plan to its end; return the accuracy, updates and seconds, what is compiled on the way counted in."""
    model = compiled(network, plan.learning_rate, seed)
    begun = time.perf_counter()
    diverged = False
    try:
        plan.fit(model, data.x, data.y, seed=seed, verbose=0)
    except kw.LossNotFinite:
        diverged = True
    seconds = time.perf_counter() - begun
    accuracy = model.evaluate(data.held_x, data.held_y, batch_size=1_000, verbose=0)[1]
    return {
        "accuracy": float(accuracy),
        "updates": plan.clock.steps,
        "seconds": seconds,
        "diverged": diverged,
    }
