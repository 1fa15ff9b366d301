"""A study whose figures follow closed forms: what it should find and advise is known."""

import numpy as np

from kwarmup import MemoryUse, NoiseScale, Study, Sweep, Throughput
from kwarmup.studies.result import Noise
from kwarmup.studies.run import Run
from kwarmup.studies.settings import Settings
from kwarmup.sweep import Suggestion

FIXED, PER_EXAMPLE = 1e-3, 1e-5
LEAST, CRITICAL = 40.0, 400.0
SIZES = (16, 32, 64, 128, 256, 512)
EXAMPLES, RUN = 10_000, 100_000


def seconds(size):
    return FIXED + PER_EXAMPLE * size


def run(
    size, seed=0, *, updates=None, validation=0.9, training=0.95, factor=1.0, diverged=False, reaches=True
):
    """A training whose metric rises in a straight line and meets 0.8 at S_min (1 + B_crit / B) updates."""
    updates = (LEAST * (1 + CRITICAL / size) if updates is None else updates) * (1 + 0.02 * seed)
    total = RUN // size
    shares = (0, 0.25, 0.5, 0.75, 1)
    values = [0.1 + (0.7 * share * total / updates if reaches else 0.2 * share) for share in shares]
    checks = [
        (
            round(share * total),
            share * total * seconds(size),
            9.0 if diverged and share else 2.0 - share,
            value,
        )
        for share, value in zip(shares, values, strict=True)
    ]
    return Run(size, seed, 0.1 * size / 32 * factor, checks, training, validation, 1.0)


def noise(value):
    return NoiseScale(value, (0.8 * value, 1.25 * value), 1.0, 1 / value, 1000, 32, True, "narrow enough")


def memory(per_example=5e4, sizes=SIZES):
    peaks = [round(4e8 + 3e6 + per_example * size) for size in sizes]
    return MemoryUse(sizes, peaks, held=400_000_000, memory=1_400_000_000)


def study(runs=None, sizes=SIZES, scales=(400.0, 400.0, 400.0), **changes):
    rates = np.geomspace(1e-5, 10, 61)
    losses = [2.0 - 1.5 / (1 + (0.01 / rates) ** 2) + 9 * rates**2] * 3
    values = {
        "settings": Settings(SIZES, 3, EXAMPLES, RUN, 32, 0.1, 1.0, "accuracy", 1.0, target=0.8),
        "facts": {"beta_2": None},
        "throughput": Throughput(sizes, [[seconds(size) for size in sizes]] * 3, [0.1] * len(sizes)),
        "sweep": Sweep(rates, losses, 32),
        "pilots": ((0.025, 1.2), (0.1, 1.0), (0.4, 3.0)),
        "stable": Suggestion(0.05, 0.04, 0.06, 0.75, "stable"),
        "noise": tuple(
            Noise(place, value, noise(scale))
            for place, value, scale in zip((0, RUN // 4, RUN // 2), (0.1, 0.5, 0.85), scales, strict=True)
        ),
        "runs": tuple(run(size, seed) for size in sizes for seed in range(3))
        if runs is None
        else tuple(runs),
        "seconds": 100.0,
    }
    return Study(**{**values, **changes})
