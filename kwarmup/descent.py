"""Where a loss falls while the learning rate rises: a smooth curve through noisy losses, and places on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

#: Losses whose median counts: one batch that is hard does not end a sweep.
_MEDIAN = 5
#: Losses at the beginning, where the learning rate does nothing yet, that say what the untrained model has.
_START = 10
#: Half of what the smooth curve looks at around a place: decades of the learning rate, or part of the range.
_DECADES, _PART = 1.5, 3 / 16
#: Width of the interval that `slide` moves, in decades: 15 of 100 steps from 1e-7 to 10, as fastai has it.
_SLIDE = 1.2


def divergence(losses: Sequence[float] | np.ndarray) -> int | None:
    """Return the number of the first loss that says that training diverges; `None` if none does.

    That is one which is no finite number, or where the median of the last five is more than four times the
    smallest such median so far, and above what it was at the beginning.

    >>> divergence([2.0, 2.1, 2.0, 1.9, 2.0, 1.0, 0.5, 0.5, 0.5, 9.0, 0.5, 9.0, 9.0, 9.0])
    12
    >>> divergence([2.0, float("nan")])
    1
    """
    found = np.asarray(losses, "float64")
    broken = np.flatnonzero(~np.isfinite(found))
    finite = found[: broken[0]] if broken.size else found
    if len(finite) >= _MEDIAN:
        medians = np.median(np.lib.stride_tricks.sliding_window_view(finite, _MEDIAN), axis=1)
        best = np.minimum.accumulate(medians)
        over = np.flatnonzero(medians > np.maximum(best + 3 * np.abs(best), medians[0]))
        if over.size:
            return int(over[0]) + _MEDIAN - 1
    return int(broken[0]) if broken.size else None


class NoDescent(Exception):
    """The curve has no place to find; the argument says which end of the sweep is at fault, `"data"`, or nothing."""


class Descent:
    """The smooth curve through the losses of one sweep, and the places on it.

    Losses above the untrained model's are taken as that: how fast a training explodes says nothing about
    where it is good. The curve is a local regression (Cleveland 1979) on the logarithm of the learning
    rate, by parabolas with tricube weights: unlike a running average, it does not lag behind.

    Args:
        learning_rates: in rising order; that of update i stands beside the loss of batch i, which was
            computed before the update.
        losses: as many, or fewer where the sweep was ended.

    Raises:
        NoDescent: if the loss does not fall by twice its noise, or is lowest where the sweep ends.
    """

    def __init__(self, learning_rates: np.ndarray, losses: np.ndarray):
        ended = divergence(losses)
        self.diverged = ended is not None
        losses = losses if ended is None else losses[: ended + 1]
        self.losses = losses[np.isfinite(losses)]
        if len(losses) and not np.isfinite(losses[0]):
            raise NoDescent("data")  # which no update came before
        if len(self.losses) < 2 * _START:
            raise NoDescent("low" if self.diverged else "")
        places = np.log10(learning_rates)
        self.places = places[: len(self.losses)]
        self.start = float(np.median(self.losses[:_START]))
        clipped = np.minimum(self.losses, self.start)
        self.values, self.slopes = _smooth(self.places, clipped, places[-1] - places[0])
        # From neighbour to neighbour, since the clipped losses have less of it. And float32 has its own.
        noise = 1.4826 / 2**0.5 * np.median(np.abs(np.diff(self.losses)))
        if self.fall <= max(2 * noise, np.finfo("float32").eps * abs(self.start)):
            raise NoDescent("")
        if not self.diverged and self.lowest == len(self.values) - 1:
            raise NoDescent("high")

    @cached_property
    def lowest(self) -> int:
        """Where the curve is lowest."""
        return int(np.argmin(self.values))

    @cached_property
    def top(self) -> float:
        """The level from which the curve falls: its median over the first third of the decades to the lowest place."""
        third = self.places[0] + (self.places[self.lowest] - self.places[0]) / 3
        return float(np.median(self.values[self.places <= third]))

    @property
    def fall(self) -> float:
        """How far the curve falls."""
        return self.top - float(self.values[self.lowest])

    def between(self, first: float, last: float) -> tuple[int, int]:
        """Return where the parts `first` and `last` of the fall are over, in one stretch without a way back up."""
        end = int(np.argmax(self.values <= self.top - last * self.fall))
        above = np.flatnonzero(self.values[: end + 1] >= self.top - first * self.fall)
        return (int(above[-1]) if above.size else 0), end

    def steepest(self) -> float:
        first, last = self.between(0.1, 0.9)
        return float(self.places[first + np.argmin(self.slopes[first : last + 1])])

    def valley(self) -> float:
        first, last = self.between(0.25, 0.75)
        return float(self.places[first] + self.places[last]) / 2

    def minimum(self) -> float:
        return float(self.places[self.lowest]) - 1

    def slide(self) -> float:
        for right in range(self.lowest, 0, -1):
            left = int(np.searchsorted(self.places, self.places[right] - _SLIDE))
            if left == 0 or self.slopes[right] <= self.slopes[left]:
                return float(self.places[left])
        return float(self.places[0])

    def unstable(self) -> float:
        """Return the place from which the loss only rises, up to where it diverged.

        Raises:
            NoDescent: if it did not diverge.
        """
        if not self.diverged:
            raise NoDescent("high")
        padded = np.pad(self.losses, _MEDIAN // 2, mode="edge")
        medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN), axis=1)
        falls = np.flatnonzero(np.diff(medians) <= 0)
        turn = int(falls[-1]) + 1 if falls.size else 0
        # The median of five knows the place to two steps, the losses themselves know it.
        first = max(0, turn - _MEDIAN // 2)
        around = self.losses[first : turn + _MEDIAN // 2 + 1]
        return float(self.places[first + np.argmin(around)])


def _smooth(places: np.ndarray, losses: np.ndarray, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Return values and slopes of parabolas fitted around each place."""
    half = min(_DECADES, _PART * extent)
    distances = places - places[:, np.newaxis]
    # Where a linear sweep has few places in a decade, the nearest ones must do.
    nearest = np.sort(np.abs(distances), axis=1)[:, min(2 * _MEDIAN, len(places) - 1)]
    distances = distances / np.maximum(half, nearest)[:, np.newaxis]
    weights = np.clip(1 - np.abs(distances) ** 3, 0, None) ** 3
    sums = np.array([(weights * distances**power).sum(axis=1) for power in range(5)])
    normal = np.moveaxis(sums[np.add.outer(np.arange(3), np.arange(3))], -1, 0)
    right = np.stack([(weights * distances**power) @ losses for power in range(3)], axis=1)
    found = np.linalg.solve(normal, right[..., np.newaxis])[..., 0]
    return found[:, 0], found[:, 1] / np.maximum(half, nearest)
