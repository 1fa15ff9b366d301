"""What is said about the batch size and about schedules, measured claim by claim on Fashion-MNIST.

    python benchmarks/claims.py --data /usr/share/datasets/fashion-mnist --results claims.json

Tables: examples a second at each batch size, and memory; the gradient noise scale along a training; test accuracy
at each batch size with the best of several peaks, at the same epochs and at the same updates; the schedules, with
batch normalisation and without; and, over 16 epochs, a decay on a plateau beside one in a line. 10,000 of the
60,000 training images are held out, and every peak is chosen on them; accuracies are those on the 10,000 test
images. Every finished run is kept in the results file at once, so a benchmark that was ended goes on where it
stood.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from batch_warmup import convolutions, dense, load, run
from rich.table import Table
from timing import console, where

import kwarmup as kw

SIZES = (16, 64, 256, 1024)
RATE, REFERENCE, EPOCHS = 0.03, 64, 4
DECAY = kw.warmup(epochs=0.5) >> kw.linear()

SCHEDULES: dict[str, Callable[[int], kw.Profile]] = {
    "constant": lambda steps: kw.hold(),
    "step decay": lambda steps: kw.multistep(fraction=[0.5, 0.75]),
    "warmup, then linear": lambda steps: DECAY,
    "one cycle": lambda steps: kw.one_cycle(steps),
}

LONG = "16 epochs"
RULES = {"constant": kw.hold(), "on a plateau": kw.hold(), "warmup, then linear": DECAY}


def normalised() -> keras.Model:
    """The dense network with BatchNorm."""
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(128, use_bias=False),
        keras.layers.BatchNormalization(),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers, keras.layers.ReLU(), keras.layers.Dense(10)])


NETWORKS = {"dense": dense, "dense, BatchNorm": normalised}


def compiled(build: Callable[[], keras.Model], learning_rate: Any = RATE) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), loss)
    return model


def speed(data: Any) -> dict[str, Any]:
    """Seconds of an update at each batch size, repeat by repeat."""
    (x, y), *_ = data
    found = {}
    for name, build in {"dense": dense, "convolutions": convolutions}.items():
        times = kw.throughput(compiled(build), x, y, batch_sizes=(8, 32, 128, 512, 2048), repeats=9)
        found[name] = {"sizes": times.batch_sizes, "seconds": times.seconds}
    return found


def memory(data: Any) -> dict[str, Any]:
    """Bytes at the peak at each batch size; of few examples, so that the data itself is small."""
    (x, y), *_ = data
    peaks = kw.memory_use(compiled(convolutions), x[:8192], y[:8192], batch_sizes=(8, 512, 2048, 8192))
    return {"sizes": peaks.batch_sizes, "bytes": [peak - peaks.held for peak in peaks.peaks]}


def noise(data: Any) -> dict[str, Any]:
    """The noise scale before the first update and behind each of four epochs."""
    (x, y), *_ = data
    plan = constant_batch(len(x), 64, RATE, DECAY, EPOCHS)
    model = compiled(dense, plan.learning_rate)
    scales = [kw.noise_scale(model, x, y)]

    def behind_an_epoch(epoch: int, logs: Any) -> None:
        scales.append(kw.noise_scale(model, x, y))

    plan.fit(model, x, y, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=behind_an_epoch)])
    return {"scales": [[float(scale.value), *map(float, scale.interval)] for scale in scales]}


def constant_batch(examples: int, size: int, peak: float, profile: kw.Profile, epochs: int) -> kw.Plan:
    return kw.Plan(learning_rate=peak * profile, batch_size=size, examples=examples, epochs=epochs)


def callbacks_of(key: str) -> list[keras.callbacks.Callback]:
    """Two passes without a lower loss of the held-out images, and the rate falls to a fifth."""
    return [kw.PlateauDecay("val_loss", factor=0.2, patience=2)] if " | on a plateau | " in key else []


def trainings(examples: int, seeds: int) -> dict[str, tuple[kw.Plan, Callable[[], keras.Model], int]]:
    """Every training, by the key that it is kept under."""
    todo = {}
    for seed in range(seeds):
        for size in SIZES:
            for factor in (0.5, 1, 2):
                peak = RATE * size / REFERENCE * factor
                plan = constant_batch(examples, size, peak, DECAY, EPOCHS)
                todo[f"epochs | {size} | {peak:g} | {seed}"] = (plan, dense, seed)
        for size in SIZES[2:]:
            for peak in (0.03, 0.06, 0.12):
                plan = constant_batch(examples, size, peak, DECAY, EPOCHS * size // REFERENCE)
                todo[f"updates | {size} | {peak:g} | {seed}"] = (plan, dense, seed)
        for network, build in NETWORKS.items():
            for name, make in SCHEDULES.items():
                for peak in (0.06, 0.12, 0.24):
                    steps = EPOCHS * -(-examples // 128)
                    plan = constant_batch(examples, 128, peak, make(steps), EPOCHS)
                    todo[f"{network} | {name} | {peak:g} | {seed}"] = (plan, build, seed)
        for name, profile in RULES.items():
            for peak in (0.03, 0.06, 0.12):
                plan = constant_batch(examples, 128, peak, profile, 4 * EPOCHS)
                todo[f"{LONG} | {name} | {peak:g} | {seed}"] = (plan, dense, seed)
    return todo


def chosen(
    results: dict[str, Any], group: str, name: str, seeds: int
) -> tuple[str, list[dict[str, float]]] | None:
    """Return the peak that is best on the held-out images, and its runs."""
    runs: dict[str, list[Any]] = {}
    for key, result in results.items():
        if key.startswith(f"{group} | {name} | "):
            runs.setdefault(key.split(" | ")[2], []).append(result)
    runs = {peak: found for peak, found in runs.items() if len(found) >= seeds}
    if not runs:
        return None
    best = max(runs, key=lambda peak: np.mean([one["validation"] for one in runs[peak]]))
    return best, runs[best]


def report(results: dict[str, Any], seeds: int) -> None:
    out = console()
    if "speed" in results:
        columns = ("network", "batch size", "examples a second", "beside batch 8 (lowest – highest)")
        table = Table(*columns, title="speed")
        for name, found in results["speed"].items():
            rates = np.array(found["sizes"]) / np.array(found["seconds"])
            beside = rates / rates[:, :1]  # within a repeat, where both sizes met the same other work
            for i, size in enumerate(found["sizes"]):
                low, middle, high = (of(beside[:, i]) for of in (np.min, np.median, np.max))
                ratio = f"{middle:.1f} ({low:.1f} – {high:.1f})"
                table.add_row(name, f"{size:,}", f"{np.median(rates[:, i]):,.0f}", ratio)
        out.print(table)
    if "memory" in results:
        table = Table("batch size", "MB at the peak, convolutions", title="memory")
        for size, held in zip(*results["memory"].values(), strict=True):
            table.add_row(f"{size:,}", f"{held / 1e6:,.0f}")
        out.print(table)
    if "noise" in results:
        table = Table("epochs", "noise scale", "interval", title="noise scale along a training with batch 64")
        for epoch, (value, low, high) in enumerate(results["noise"]["scales"]):
            table.add_row(f"{epoch}", f"{value:,.0f}", f"{low:,.0f} – {high:,.0f}")
        out.print(table)
    for title, groups in {
        "batch sizes": {"epochs": SIZES, "updates": SIZES[2:]},
        "schedules": {network: SCHEDULES for network in NETWORKS},
        "a plateau": {LONG: RULES},
    }.items():
        table = Table("", "", "peak (chosen)", "test accuracy, each seed", "mean", "updates", title=title)
        for group, names in groups.items():
            for name in names:
                found = chosen(results, group, str(name), seeds)
                if found is not None:
                    tests = [100 * one["test"] for one in found[1]]
                    each = " ".join(f"{test:.2f}" for test in tests)
                    updates = f"{found[1][0]['updates']:,}"
                    table.add_row(group, str(name), found[0], each, f"{np.mean(tests):.1f}", updates)
        out.print(table)
    out.print(where())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--results", type=Path, default=Path("claims.json"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, for a try")
    parser.add_argument("--report", action="store_true", help="only print what was measured so far")
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    if not options.report:
        warnings.simplefilter("ignore", kw.PlanWarning)
        data = load(options.data, options.quick)
        pieces: dict[str, Callable[[], Any]] = {
            "speed": lambda: speed(data), "memory": lambda: memory(data), "noise": lambda: noise(data),
        }  # fmt: skip
        for key, (plan, build, seed) in trainings(len(data[0][0]), options.seeds).items():
            pieces[key] = lambda key=key, plan=plan, build=build, seed=seed: run(
                plan, build, seed, data, callbacks_of(key)
            )
        for number, (key, piece) in enumerate(pieces.items(), start=1):
            if key not in results:
                results[key] = piece()
                options.results.write_text(json.dumps(results, indent=1))
                print(f"{number}/{len(pieces)}  {key}  {results[key]}", flush=True)
    report(results, options.seeds)


if __name__ == "__main__":
    main()
