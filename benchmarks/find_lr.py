"""kwarmup's range test beside torch-lr-finder's, on the same network and data: time, spread and regret.

    pip install torch torch-lr-finder
    python benchmarks/find_lr.py            # some ten minutes
    python benchmarks/find_lr.py --quick    # two minutes, to see that it runs

The network is dense, 64 - 64 - 10, on scikit-learn's digits, trained by SGD with momentum 0.9 at batch 32.
Each finder is run with several seeds, of weights and order both, at its defaults: 100 updates for
torch-lr-finder, five times 100 for `kw.find_lr`, and once 100 in another row, which is the fair one for time.

- Seconds: of a whole call, the compilation of the training step in it.
- Spread: the largest suggestion over the smallest, over the seeds.
- Regret: the validation loss that a training at the suggestion ends with, over the best of an eight-point
  grid; the training is the same Keras one for all, with a warmup and a cosine, and the suggestion is a row's
  median. Target: 1.10 or less.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from timing import console, where

import kwarmup as kw

BATCH_SIZE = 32
GRID = np.geomspace(1e-3, 3.0, 8)
HELD_OUT = 400

Found = tuple[dict[str, float], int, float]


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Digits, with the same examples held out each time."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype("float32"), digits.target[order].astype("int64")
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])


def network(learning_rate: Any, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), loss)
    return model


def ours(repeats: int) -> Callable[[int], Found]:
    """Suggestions by method, updates and seconds of `kw.find_lr`."""

    def run(seed: int) -> Found:
        model, (train, _) = network(0.1, seed), data()
        began = time.perf_counter()
        sweep = kw.find_lr(model, *train, batch_size=BATCH_SIZE, repeats=repeats, seed=seed)
        seconds = time.perf_counter() - began
        found = {
            method: sweep.suggest(method).learning_rate
            for method in ("steepest", "valley", "minimum", "slide")
        }
        return found, sum(map(len, sweep.losses)), seconds

    return run


def theirs(seed: int) -> Found:
    """Suggestion, updates and seconds of torch-lr-finder, as its `plot` suggests."""
    import contextlib
    import io

    import torch
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    torch.manual_seed(seed)
    (x, y), _ = data()
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7, momentum=0.9)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), BATCH_SIZE, shuffle=True
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        began = time.perf_counter()
        finder = LRFinder(model, optimizer, torch.nn.CrossEntropyLoss(), device="cpu")
        finder.range_test(loader, end_lr=10, num_iter=100)
        seconds = time.perf_counter() - began
        _, suggestion = finder.plot(ax=Figure().subplots())
    return {"steepest": float(suggestion)}, len(finder.history["loss"]), seconds


def final_loss(learning_rate: float, seeds: int, epochs: int) -> float:
    """The mean validation loss behind a training at a peak."""
    train, validation = data()
    profile = learning_rate * (kw.warmup(fraction=0.1) >> kw.cosine())
    plan = kw.Plan(learning_rate=profile, batch_size=BATCH_SIZE, examples=len(train[0]), epochs=epochs)
    losses = []
    for seed in range(seeds):
        model = network(plan.learning_rate, seed)
        plan.fit(model, *train, verbose=0)
        losses.append(model.evaluate(*validation, verbose=0, return_dict=True)["loss"])
    # What has diverged is worse than all that has not.
    return float(np.mean(np.nan_to_num(losses, nan=np.inf)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few seeds and short trainings: shows that it runs"
    )
    arguments = parser.parse_args()
    seeds, trainings, epochs = (4, 1, 4) if arguments.quick else (20, 3, 20)

    finders: dict[str, Callable[[int], Found]] = {
        "kw.find_lr": ours(5), "kw.find_lr, repeats=1": ours(1), "torch-lr-finder": theirs,
    }  # fmt: skip
    theirs(0), ours(1)(0)  # what the first call of a library costs is not theirs
    found: dict[str, list[Found]] = {name: [] for name in finders}
    for seed in track(range(seeds), "range tests", transient=True):
        for name, run in finders.items():
            found[name].append(run(seed))
    grid = [final_loss(rate, trainings, epochs) for rate in track(GRID, "grid", transient=True)]

    title = f"Range tests with {seeds} seeds; regret over the best of a grid of 8, {grid[int(np.argmin(grid))]:.4f} at "
    table = Table(title=f"{title}{GRID[int(np.argmin(grid))]:.3g}", caption=where(), caption_justify="left")
    for head in ("finder", "suggestion", "learning rate", "spread", "regret", "updates", "seconds"):
        table.add_column(head, justify="left" if head in ("finder", "suggestion") else "right")
    for name, runs in found.items():
        seconds, updates = (np.median([run[place] for run in runs]) for place in (2, 1))
        for method in runs[0][0]:
            rates = np.array([run[0][method] for run in runs])
            middle = float(np.median(rates))
            regret = final_loss(middle, trainings, epochs) / min(grid)
            numbers = (f"{middle:.3g}", f"{rates.max() / rates.min():.2f}", f"{regret:.2f}")
            table.add_row(name, method, *numbers, f"{updates:.0f}", f"{seconds:.2f}")
    console().print(table)


if __name__ == "__main__":
    main()
