"""A study as lively as real ones: closed forms as in `made_up`, with seeds that scatter and noise that grows."""

import numpy as np

from kwarmup.descent import divergence
from kwarmup.footprint import MemoryUse
from kwarmup.measure.noise_scale import NoiseScale
from kwarmup.peaks import WarmupGain
from kwarmup.speed import Throughput
from kwarmup.studies.result import Noise, Study
from kwarmup.studies.run import Run
from kwarmup.studies.settings import Settings
from kwarmup.sweep import Suggestion, Sweep

SIZES = (16, 32, 64, 128, 256, 512)
MIN_UPDATES, CRITICAL = 60.0, 200.0
FIXED, PER_EXAMPLE = 1.2e-3, 6e-6
TARGET, RUN_EXAMPLES = 0.9, 36_000


def updates(size):
    return MIN_UPDATES * (1 + CRITICAL / size)


def seconds(size):
    return FIXED + PER_EXAMPLE * size


def run(size, seed=0, scatter=0.05, worse=0.0, diverged=False, factor=1.0, examples=RUN_EXAMPLES):
    """A training that comes to the target at the update of the formula, give or take the scatter of its seed."""
    random = np.random.default_rng([size, seed])
    needed = updates(size) * np.exp(scatter * random.normal())
    total = examples // size
    checks = []
    for share in (0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1):
        done = share * total
        # 0.1 at the beginning, the target where it should be, some 0.97 far behind it.
        value = 0.97 - 0.87 * (0.07 / 0.87) ** (done / needed)
        checks.append((round(done), done * seconds(size), 2.3 * (1 - value) + 0.1, value))
    if diverged:
        checks[-1] = (total, total * seconds(size), float("nan"), 0.1)
    end = checks[-1][3] - worse + 0.2 * scatter * random.normal() * 0.1
    return Run(size, seed, 0.1 * size / 32 * factor, checks, end + 0.03 * total / (total + 200), end, 0.6)


def throughput(sizes=SIZES, repeats=3, scatter=0.03, **changes):
    random = np.random.default_rng(0)
    rows = [[seconds(size) * np.exp(scatter * random.normal()) for size in sizes] for _ in range(repeats)]
    return Throughput(sizes, rows, [0.4] * len(sizes), **changes)


def memory(sizes=SIZES):
    return MemoryUse(
        sizes, [round(5e8 + 2e6 + 7e4 * size**1.05) for size in sizes], 500_000_000, 12_000_000_000
    )


def scale(value, width=1.25, converged=True):
    """A noise scale with an interval of so many times to both sides; of an infinite one only a bound is known."""
    interval = (30.0, value) if np.isinf(value) else (value / width, value * width)
    stopped = "the interval is narrow enough" if converged else "all examples were measured"
    return NoiseScale(value, interval, 8.0, 8.0 / value, 12_800, 32, converged, stopped)


def noise():
    places = [
        (0, 0.1, 25.0),
        (1_250, 0.55, 48.0),
        (2_500, 0.7, 75.0),
        (5_000, 0.86, 130.0),
        (10_000, 0.92, 210.0),
    ]
    return tuple(Noise(examples, value, scale(found)) for examples, value, found in places)


def sweep():
    rates = np.geomspace(1e-6, 10, 80)
    rows = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        losses = 2.3 - 1.6 / (1 + (0.1 / rates) ** 1.2) + np.where(rates > 1, 30 * (rates - 1), 0)
        losses += 0.04 * random.normal(size=len(rates))
        end = divergence(losses)
        assert end is not None
        rows.append(losses[: end + 1])
    return Sweep(rates, rows, 32)


def gain():
    return WarmupGain(
        peaks=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
        with_warmup=((0.62, 0.6), (0.5, 0.52), (0.45, 0.44), (0.45, 0.46), (0.9, 0.8), (float("inf"), 2.3)),
        without_warmup=((0.6, 0.6), (0.47, 0.48), (0.48, 0.47), (1.1, 0.9), (2.2, 2.3), (float("inf"),) * 2),
        profiles=("warmup(fraction=0.25) >> linear()", "linear()"), steps=200, batch_size=32,
    )  # fmt: skip


def settings(**changes):
    values = {
        "batch_sizes": SIZES, "seeds": 3, "examples": 4_000, "run_examples": RUN_EXAMPLES, "reference": 32,
        "peak": 0.1, "scaling": 1.0, "monitor": "accuracy", "sign": 1.0, "target": TARGET,
    }  # fmt: skip
    return Settings(**{**values, **changes})


FACTS = {
    "date": "2026-11-25", "machine": "x86_64, 2 cores, Linux", "backend": "tensorflow",
    "versions": {"kwarmup": "0.1.0", "keras": "3.15.1"}, "model": "small_cnn", "weights": 12_810,
    "optimizer": "SGD", "examples": 4_000, "validation_examples": 1_000, "held_out": True, "beta_2": None,
}  # fmt: skip


def study(sizes=SIZES, seeds=3, scatter=0.05, **changes):
    """A whole study, with anything in it changed or taken away.

    One of three trainings at 256 diverged, and 512 made too few updates to come to the target.
    """
    runs = [
        run(size, seed, scatter, diverged=(size, seed) == (256, 2)) for size in sizes for seed in range(seeds)
    ]
    values = {
        "settings": settings(batch_sizes=sizes, seeds=seeds), "facts": FACTS, "throughput": throughput(sizes),
        "memory": memory(sizes), "sweep": sweep(), "stable": Suggestion(0.31, 0.28, 0.36, 0.75, "stable"),
        "pilots": ((0.025, 0.61), (0.1, 0.42), (0.4, 0.55)), "noise": noise(), "runs": runs,
        "gain": None, "seconds": 171.3,
    }  # fmt: skip
    return Study(**{**values, **changes})
