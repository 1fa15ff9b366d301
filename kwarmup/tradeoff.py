"""How many updates a target takes at each batch size: two numbers, fitted to what short trainings needed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, final

import numpy as np

from kwarmup.errors import Code, type_error, value_error
from kwarmup.noise import quantile

Interval = tuple[float, float]

#: The critical batch sizes that are tried: so far, in natural logarithms, beyond the smallest and largest size.
#: There, S(B) cannot be told from S_min or from E_min / B.
_BEYOND, _STEP, _ZOOMS = 14.0, 0.01, 3
#: Two-sided 95 % quantiles of Student's t where the expansion in `noise.quantile` is not yet exact.
_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
#: From this ratio of the two variances on, the medians lie farther off the curve than their seeds explain: about
#: the 95 % quantile of the F distribution for the degrees of freedom of a small study.
_OFF = 3.0

_WRITE = "fit_tradeoff([16, 64, 256], [[6_500, 6_400], [1_700, 1_650], [470, 480]])"


@final
@dataclass(frozen=True)
class Tradeoff:
    """Updates S against examples E = S · B to a target: (S / S_min - 1) (E / E_min - 1) = 1.

    Small batches are limited by examples: twice the batch, half the updates. Large ones are limited by updates:
    more examples buy nothing. The bend between the two is the critical batch size E_min / S_min; there a
    training takes twice the least number of both. So S(B) = S_min (1 + B_crit / B).

    Args:
        min_updates: S_min, that no batch size goes below; 0 where no bend shows towards large batches.
        min_examples: E_min, that no batch size goes below; 0 where no bend shows towards small batches.
        min_updates_interval: 95 % interval of S_min.
        min_examples_interval: that of E_min.
        critical_interval: that of the critical batch size; its ends are 0 and infinite where the sizes
            tried do not say.
        error: how far the medians lie from the curve: the root mean square of their logarithms.
        batch_sizes: the sizes tried, rising.
        measured: for each of them the updates of each seed; infinite where the target was not reached.

    Paper: McCandlish et al. 2018, section 2.3.

    Example:

    >>> from kwarmup import fit_tradeoff
    >>> tradeoff = fit_tradeoff([8, 32, 128, 512], [[1350.0], [412.5], [178.125], [119.53125]])
    >>> print(tradeoff)
    100 updates or more, and 10,000 examples or more; critical batch size 100 [100, 100].
    >>> round(tradeoff.updates(50)), round(tradeoff.examples(50))
    (300, 15000)
    >>> tradeoff.bend
    'shown'
    """

    min_updates: float
    min_examples: float
    min_updates_interval: Interval
    min_examples_interval: Interval
    critical_interval: Interval
    error: float
    batch_sizes: tuple[int, ...]
    measured: tuple[tuple[float, ...], ...]

    @property
    def critical_batch_size(self) -> float:
        """E_min / S_min: 0 or infinite where the sizes tried show no bend."""
        return self.min_examples / self.min_updates if self.min_updates else math.inf

    @property
    def medians(self) -> tuple[float, ...]:
        """The median of the updates at each size: infinite where half the seeds did not reach the target."""
        return tuple(float(np.median(seeds)) for seeds in self.measured)

    @property
    def unreached(self) -> tuple[int, ...]:
        """The sizes at which half the seeds or more did not reach the target; the fit leaves them out."""
        pairs = zip(self.batch_sizes, self.medians, strict=True)
        return tuple(size for size, median in pairs if math.isinf(median))

    @property
    def bend(self) -> Literal["shown", "above", "below", "nowhere"]:
        """Whether the sizes tried show the bend.

        `"shown"`: on both sides. `"above"`: all of them may still be in perfect scaling, and the critical
        batch size has no upper bound. `"below"`: all of them may be saturated already, and it has no lower
        bound. `"nowhere"`: neither bound is known.
        """
        low, high = self.critical_interval
        if low > 0:
            return "shown" if math.isfinite(high) else "above"
        return "below" if math.isfinite(high) else "nowhere"

    def updates(self, batch_size: Any) -> Any:
        """Return S(B), the updates to the target at a batch size, or at each of an array."""
        return self.min_updates + self.min_examples / batch_size

    def examples(self, batch_size: Any) -> Any:
        """Return E(B), the examples to the target at a batch size, or at each of an array."""
        return self.min_examples + self.min_updates * batch_size

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinity: it is written as a word."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Tradeoff:
        """Return the trade-off that `to_dict` wrote.

        Raises:
            ValueError: if it is not such data.
        """
        try:
            data = {name: _read(value) for name, value in data.items()}
            if set(data) != {field.name for field in fields(cls)}:
                raise ValueError
            sizes, measured = map(int, data.pop("batch_sizes")), data.pop("measured")
            return cls(**data, batch_sizes=tuple(sizes), measured=measured)
        except (AttributeError, TypeError, ValueError):
            shown = Code(repr(data)[:200])
            raise value_error(
                "data", shown, "the data of a trade-off", "Tradeoff.from_dict(tradeoff.to_dict())"
            ) from None

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        low, high = self.critical_interval
        said = {
            "shown": "",
            "above": " No size tried is large enough to show where more examples stop paying.",
            "below": " No size tried is small enough to show where fewer updates cost no more examples.",
            "nowhere": " The sizes tried do not show where it is.",
        }[self.bend]
        if self.unreached:
            said += f" Not reached at {', '.join(map(str, self.unreached))}."
        return (
            f"{_short(self.min_updates)} updates or more, and {_short(self.min_examples)} examples or more; "
            f"critical batch size {_short(self.critical_batch_size)} [{_short(low)}, {_short(high)}].{said}"
        )


def fit_tradeoff(
    batch_sizes: Sequence[int] | np.ndarray, updates: Sequence[Sequence[float | None]]
) -> Tradeoff:
    """Fit S(B) = S_min (1 + B_crit / B) to the updates that trainings needed to reach a target.

    Least squares on the logarithms of the medians over the seeds. A seed that did not reach the target took
    longer than the others: the median knows that without a number for it. Where half of a size's seeds did
    not, its median is unknown; it is left out and named in `unreached`.

    The intervals hold all values whose best curve is not clearly farther from the medians. What is clear follows
    from the scatter of the seeds around their medians and of the medians around the curve; where the second
    is larger than the first explains, as the curve is only a model, it counts alone.

    Args:
        batch_sizes: examples per update, in any order.
        updates: for each size, those of each seed; infinite or `None` where the target was not reached.

    Returns:
        A `Tradeoff`; it says where the sizes tried do not show the bend.

    Raises:
        TypeError: if a number is of another type.
        ValueError: if the two differ in length, a size comes twice, a number is out of range, or fewer than
            three sizes reached the target.

    Papers: McCandlish et al. 2018, appendix A; Shallue et al. 2019.

    Example:

    >>> steps = [[6_481], [1_696], [470], [196], [116]]  # a small network on Fashion-MNIST, to 86 %
    >>> tradeoff = fit_tradeoff([16, 64, 256, 1024, 4096], steps)
    >>> round(tradeoff.critical_batch_size, -2), round(tradeoff.min_updates), round(tradeoff.error, 2)
    (1100.0, 92, 0.02)
    """
    sizes, measured = _checked(batch_sizes, updates)
    medians = np.array([np.median(seeds) for seeds in measured])
    reached = np.isfinite(medians)
    if reached.sum() < 3:
        raise value_error(
            "updates",
            Code(f"the target, reached at {reached.sum()} of {len(sizes)} sizes by more than half the seeds"),
            "it to be reached at three sizes or more",
            "a target that is easier to reach, or more updates",
        )
    found = [seeds for seeds, is_there in zip(measured, reached, strict=True) if is_there]
    fit = _Fit(np.log(sizes[reached]), np.log(medians[reached]), _variances(found))
    best, error = fit.best()
    allowed = fit.allowed(_scatter(found, fit))
    return Tradeoff(
        min_updates=best.min_updates,
        min_examples=best.min_examples,
        min_updates_interval=allowed.min_updates,
        min_examples_interval=allowed.min_examples,
        critical_interval=allowed.critical,
        error=error,
        batch_sizes=tuple(int(size) for size in sizes),
        measured=tuple(tuple(map(float, seeds)) for seeds in measured),
    )


class _Best(NamedTuple):
    min_updates: float
    min_examples: float


class _Allowed(NamedTuple):
    min_updates: Interval
    min_examples: Interval
    critical: Interval


class _Fit:
    """Curves of all critical batch sizes through the medians, each at its best height.

    Args:
        sizes: logarithms of the batch sizes.
        medians: logarithms of the medians of the updates.
        variances: of the medians, relative to that of a seed.
    """

    def __init__(self, sizes: np.ndarray, medians: np.ndarray, variances: np.ndarray):
        self.sizes, self.medians, self.weights = sizes, medians, 1 / variances
        begin, end = sizes.min() - _BEYOND, sizes.max() + _BEYOND
        self.places = np.arange(begin, end, _STEP)
        self.heights, self.squares = self._curves(self.places)
        lowest = int(np.argmin(self.squares))
        self.ended = (lowest == 0) - (lowest == len(self.places) - 1)
        place, width = self.places[lowest], _STEP
        for _ in range(_ZOOMS if not self.ended else 0):
            near = np.linspace(place - width, place + width, 201)
            place, width = near[np.argmin(self._curves(near)[1])], width / 100
        heights, squares = self._curves(np.array([place]))
        self.place, self.height, self.least = float(place), float(heights[0]), float(squares[0])

    def _shape(self, places: np.ndarray) -> np.ndarray:
        """log(1 + B_crit / B) for each critical batch size, a row each."""
        return np.logaddexp(0, places[:, np.newaxis] - self.sizes)

    def _curves(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best log S_min for each critical batch size, and the weighted sum of squares that it leaves."""
        left = self.medians - self._shape(places)
        heights = left @ self.weights / self.weights.sum()
        return heights, (left - heights[:, np.newaxis]) ** 2 @ self.weights

    @property
    def freedom(self) -> int:
        """What is left of the medians behind two numbers."""
        return len(self.sizes) - 2

    def best(self) -> tuple[_Best, float]:
        """Return the best S_min and E_min, and the root mean square of what the curve leaves."""
        left = self.medians - self._shape(np.array([self.place]))[0] - self.height
        # At an end of what was tried the curve is a straight line, and one of the two is as good as nothing.
        return _Best(
            0.0 if self.ended < 0 else math.exp(self.height),
            0.0 if self.ended > 0 else math.exp(self.height + self.place),
        ), float(np.sqrt(np.mean(left**2)))

    def allowed(self, scatter: tuple[float, float]) -> _Allowed:
        """Return the intervals that a variance of a seed and its degrees of freedom allow."""
        variance, freedom = scatter
        most = self.least + variance * _quantile(freedom) ** 2
        # A rounding error must not shut out the best itself.
        room = np.append(most - self.squares, max(0.0, most - self.least))
        places, heights = np.append(self.places, self.place), np.append(self.heights, self.height)
        inside = room >= 0
        places, heights = places[inside], heights[inside]
        around = np.sqrt(room[inside] / self.weights.sum())
        below, above = inside[0], inside[-2]
        low, high = heights - around, heights + around
        critical = float(np.exp(places.min())), float(np.exp(places.max()))
        updates = float(np.exp(low.min())), float(np.exp(high.max()))
        examples = float(np.exp((low + places).min())), float(np.exp((high + places).max()))
        return _Allowed(
            (0.0 if above else updates[0], updates[1]),
            (0.0 if below else examples[0], examples[1]),
            (0.0 if below else critical[0], math.inf if above else critical[1]),
        )


