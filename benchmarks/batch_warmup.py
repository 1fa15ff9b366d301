"""Batch-size warmup against learning-rate warmup, and a growing batch against a decay, on Fashion-MNIST.

    python benchmarks/batch_warmup.py --data /usr/share/datasets/fashion-mnist --results batch_warmup.json

Debian packages the data as dataset-fashion-mnist. 10,000 of the 60,000 training images are held out, and
the peak of a row with several is chosen on them; accuracies are those on the 10,000 test images. Every
finished run is kept in the results file at once, so a benchmark that was ended goes on where it stood.

Every seed runs all rows one after the other, so that a ratio of times compares runs of the same minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.table import Table
from timing import console, where

import kwarmup as kw
from kwarmup.cli.idx import read_folder

HELD_OUT = 10_000
SMALL, LARGE, BASE = 64, 1024, 0.03
PEAKS = (0.12, 0.24, 0.48, 0.96)
PEAK = 0.48  # BASE by the linear rule: 0.03 * 1024 / 64


class Row(NamedTuple):
    """A way of training: how its plan follows from the number of examples and the peak."""

    plan: Callable[[int, float], kw.Plan]
    peaks: tuple[float, ...]


def constant(batch_size: int, profile: kw.Profile, epochs: int = 4) -> Callable[[int, float], kw.Plan]:
    return lambda examples, peak: kw.Plan(
        learning_rate=peak * profile, batch_size=batch_size, examples=examples, epochs=epochs
    )


def ramp(examples: int, peak: float) -> kw.Plan:
    """64, then 256, then 1024, the learning rate with it: the batch warms up, and the rate by the rule."""
    return kw.Plan(
        learning_rate=peak * SMALL / LARGE * (kw.hold(epochs=1) >> kw.linear()),
        batch_size=SMALL * (kw.hold(epochs=0.25) >> kw.hold(4, epochs=0.75) >> kw.hold(16)),
        examples=examples,
        epochs=4,
        scaling=1,
    )


GRADUAL = kw.warmup(epochs=1, start=SMALL / LARGE) >> kw.linear()


def control(examples: int, peak: float) -> kw.Plan:
    """One batch size with as many updates as the ramp, and a learning-rate warmup."""
    wanted = ramp(examples, PEAK).clock.steps
    sizes = range(SMALL, LARGE)
    batch_size = min(sizes, key=lambda size: abs(4 * -(-examples // size) - wanted))
    return constant(batch_size, GRADUAL)(examples, peak)


WARMUPS = {
    "64, linear decay": Row(constant(SMALL, kw.hold(epochs=1) >> kw.linear()), (BASE,)),
    "1024, no warmup": Row(constant(LARGE, kw.hold(epochs=1) >> kw.linear()), (PEAK,)),
    "1024, constant warmup": Row(
        constant(LARGE, kw.hold(SMALL / LARGE, epochs=1) >> kw.linear(start=1)), (PEAK,)
    ),
    "1024, gradual warmup": Row(constant(LARGE, GRADUAL), PEAKS),
    "64 → 256 → 1024": Row(ramp, PEAKS),
    "control: same updates, gradual": Row(control, PEAKS),
}

DROPS = kw.hold(epochs=3) >> kw.hold(0.2, epochs=2) >> kw.hold(0.04, epochs=1)


def grown(examples: int, peak: float) -> kw.Plan:
    return constant(SMALL, DROPS, epochs=6)(examples, peak).grow_batch(max=25 * SMALL)


GROWTH = {
    "decay ×1/5 twice": Row(constant(SMALL, DROPS, epochs=6), (BASE,)),
    "grow ×5 twice": Row(grown, (BASE,)),
}


def convolutions(normalised: bool = False) -> keras.Model:
    """Two convolutions and a dense layer: 13,000 weights; an example costs much of a step."""
    layers: list[Any] = [keras.Input((28, 28, 1))]
    for filters in (16, 32):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same", use_bias=not normalised))
        if normalised:
            layers.append(keras.layers.BatchNormalization())
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])


def dense() -> keras.Model:
    """Two dense layers, 784 - 128 - 10: a step costs as much whatever its batch, up to some hundred."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


class Group(NamedTuple):
    """A network and the ways it is trained."""

    title: str
    build: Callable[[], keras.Model]
    ways: tuple[dict[str, Row], ...]


GROUPS = {
    "plain": Group("convolutions", convolutions, (WARMUPS, GROWTH)),
    "BN": Group("convolutions with BatchNorm", lambda: convolutions(normalised=True), (WARMUPS,)),
    "dense": Group("dense", dense, (WARMUPS, GROWTH)),
}


