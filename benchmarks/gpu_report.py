"""The tables of `gpu.py`: what is in its results file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.table import Table
from timing import console, where

import kwarmup as kw


class Report:
    """Prints a table for each part, of what is there.

    Args:
        found: the results, by name.
        network: the name of the network.
        target: the accuracy that trainings went for.
    """

    def __init__(self, found: dict[str, Any], network: str, target: float):
        self.found, self.network, self.target = found, network, target
        self._out = console()

    def print(self) -> None:
        self._schedule()
        self._noise()
        self._range()
        self._speed()
        self._sweep()
        self._rows()
        self._out.print(self.found.get("machine", "Nothing was measured."))
        self._out.print(where())

    def _named(self, prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): v for name, v in self.found.items() if name.startswith(prefix)}

    def _show(self, title: str, columns: tuple[str, ...], lines: list[tuple[Any, ...]]) -> None:
        if not lines:
            return
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for line in lines:
            table.add_row(*(value if isinstance(value, str) else f"{value:,.4g}" for value in line))
        self._out.print(table)

    def _schedule(self) -> None:
        lines: list[tuple[Any, ...]] = []
        for name, values in self._named("schedule | ").items():
            for what, value in values.items():
                lines.append((f"{name}: {what}", value if isinstance(value, float | int) else str(value)))
        self._show("schedule", ("what", ""), lines)

    def _noise(self) -> None:
        lines: list[tuple[Any, ...]] = []
        for micro_batch in ("1", "32"):
            runs = list(self._named(f"noise | {micro_batch} | ").values())
            if not runs:
                continue
            errors = [abs(run["value"] / run["exact"] - 1) for run in runs]
            inside = sum(run["interval"][0] <= run["exact"] <= run["interval"][1] for run in runs)
            means = [
                float(np.mean([run[name] for run in runs])) for name in ("exact", "closed form", "examples")
            ]
            seconds = float(np.median([run["seconds"] for run in runs]))
            found = f"{inside} of {len(runs)}"
            lines.append((micro_batch, float(np.median(errors)), max(errors), found, *means, seconds))
        columns = (
            "micro-batch",
            "median error",
            "largest",
            "truth in interval",
            "exact, mean",
            "closed form",
        )
        title = "noise_scale on least squares, precision 0.1; errors relative to the exact value of the data"
        self._show(title, (*columns, "examples", "seconds"), lines)

    def _range(self) -> None:
        self._show(
            "find_lr on quadratics",
            ("seed", "diverges at", "2 / lambda_max", "ratio", "grid step"),
            [
                (seed, at := run["diverges at"], bound := run["2 / lambda_max"], at / bound, run["grid step"])
                for seed, run in self._named("range | quadratic | ").items()
            ],
        )
        rows = [(name, *run.values()) for name, run in self._named(f"range | {self.network} | ").items()]
        self._show("find_lr on the network", ("call", "learning rate", "low", "high", "seconds"), rows)

    def _speed(self) -> None:
        if "speed | throughput" in self.found:
            speeds = kw.Throughput.from_dict(self.found["speed | throughput"])
            lines = []
            for size, compiling in zip(speeds.batch_sizes, speeds.compile_seconds, strict=True):
                each = speeds.examples_per_second(size)
                lines.append((f"{size:,}", *each, 1e3 * size / each.median, compiling))
            columns = ("batch size", "examples a second", "slowest", "fastest", "ms an update")
            self._show("throughput, median of 5", (*columns, "seconds to compile"), lines)
            too_large = [f"{size:,} did not fit" for size in speeds.out_of_memory]
            print(f"knee {speeds.knee:,}", *too_large, speeds.step_time, sep="; ")
        if "speed | largest batch" in self.found:
            largest = kw.MaxBatchSize.from_dict(self.found["speed | largest batch"])
            lines = [
                (f"{size:,}", "yes" if fits else "no", peak / 2**20 if peak else "–")
                for size, fits, peak in largest.trials
            ]
            self._show(f"the largest batch: {largest!r}", ("tried", "fits", "MiB at the peak"), lines)

    def _sweep(self) -> None:
        by_size: dict[int, dict[float, list[Any]]] = {}
        for name, run in self._named("sweep | ").items():
            size, rate, _ = name.split(" | ")
            by_size.setdefault(int(size), {}).setdefault(float(rate), []).append(run)
        lines, reached = [], {}
        for size, by_rate in sorted(by_size.items()):
            most = max(map(len, by_rate.values()))  # a rate whose seeds are not all there is no rival yet
            updates = {
                rate: [run["updates"] or math.inf for run in runs]
                for rate, runs in sorted(by_rate.items())
                if len(runs) == most
            }
            # Of rates with which half of the seeds did not come there, the one with which most did.
            best = min(updates, key=lambda rate: (np.median(updates[rate]), updates[rate].count(math.inf)))
            reached[size], runs = updates[best], by_rate[best]
            met = [run for run in runs if run["updates"]]
            cells = [_spread([run[what] for run in met]) for what in ("updates", "examples", "seconds")]
            lines.append((f"{size:,}", best, f"{len(met)} of {len(runs)}", *cells, runs[0]["first"]))
        columns = ("batch size", "rate", "reached by", "updates", "examples", "seconds", "first two updates")
        title = f"{self.network}, to {self.target:.0%}, at the best rate: median (least – most) of the seeds"
        self._show(title, columns, lines)
        if sum(math.isfinite(np.median(each)) for each in reached.values()) >= 3:
            print("The trade-off:", kw.fit_tradeoff(list(reached), list(reached.values())))

    def _rows(self) -> None:
        ways: dict[str, list[Any]] = {}
        for name, run in self._named("rows | ").items():
            ways.setdefault(name.rsplit(" | ", 1)[0], []).append(run)
        self._show(
            "accuracy on held-out images, each seed; seconds with what is compiled on the way",
            ("way", "accuracy", "updates", "seconds"),
            [
                (
                    way,
                    "  ".join(f"{100 * run['accuracy']:.2f}" for run in runs),
                    f"{runs[0]['updates']:,}",
                    "  ".join(f"{run['seconds']:.1f}" for run in runs),
                )
                for way, runs in ways.items()
            ],
        )


def _spread(values: list[float]) -> str:
    return f"{np.median(values):,.4g} ({min(values):,.4g} – {max(values):,.4g})" if values else "–"
