"""kwarmup's range test beside torch-lr-finder's and Lightning's, on the same networks and data: time, spread, regret.

    pip install torch torch-lr-finder pytorch-lightning
    python benchmarks/find_lr.py            # some fifteen minutes
    python benchmarks/find_lr.py --quick    # three minutes, to see that it runs

The network is dense, 64 - 64 - 10, on scikit-learn's digits, trained by SGD with momentum 0.9 at batch 32.
Each finder is run with several seeds, of weights and order both, at its defaults: 100 updates for
torch-lr-finder and Lightning, five times 100 for `kw.find_lr`, and once 100 in another row, which is the fair one
for time. Where Debian's dataset-fashion-mnist is installed, the time is taken on a second network too, convolutional on
28 x 28 images at batch 128, of which the computation takes longer than the compilation.

- Seconds: of a whole call, the compilation of the training step in it, but not what a library does once in a process.
- Spread: the largest suggestion over the smallest, over the seeds.
- Regret: the validation loss that a training at the suggestion ends with, over the best of an eight-point
  grid; the training is the same Keras one for all, once at a constant learning rate, as torch-lr-finder and Lightning
  leave it, and once with a warmup to a peak and a cosine. The suggestion is a row's median. Target: 1.10 or less.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from timing import console, where

import kwarmup as kw
from kwarmup.cli.idx import read_folder
from kwarmup.sweep import METHODS

GRID = np.geomspace(1e-3, 3.0, 8).tolist()
#: How the learning rate goes from there.
SHAPES = {"constant": kw.hold(), "warmup and cosine": kw.warmup(fraction=0.1) >> kw.cosine()}
HELD_OUT = 400
FOLDER = Path("/usr/share/datasets/fashion-mnist")

Pair = tuple[np.ndarray, np.ndarray]


class Found(NamedTuple):
    """Suggestions by method, updates and seconds of one call of a finder."""

    suggestions: dict[str, float]
    updates: int
    seconds: float


class Digits:
    """A dense network, of which a step takes no time beside its compilation."""

    batch_size = 32

    def data(self) -> tuple[Pair, Pair]:
        """Digits, with the same examples held out each time."""
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.data))
        x, y = (digits.data[order] / 16).astype("float32"), digits.target[order].astype("int64")
        return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])

    def layers(self) -> list[Any]:
        return [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]

    def for_torch(self) -> list[Any]:
        from torch import nn

        return [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]


class FashionMnist:
    """A convolutional network, of which a hundred steps take longer than the compilation."""

    batch_size = 128

    def data(self) -> tuple[Pair, Pair]:
        """Images, with the same ones held out each time."""
        (images, labels), _ = read_folder(FOLDER)
        x, y = (images[:20_000, ..., None] / 255).astype("float32"), labels[:20_000].astype("int64")
        return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])

    def layers(self) -> list[Any]:
        layers = keras.layers
        blocks = [
            [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()] for filters in (16, 32)
        ]
        return [keras.Input((28, 28, 1)), *blocks[0], *blocks[1], layers.Flatten(), layers.Dense(10)]

    def for_torch(self) -> list[Any]:
        from torch import nn

        blocks = [
            [nn.Conv2d(before, filters, 3), nn.ReLU(), nn.MaxPool2d(2)]
            for before, filters in ((1, 16), (16, 32))
        ]
        return [*blocks[0], *blocks[1], nn.Flatten(), nn.Linear(800, 10)]


Problem = Digits | FashionMnist
Finder = Callable[[int], Found]


def network(problem: Problem, learning_rate: Any, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(problem.layers())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), loss)
    return model


def ours(problem: Problem, repeats: int) -> Finder:
    """Return what runs `kw.find_lr`."""
    train, _ = problem.data()

    def run(seed: int) -> Found:
        model = network(problem, 0.1, seed)
        began = time.perf_counter()
        sweep = kw.find_lr(model, *train, batch_size=problem.batch_size, repeats=repeats, seed=seed)
        seconds = time.perf_counter() - began
        found = {method: sweep.suggest(method).learning_rate for method in METHODS}
        return Found(found, sum(map(len, sweep.losses)), seconds)

    return run


def torch_parts(problem: Problem, seed: int) -> tuple[Any, Any, Any]:
    """Return the network, the optimizer and the loader for the finders of torch."""
    import torch

    torch.manual_seed(seed)
    (x, y), _ = problem.data()
    # Channels come first there.
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim == 4 else x))
    model = torch.nn.Sequential(*problem.for_torch())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7, momentum=0.9)
    examples = torch.utils.data.TensorDataset(inputs, torch.from_numpy(y))
    return model, optimizer, torch.utils.data.DataLoader(examples, problem.batch_size, shuffle=True)


def torch_lr_finder(problem: Problem) -> Finder:
    """Return what runs torch-lr-finder; its `plot` suggests."""
    import torch
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    def run(seed: int) -> Found:
        model, optimizer, loader = torch_parts(problem, seed)
        with silence():
            began = time.perf_counter()
            finder = LRFinder(model, optimizer, torch.nn.CrossEntropyLoss(), device="cpu")
            finder.range_test(loader, end_lr=10, num_iter=100)
            seconds = time.perf_counter() - began
            _, suggestion = finder.plot(ax=Figure().subplots())
        return Found({"steepest": float(suggestion)}, len(finder.history["loss"]), seconds)

    return run


def lightning(problem: Problem) -> Finder:
    """Return what runs Lightning's `Tuner.lr_find`, which goes up to a learning rate of 1."""
    import torch
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.tuner import Tuner

    class Module(LightningModule):
        def __init__(self, model: Any, optimizer: Any):
            super().__init__()
            self.model, self.optimizer, self.lr, self.updates = model, optimizer, 0.1, 0
            self.loss = torch.nn.CrossEntropyLoss()

        def training_step(self, batch: Any, _: int) -> Any:
            self.updates += 1
            return self.loss(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return self.optimizer

    def run(seed: int) -> Found:
        model, optimizer, loader = torch_parts(problem, seed)
        module = Module(model, optimizer)
        with silence(), tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=folder,
            )  # fmt: skip
            began = time.perf_counter()
            finder = Tuner(trainer).lr_find(module, loader)
            seconds = time.perf_counter() - began
        return Found({"steepest": float(finder.suggestion())}, module.updates, seconds)

    return run


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """While inside, nothing is said: by bars, warnings or logs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):  # fmt: skip
            yield
    finally:
        logging.disable(before)


@functools.cache
def final_loss(profile: kw.Profile, seeds: int, epochs: int) -> float:
    """The mean validation loss behind a training of the dense network by a profile of the learning rate."""
    problem = Digits()
    train, validation = problem.data()
    plan = kw.Plan(
        learning_rate=profile, batch_size=problem.batch_size, examples=len(train[0]), epochs=epochs
    )
    losses = []
    for seed in range(seeds):
        model = network(problem, plan.learning_rate, seed)
        plan.fit(model, *train, verbose=0)
        losses.append(model.evaluate(*validation, verbose=0, return_dict=True)["loss"])
    # What has diverged is worse than all that has not.
    return float(np.mean(np.nan_to_num(losses, nan=np.inf)))


def run(problem: Problem, seeds: int) -> dict[str, list[Found]]:
    """Return what each finder finds with each seed, all of them in turn."""
    finders: dict[str, Finder] = {
        "kw.find_lr": ours(problem, 5), "kw.find_lr, repeats=1": ours(problem, 1),
        "torch-lr-finder": torch_lr_finder(problem), "Lightning": lightning(problem),
    }  # fmt: skip
    for name in list(finders)[1:]:
        finders[name](0)  # what the first call of a library costs is not a finder's
    found: dict[str, list[Found]] = {name: [] for name in finders}
    for seed in track(range(seeds), "range tests", transient=True):
        for name, finder in finders.items():
            found[name].append(finder(seed))
    return found


def table(title: str, found: dict[str, list[Found]], regrets: dict[str, Callable[[float], float]]) -> Table:
    """Return a row for each suggestion of each finder."""
    shown = Table(title=title, caption=where(), caption_justify="left", title_justify="left")
    heads = [f"regret, {name}" for name in regrets]
    for head in ("finder", "suggestion", "learning rate", "spread", *heads, "updates", "seconds"):
        shown.add_column(head, justify="left" if head in ("finder", "suggestion") else "right")
    for name, runs in found.items():
        seconds, updates = np.median([one.seconds for one in runs]), np.median([one.updates for one in runs])
        for method in runs[0].suggestions:
            rates = np.array([one.suggestions[method] for one in runs])
            middle = float(np.median(rates))
            spread, cells = (
                f"{rates.max() / rates.min():.2f}",
                [f"{of(middle):.2f}" for of in regrets.values()],
            )
            shown.add_row(name, method, f"{middle:.3g}", spread, *cells, f"{updates:.0f}", f"{seconds:.2f}")
    return shown


def compilation(found: dict[str, list[Found]]) -> str:
    """Say how long a repeat takes where nothing is compiled any more."""
    five, one = (np.median([run.seconds for run in found[name]]) for name in list(found)[:2])
    again = (five - one) / 4
    return f"A further repeat of kw.find_lr takes {again:.2f} s: {one - again:.2f} s of the first are compilation."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few seeds and short trainings: shows that it runs"
    )
    arguments = parser.parse_args()
    seeds, trainings, epochs, images = (4, 1, 4, 1) if arguments.quick else (20, 3, 20, 5)

    found = run(Digits(), seeds)
    regrets, bests = {}, []
    for name, shape in SHAPES.items():
        grid = [final_loss(rate * shape, trainings, epochs) for rate in track(GRID, name, transient=True)]
        best = int(np.argmin(grid))
        bests.append(f"{name}: {grid[best]:.4f} at {GRID[best]:.3g}")

        def regret(rate: float, shape: kw.Profile = shape, least: float = grid[best]) -> float:
            return final_loss(rate * shape, trainings, epochs) / least

        regrets[name] = regret
    title = f"Digits, {seeds} seeds; regret over the best of a grid of 8 ({'; '.join(bests)})"
    console().print(table(title, found, regrets))
    console().print(compilation(found))
    if not FOLDER.exists():
        console().print(f"{FOLDER} is not there: the convolutional network was left out.")
        return
    found = run(FashionMnist(), images)
    console().print(table(f"Fashion-MNIST, {images} seeds", found, {}))
    console().print(compilation(found))


if __name__ == "__main__":
    main()
