"""Paired, interleaved timing: the only kind that can tell 3 % on a machine that does other things too.

Every variant runs right beside what it is compared with, now before it and now after it, round after
round: whatever slows the machine down for a while meets both. What counts is the ratio within a pair,
and the interval of its median.
"""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

_UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}


class Pairs(NamedTuple):
    """Seconds of a variant and of its base, pair by pair."""

    variant: np.ndarray
    base: np.ndarray


class Ratio(NamedTuple):
    """A median ratio and the interval of it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f}  [{self.low:.3f}, {self.high:.3f}]"


def measure(
    variants: dict[str, Callable[[], float]],
    base: dict[str, str],
    rounds: int,
    warm_up: int = 2,
    label: str = "rounds",
) -> dict[str, Pairs]:
    """Time each variant that has a base, beside its base, once a round; warm-up rounds are dropped.

    Args:
        variants: functions that do the work once and return the seconds it took.
        base: for each variant that is measured, the one it is compared with.
        rounds: rounds that count.
        warm_up: rounds before them that do not.
        label: what the progress bar says.
    """
    random = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in base}
    for index in track(range(warm_up + rounds), description=label, transient=True):
        # A fixed order would always put the same variant behind the same other one.
        for place in random.permutation(len(base)):
            name = list(base)[place]
            pair = [name, base[name]]
            seconds = {}
            for each in pair if random.integers(2) else reversed(pair):
                gc.collect()
                gc.disable()
                try:
                    seconds[each] = variants[each]()
                finally:
                    gc.enable()
            if index >= warm_up:
                found[name].append((seconds[name], seconds[base[name]]))
    return {name: Pairs(*np.array(pairs).T) for name, pairs in found.items()}


def ratio(variant: Sequence[float], base: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Return the median of the ratios pair by pair, with its bootstrap interval.

    Args:
        variant: seconds of the variant.
        base: seconds of what it is compared with, in the same pairs.
        confidence: of the interval, two-sided.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    Ratio(value=2.0, low=2.0, high=2.0)
    """
    ratios = np.asarray(variant) / np.asarray(base)
    drawn = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def table(title: str, pairs: dict[str, Pairs], base: dict[str, str], unit: str = "µs") -> Table:
    """Return the result as a rich table.

    Args:
        title: what was measured.
        pairs: as `measure` returns them.
        base: for each variant the one that it was compared with.
        unit: of the times shown, "µs", "ms" or "s".
    """
    shown = Table(title=title, caption=where(), caption_justify="left", title_justify="left")
    shown.add_column("variant")
    shown.add_column(unit, justify="right")
    shown.add_column("beside")
    shown.add_column(unit, justify="right")
    shown.add_column("ratio  [95 % interval]", justify="right")
    for name, (variant, beside) in pairs.items():
        medians = [f"{np.median(seconds) / _UNITS[unit]:.1f}" for seconds in (variant, beside)]
        shown.add_row(name, medians[0], base[name], medians[1], str(ratio(variant, beside)))
    return shown


def where() -> str:
    """Return machine, load, date and versions, without which a time means nothing."""
    versions = []
    for package in ("kwarmup", "tensorflow", "keras", "numpy"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"{datetime.date.today()}, {_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{platform.system()}, Python {platform.python_version()}, {', '.join(versions)}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def console() -> Console:
    """Return a console that is wide enough when the output goes to a file."""
    return Console() if Console().is_terminal else Console(width=130)
