"""Paired, interleaved timing: the only kind that can tell 3 % on a machine that does other things too.

Every round runs all variants, each round in another order, so that whatever slows the machine down for a
while meets all of them. What counts is the ratio within a round, and the interval of its median.
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
from rich.table import Table


class Ratio(NamedTuple):
    """A median ratio and the interval of it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f}  [{self.low:.3f}, {self.high:.3f}]"


def interleave(
    variants: dict[str, Callable[[], float]], rounds: int, warm_up: int = 2, label: str = "rounds"
) -> dict[str, np.ndarray]:
    """Run every variant once a round, and return for each its times, warm-up rounds dropped.

    Args:
        variants: functions that do the work once and return the seconds it took.
        rounds: rounds that count.
        warm_up: rounds before them that do not.
        label: what the progress bar says.
    """
    from rich.progress import track

    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    order = np.random.default_rng(0)
    for index in track(range(warm_up + rounds), description=label, transient=True):
        # A fixed rotation would always give a variant the same neighbour before it.
        for place in order.permutation(len(names)):
            gc.collect()
            gc.disable()
            try:
                seconds = variants[names[place]]()
            finally:
                gc.enable()
            if index >= warm_up:
                times[names[place]].append(seconds)
    return {name: np.array(found) for name, found in times.items()}


def ratio(times: Sequence[float], base: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Return the median of the ratios round by round, with its bootstrap interval.

    Args:
        times: seconds in each round.
        base: seconds of what it is compared with, in the same rounds.
        confidence: of the interval, two-sided.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    Ratio(value=2.0, low=2.0, high=2.0)
    """
    ratios = np.asarray(times) / np.asarray(base)
    drawn = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def table(title: str, times: dict[str, np.ndarray], base: dict[str, str], unit: float = 1e-6) -> Table:
    """Return the result as a rich table.

    Args:
        title: what was measured.
        times: seconds, as `interleave` returns them.
        base: for each variant the one that it is compared with.
        unit: seconds in what the table shows; microseconds by default.
    """
    name_of = {1e-6: "µs", 1e-3: "ms", 1.0: "s"}[unit]
    shown = Table(title=title, caption=where(), caption_justify="left", title_justify="left")
    shown.add_column("variant")
    shown.add_column(f"median, {name_of}", justify="right")
    shown.add_column("ratio  [95 % interval]", justify="right")
    shown.add_column("compared with")
    for name, seconds in times.items():
        against = base[name]
        text = "1" if against == name else str(ratio(seconds, times[against]))
        shown.add_row(name, f"{np.median(seconds) / unit:.1f}", text, "" if against == name else against)
    return shown


def where() -> str:
    """Return machine, load, date and versions, without which a time means nothing."""
    packages = ("tensorflow", "keras", "numpy", "kwarmup")
    versions = []
    for package in packages:
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
    return Console() if Console().is_terminal else Console(width=120)