def _scatter(found: list[np.ndarray], fit: _Fit) -> tuple[float, float]:
    """Return the variance of a seed's logarithm, and its degrees of freedom."""
    of_medians = fit.least / fit.freedom
    deviations = [
        # The median of an odd number is one of them, and says nothing; the factor is that of a few.
        np.sort(np.abs(np.log(seeds) - np.log(np.median(seeds))))[len(seeds) % 2 :]
        * math.sqrt(len(seeds) / (len(seeds) - 1))
        for seeds in found
        if len(seeds) > 1
    ]
    if not deviations:
        return of_medians, fit.freedom
    # By their median, so that a seed that went wrong does not widen everything; that costs two thirds.
    of_seeds = (float(np.median(np.concatenate(deviations))) / 0.6745) ** 2
    freedom = 0.37 * sum(len(seeds) - 1 for seeds in found)
    # Where a third of the seeds did not reach the target, their scatter may be infinite, and says nothing.
    if math.isinf(of_seeds) or of_medians > _OFF * of_seeds:
        return of_medians, fit.freedom
    together = freedom + fit.freedom
    return (freedom * of_seeds + fit.freedom * of_medians) / together, together


def _variances(found: list[np.ndarray]) -> np.ndarray:
    """The variance of the median of n normal numbers over that of one: 1 for one, pi / 2n for many."""
    counts = np.array([len(seeds) for seeds in found])
    return 1 / (1 + (counts - 1) * 2 / math.pi)