def run(
    plan: kw.Plan, build: Callable[[], keras.Model], seed: int, data: Any, callbacks: Any = ()
) -> dict[str, float]:
    """Train once; return accuracies, updates and seconds. Callbacks watch the held-out images."""
    (x, y), validation, test = data
    keras.utils.set_random_seed(seed)
    model = build()
    model.compile(
        keras.optimizers.SGD(plan.learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    begun = time.perf_counter()
    with contextlib.suppress(kw.LossNotFinite):  # it diverged, and its accuracy is that of chance
        watched = validation if callbacks else None
        plan.fit(model, x, y, validation_data=watched, seed=seed, callbacks=list(callbacks), verbose=0)
    seconds = time.perf_counter() - begun
    accuracies = [model.evaluate(*part, batch_size=1000, verbose=0)[1] for part in (validation, test)]
    keras.backend.clear_session()
    return {
        "validation": accuracies[0],
        "test": accuracies[1],
        "updates": plan.clock.steps,
        "seconds": seconds,
    }


def load(folder: Path, quick: bool) -> Any:
    (x, y), test = read_folder(folder)
    assert test is not None, f"{folder} holds no test images"
    scaled = [(images[..., None].astype("float32") / 255 - 0.286) / 0.353 for images in (x, test[0])]
    order = np.random.default_rng(0).permutation(len(x))
    train, held = order[HELD_OUT:], order[:HELD_OUT]
    train = train[:5_000] if quick else train
    return (scaled[0][train], y[train]), (scaled[0][held], y[held]), (scaled[1], test[1])


def report(results: dict[str, Any], seeds: int) -> None:
    """Print what is there: a table for each network, and one for each sweep of the peak."""
    out = console()
    for network, group in GROUPS.items():
        shown = Table(title=group.title, title_justify="left")
        for column in ("way", "peak", "test accuracy, each seed", "mean", "updates", "time / that of 64"):
            shown.add_column(column)
        sweep = Table(title="test accuracy against peak, mean (lowest)", title_justify="left")
        sweep.add_column("way")
        for peak in PEAKS:
            sweep.add_column(f"{peak:g}", justify="right")
        for rows in group.ways:
            base = _found(results, network, next(iter(rows)), BASE, seeds)
            for name, row in rows.items():
                found = {peak: _found(results, network, name, peak, seeds) for peak in row.peaks}
                found = {peak: runs for peak, runs in found.items() if runs}
                if not found or not base:
                    continue
                # Chosen on the held-out images, shown on the test images.
                best = max(found, key=lambda peak: np.mean([one["validation"] for one in found[peak]]))
                for peak in dict.fromkeys([best, *([PEAK] if PEAK in found else [])]):
                    runs = found[peak]
                    times = [a["seconds"] / b["seconds"] for a, b in zip(runs, base, strict=False)]
                    shown.add_row(
                        name,
                        f"{peak:g}{' (chosen)' if len(found) > 1 and peak == best else ''}",
                        "  ".join(f"{100 * one['test']:.2f}" for one in runs),
                        f"{100 * np.mean([one['test'] for one in runs]):.2f}",
                        f"{runs[0]['updates']:,}",
                        f"{np.median(times):.2f} ({min(times):.2f} – {max(times):.2f})",
                    )
                if len(found) > 1:
                    cells = [
                        f"{100 * np.mean(tests):.2f} ({100 * min(tests):.2f})"
                        for tests in ([one["test"] for one in found.get(peak, [])] for peak in PEAKS)
                        if tests
                    ]
                    sweep.add_row(name, *cells)
            shown.add_section()
        if shown.row_count:
            out.print(shown)
            out.print(sweep)
    out.print(where())


def _found(results: dict[str, Any], network: str, name: str, peak: float, seeds: int) -> list[Any]:
    keys = [_key(network, name, peak, seed) for seed in range(seeds)]
    return [results[key] for key in keys if key in results]


def _key(network: str, name: str, peak: float, seed: int) -> str:
    return f"{network} | {name} | {peak:g} | {seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--results", type=Path, default=Path("batch_warmup.json"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, for a try")
    parser.add_argument("--report", action="store_true", help="only print what was measured so far")
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    if not options.report:
        warnings.simplefilter("ignore", kw.PlanWarning)
        data = load(options.data, options.quick)
        examples = len(data[0][0])
        todo = [
            (network, name, peak, seed, row.plan)
            for seed in range(options.seeds)
            for network in options.networks
            for rows in GROUPS[network].ways
            for name, row in rows.items()
            for peak in row.peaks
        ]
        for number, (network, name, peak, seed, plan) in enumerate(todo, start=1):
            key = _key(network, name, peak, seed)
            if key not in results:
                results[key] = run(plan(examples, peak), GROUPS[network].build, seed, data)
                options.results.write_text(json.dumps(results, indent=1))
                print(f"{number}/{len(todo)}  {key}  {results[key]}", flush=True)
    report(results, options.seeds)


if __name__ == "__main__":
    main()
