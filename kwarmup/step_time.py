"""The seconds of an update as a straight line over the batch size: what is fixed, and what each example costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from kwarmup.errors import Code, value_error
from kwarmup.noise import quantile

#: Draws of the bootstrap.
_DRAWS = 1_000
#: Repeats of which the bootstrap holds the truth: it hardly goes beyond the least and the most of them, and the median
#: of n numbers is beyond all of them in a part 2^(1 - n) of cases.
_ENOUGH = 5
#: How much wider than a mean the median of so few scatters.
_OF_MEDIAN = 1.2


@final
@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of an update: `fixed + per_example * batch_size`.

    Args:
        fixed: seconds whatever the batch size: starting the work, updating the weights.
        per_example: seconds for each example.
        fixed_interval: 95 % interval of the first.
        per_example_interval: 95 % interval of the second.
        error: the largest deviation of a measured batch size from the line, relative to it. Real machines bend:
            caches overflow, and large matrices are multiplied more efficiently.

    Paper: Qiao et al. 2021, "Pollux", section 3.2.

    Example:

    >>> from kwarmup import StepTime
    >>> time = StepTime(0.001, 0.00001, (0.001, 0.001), (0.00001, 0.00001), 0.0)
    >>> round(time.seconds(100), 6), round(time.examples_per_second(100))
    (0.002, 50000)
    """

    fixed: float
    per_example: float
    fixed_interval: tuple[float, float]
    per_example_interval: tuple[float, float]
    error: float

    def seconds(self, batch_size: float) -> float:
        """Return the seconds of an update.

        Args:
            batch_size: examples per update.
        """
        return self.fixed + self.per_example * batch_size

    def examples_per_second(self, batch_size: float) -> float:
        """Return how many examples a second are trained with.

        Args:
            batch_size: examples per update.
        """
        return batch_size / self.seconds(batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StepTime:
        """Return what `to_dict` wrote."""
        intervals = {name: tuple(data[name]) for name in ("fixed_interval", "per_example_interval")}
        return cls(**{**data, **intervals})


def fit_step_time(batch_sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> StepTime:
    """Fit the line to measured seconds of an update, by relative least squares to the medians over the repeats.

    Every batch size counts as much as any other, however long its updates take. Neither part is negative. The
    intervals are a bootstrap over the repeats, which must have been interleaved: a repeat is one time of the
    machine. Of two to four repeats, whose bootstrap is too narrow, they are Student's over the lines of each; a
    single one has no width.

    Args:
        batch_sizes: two or more different ones.
        seconds: a row for each repeat, with the seconds of an update at each batch size.

    Raises:
        ValueError: if there are fewer than two batch sizes, or a time that is not above 0.

    >>> found = fit_step_time([10, 100, 1000], [[0.0011, 0.002, 0.011]] * 3)
    >>> round(found.fixed, 6), round(found.per_example, 8)
    (0.001, 1e-05)
    """
    sizes, rows = np.asarray(batch_sizes, "float64"), np.asarray(seconds, "float64")
    if len(set(batch_sizes)) < 2 or rows.ndim != 2 or rows.shape[1] != len(sizes):
        raise value_error(
            "batch_sizes", list(batch_sizes), "two or more different batch sizes, with a time for each in each row",
            "throughput(model, x, y, batch_sizes=[16, 64, 256])",
        )  # fmt: skip
    if not (rows > 0).all() or not np.isfinite(rows).all():
        raise value_error(
            "seconds", Code(str(rows.tolist())), "times above 0", "fit_step_time([16, 64], [[0.001, 0.002]])"
        )
    fixed, per_example = _line(sizes, np.median(rows, axis=0))
    low, high = (
        _bootstrap(sizes, rows) if len(rows) >= _ENOUGH else _student(sizes, rows, (fixed, per_example))
    )
    line = fixed + per_example * sizes
    error = float(np.max(np.abs(np.median(rows, axis=0) / line - 1)))
    return StepTime(
        fixed, per_example,
        (min(float(low[0]), fixed), max(float(high[0]), fixed)),
        (min(float(low[1]), per_example), max(float(high[1]), per_example)),
        error,
    )  # fmt: skip


def _bootstrap(sizes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(0)
    drawn = rows[random.integers(len(rows), size=(_DRAWS, len(rows)))]
    found = np.array([_line(sizes, medians) for medians in np.median(drawn, axis=1)])
    return np.quantile(found, [0.025, 0.975], axis=0)


def _student(sizes: np.ndarray, rows: np.ndarray, line: tuple[float, float]) -> np.ndarray:
    if len(rows) == 1:
        return np.array([line, line])
    lines = np.array([_line(sizes, row) for row in rows])
    width = quantile(len(rows) - 1) * _OF_MEDIAN * lines.std(axis=0, ddof=1) / np.sqrt(len(rows))
    return np.maximum(0, [line - width, line + width])


def _line(sizes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """The parts of the line, both 0 or more, whose relative errors are least in their squares."""
    rows = np.stack([1 / seconds, sizes / seconds], axis=1)
    (fixed, per_example), *_ = np.linalg.lstsq(rows, np.ones(len(sizes)), rcond=None)
    if fixed < 0:
        return 0.0, float(rows[:, 1].sum() / (rows[:, 1] ** 2).sum())
    if per_example < 0:
        return float(rows[:, 0].sum() / (rows[:, 0] ** 2).sum()), 0.0
    return float(fixed), float(per_example)