def _quantile(freedom: float) -> float:
    whole = int(freedom)
    return _QUANTILES.get(whole) or quantile(freedom)


def _checked(
    batch_sizes: Sequence[int] | np.ndarray, updates: Sequence[Sequence[float | None]]
) -> tuple[np.ndarray, list[np.ndarray]]:
    if len(batch_sizes) != len(updates):
        received = Code(f"{len(batch_sizes)} batch sizes, and updates of {len(updates)}")
        raise value_error("updates", received, "the updates of each batch size", _WRITE)
    for size in batch_sizes:
        if isinstance(size, bool) or not isinstance(size, int | np.integer):
            raise type_error("batch_sizes", size, "whole numbers", _WRITE)
        if size < 1:
            raise value_error("batch_sizes", size, "numbers of examples, 1 or more", _WRITE)
    if len(set(batch_sizes)) != len(batch_sizes):
        received = Code(repr([int(size) for size in batch_sizes]))
        raise value_error("batch_sizes", received, "each size once, with all its seeds", _WRITE)
    measured = []
    for size, seeds in sorted(zip(batch_sizes, updates, strict=True), key=lambda pair: pair[0]):
        try:
            row = np.array([math.inf if one is None else one for one in seeds], "float64")
        except (TypeError, ValueError):
            raise type_error(
                "updates", seeds, f"numbers, one for each seed of batch size {size}", _WRITE
            ) from None
        if not row.size or not (row > 0).all():
            received = Code(f"{seeds!r} for batch size {size}")
            raise value_error("updates", received, "one number above 0 or more for each size", _WRITE)
        measured.append(row)
    return np.array(sorted(batch_sizes), "float64"), measured


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value if math.isfinite(value) else repr(value)


def _read(value: Any) -> Any:
    return tuple(map(_read, value)) if isinstance(value, list | tuple) else float(value)
