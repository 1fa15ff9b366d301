"""Where the best peak of a training lies beside what a range test says: every reading of the sweep, on many tasks.

    python benchmarks/best_peak.py --keep best_peak.json            # twenty minutes; goes on where it was ended
    python benchmarks/best_peak.py --keep best_peak.json --table    # the tables alone, of what there is

A task is a data set, a network, an optimizer and a batch size; there are 24. On each a short training, with a warmup
over a tenth of it and a cosine, is run at ten peaks that are a factor of 2.15 apart, and the range test at its
defaults, both with three seeds, of weights and order. The regret of a reading is the mean validation loss at the peak
that it names, between two peaks of the grid in a straight line over the logarithm, over the best of the grid; the peak
is the median over the seeds. What has diverged is infinitely bad.

The digits are there to choose a reading by; 4,096 images of Fashion-MNIST (Debian's dataset-fashion-mnist), halved in
width and height, to find out whether what was chosen holds elsewhere. The control does without a range test: one peak
for all tasks of an optimizer, the middle of the best ones on digits.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from timing import console, where

import kwarmup as kw
from kwarmup.cli.idx import read_folder
from kwarmup.descent import Descent, NoDescent
from kwarmup.scaled import Scaled

FOLDER = Path("/usr/share/datasets/fashion-mnist")
SEEDS = 3
#: The powers of 10^(1/3) between which the grid lies.
GRIDS = {"momentum": (-8, 2), "sgd": (-5, 5), "adam": (-11, -1)}
PROFILE = kw.warmup(fraction=0.1) >> kw.cosine()


class Task(NamedTuple):
    """What is trained; its grid follows from the optimizer."""

    data: str
    network: str
    optimizer: str
    batch_size: int

    @property
    def peaks(self) -> np.ndarray:
        return 10 ** (np.arange(*GRIDS[self.optimizer]) / 3)


TASKS = [
    Task(data, network, optimizer, size)
    for network, data, optimizer, size in itertools.product(
        ("dense", "conv"), ("digits", "fashion"), ("momentum", "sgd", "adam"), (32, 256)
    )
]

#: Readings of the smooth curve through a sweep, as powers of ten. The first four are what `suggest` knows.
READINGS: dict[str, Callable[[Descent], float]] = {
    "steepest": Descent.steepest,
    "valley": Descent.valley,
    "minimum": Descent.minimum,
    "slide": Descent.slide,
    "3 times steepest": lambda descent: descent.steepest() + np.log10(3),
    "lowest": lambda descent: descent.places[descent.lowest],
    "a half of lowest": lambda descent: descent.places[descent.lowest] - np.log10(2),
    "a third of lowest": lambda descent: descent.places[descent.lowest] - np.log10(3),
    "a quarter of lowest": lambda descent: descent.places[descent.lowest] - np.log10(4),
    "where 90 % of the fall are over": lambda descent: descent.places[descent.between(0.1, 0.9)[1]],
    "half way from steepest to lowest": lambda descent: (
        (descent.steepest() + descent.places[descent.lowest]) / 2
    ),
    "a quarter of divergence": lambda descent: descent.unstable() - np.log10(4),
    "an eighth of divergence": lambda descent: descent.unstable() - np.log10(8),
    "half way from steepest to divergence": lambda descent: (descent.steepest() + descent.unstable()) / 2,
}


def data(name: str) -> tuple[tuple[Any, Any], tuple[Any, Any], int]:
    """Return training data, validation data and the passes of a training."""
    if name == "digits":
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.images))
        x, y = (digits.images[order] / 16).astype("float32"), digits.target[order].astype("int64")
        return (x[400:1_680], y[400:1_680]), (x[:400], y[:400]), 20
    (images, labels), _ = read_folder(FOLDER)
    # Half as wide and high: what counts here is how many trainings there can be.
    halved = images[:6_096].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    x, y = (halved / 255).astype("float32"), labels[:6_096].astype("int64")
    return (x[:4_096], y[:4_096]), (x[4_096:], y[4_096:]), 6


def network(task: Task, shape: tuple[int, ...], learning_rate: Any, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    if task.network == "dense":
        body = [layers.Flatten(), layers.Dense(64 if task.data == "digits" else 128, "relu")]
    else:
        body = [layers.Reshape((*shape, 1))]
        for filters in (8, 16):
            body.append(layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu"))
        body.append(layers.Flatten())
    model = keras.Sequential([keras.Input(shape), *body, layers.Dense(10)])
    optimizer = {
        "momentum": lambda: keras.optimizers.SGD(learning_rate, momentum=0.9),
        "sgd": lambda: keras.optimizers.SGD(learning_rate),
        "adam": lambda: keras.optimizers.Adam(learning_rate),
    }[task.optimizer]()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def measure(task: Task) -> dict[str, Any]:
    """Return the final losses at each peak of the grid, a row for each seed, and the sweeps."""
    train, validation, epochs = data(task.data)
    shape, examples = train[0].shape[1:], len(train[0])
    plan = kw.Plan(learning_rate=PROFILE, batch_size=task.batch_size, examples=examples, epochs=epochs)
    rate = Scaled(plan.learning_rate)
    model = network(task, shape, rate, 0)
    optimizer: Any = model.optimizer
    optimizer.build(model.trainable_variables)
    fresh = [np.array(keras.ops.convert_to_numpy(variable)) for variable in optimizer.variables]
    updates = plan.clock.steps
    model.steps_per_execution = 25
    losses, sweeps = [], []
    for seed in range(SEEDS):
        weights = network(task, shape, 0.1, seed).get_weights()
        random = np.random.default_rng(seed)
        order = np.concatenate([random.permutation(examples) for _ in range(epochs)])
        # The batches of a run are held as they are: they are read at each peak.
        rows = order.reshape(updates, task.batch_size)
        batches = tf.data.Dataset.from_tensor_slices(tuple(array[rows] for array in train)).prefetch(20)
        row = []
        for peak in task.peaks:
            model.set_weights(weights)
            for variable, value in zip(optimizer.variables, fresh, strict=True):
                variable.assign(value)
            rate.assign(float(peak), 0)
            model.fit(batches, verbose=0, shuffle=False)
            assert int(optimizer.iterations) == updates
            found = model.evaluate(*validation, batch_size=1_000, verbose=0, return_dict=True)["loss"]
            row.append(float(found) if np.isfinite(found) else np.inf)
        losses.append(row)
        sweep = kw.find_lr(network(task, shape, 0.1, seed), *train, batch_size=task.batch_size, seed=seed)
        sweeps.append(sweep.to_dict())
    return {"losses": losses, "sweeps": sweeps}


def place(reading: Callable[[Descent], float], seeds: list[list[Descent]]) -> float:
    """Return what a reading says, as a power of ten: the median over the seeds; NaN where it says nothing."""
    found = []
    for descents in seeds:
        with contextlib.suppress(NoDescent):
            found.append(np.median([reading(descent) for descent in descents]))
    return float(np.median(found)) if found else np.nan


class Outcome:
    """The mean final loss over the grid of a task, and what is read from its sweeps."""

    def __init__(self, task: Task, kept: dict[str, Any]):
        self.task, self.grid = task, np.log10(task.peaks)
        means = np.mean(kept["losses"], axis=0)
        # So bad that no peak between this one and its neighbour counts as good.
        self.losses = np.where(np.isfinite(means), means, 1e3)
        self.best = self.grid[np.argmin(self.losses)]
        seeds = []
        for sweep in kept["sweeps"]:
            with contextlib.suppress(ValueError):  # nothing to find
                seeds.append(kw.Sweep.from_dict(sweep).descents())
        self.places = {name: place(reading, seeds) for name, reading in READINGS.items()}

    def regret(self, reading: str) -> float:
        """Return how much larger the final loss is than the best; NaN where there is no reading."""
        return float(np.interp(self.places[reading], self.grid, self.losses) / self.losses.min())

    def row(self) -> list[str]:
        good = 10 ** self.grid[self.losses <= 1.1 * self.losses.min()]
        factors = [f"{10 ** (self.best - self.places[name]):.2g}" for name in ("steepest", "lowest")]
        words = [str(word) for word in self.task]
        found = f"{10 ** self.places['steepest']:.2g}"
        peaks = f"{10**self.best:.2g}", f"{good.min():.2g} – {good.max():.2g}"
        return [*words, *peaks, f"{self.losses.min():.3f}", found, *factors, f"{self.regret('steepest'):.2f}"]


def tables(kept: dict[str, Any]) -> Iterator[Table]:
    """Yield where the best peak of each task lies, and the regrets of all readings."""
    outcomes = [Outcome(task, kept[name]) for task in TASKS if (name := " ".join(map(str, task))) in kept]
    title = f"The best peak of {len(outcomes)} tasks, beside what the range test says; {SEEDS} seeds"
    shown = Table(title=title, caption=where(), caption_justify="left", title_justify="left")
    heads = ["data", "network", "optimizer", "batch", "best peak", "within 10 %", "loss", "steepest"]
    for head in [*heads, "best / steepest", "best / lowest", "regret"]:
        shown.add_column(head)
    for outcome in outcomes:
        shown.add_row(*outcome.row())
    yield shown
    shown = Table(
        title="Regrets: median, worst; tasks at 1.10 or less, of those it reads", title_justify="left"
    )
    parts = list(dict.fromkeys(outcome.task.data for outcome in outcomes))
    for head in ("reading", *parts):
        shown.add_column(head)
    for one in outcomes:
        same = [other for other in outcomes if other.task.optimizer == one.task.optimizer]
        one.places["control"] = float(np.mean([other.best for other in same if other.task.data == "digits"]))
    for reading in [*READINGS, "control"]:
        cells = []
        for part in parts:
            regrets = np.array([one.regret(reading) for one in outcomes if one.task.data == part])
            regrets = regrets[np.isfinite(regrets)]
            middle, worst = np.quantile(regrets, [0.5, 1.0]) if regrets.size else (np.nan, np.nan)
            cells.append(f"{middle:.2f}, {worst:.2f}; {np.sum(regrets <= 1.1)} of {regrets.size}")
        shown.add_row(reading, *cells)
    yield shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, required=True, help="file that holds what was measured")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    kept: dict[str, Any] = json.loads(arguments.keep.read_text()) if arguments.keep.exists() else {}
    for task in track(TASKS, "tasks", transient=True, disable=arguments.table):
        name = " ".join(map(str, task))
        if arguments.table or name in kept:
            continue
        kept[name] = measure(task)
        keras.backend.clear_session()
        arguments.keep.write_text(json.dumps(kept))
    for table in tables(kept):
        console().print(table)


if __name__ == "__main__":
    main()
