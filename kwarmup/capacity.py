"""The largest batch size that fits, found in few trials: sizes are tried where the memory of smaller ones points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

#: How many times larger than what fits a size may be. Where memory goes by the square, that is 16 times as much.
_GROWTH = 4
#: Smaller parts of the memory are not told from chance: of what one size needs more than another, and of a peak.
_RISE, _PEAK = 0.02, 0.005
#: How far to go back first where a size has failed that should have fitted.
_BACK = 1 / 32
#: How far to go towards the size that would just fit, once a larger one has held too much.
_BELOW = 0.9
#: A size that much larger is not worth another trial, where the end is one that is counted.
_CLOSE = 1 / 64


class BatchTrial(NamedTuple):
    """A batch size that was tried: whether it fits, and the bytes held at the peak, `None` where nobody tells."""

    batch_size: int
    fits: bool
    peak: int | None = None


def find_largest(
    try_out: Callable[[int], BatchTrial],
    trials: list[BatchTrial],
    *,
    multiple: int,
    limit: int,
    base: int | None = None,
    memory: int | None = None,
    counted: bool = False,
) -> None:
    """Try batch sizes until the largest that fits is among them, or `limit`; stop where the smallest does not fit.

    The smallest comes first, since a size that is far too large may end the process and not only the trial. Then
    sizes grow fourfold, and no further than the peaks so far let one expect to fit.

    Where a device has an end of its own, sizes are tried until the next multiple fails. Steps begin at one
    multiple and double: a good guess costs two trials, and a bad one little more than halving. Where the end is
    only counted, a peak that is a little off is no failure to find: what is expected to be too much is not
    tried, and 2 % of the memory are left aside for chance. Nor is a size tried that is more than twice as large as
    one that is seen to take memory.

    Args:
        try_out: tries a size.
        trials: a list to fill; after an exception it holds what came before.
        multiple: what a batch size divides by.
        limit: the largest size that is worth trying, a multiple.
        base: bytes held before the first trial, where that is known.
        memory: bytes that there are, where that is known.
        counted: whether a size fails because its peak is above `memory`, not because an allocation fails.

    >>> trials = []
    >>> find_largest(
    ...     lambda size: BatchTrial(size, size <= 300, 100 + 3 * size), trials,
    ...     multiple=1, limit=5_000, base=100, memory=1_000,
    ... )
    >>> [trial.batch_size for trial in trials]
    [1, 2, 8, 32, 128, 300, 301]
    """
    if counted and base is not None and memory is not None:
        memory -= round(_RISE * max(0, memory - base))
    low, high, size, step = 0, None, multiple, 0
    while True:
        trial = try_out(size)
        trials.append(trial)
        if trial.fits:
            low = size
        else:
            high = size
        top = limit if high is None else high - multiple
        if low >= top or not low or (counted and _stays(trials)):
            return
        guess = _expected(trials, base, memory, counted)
        if counted and guess is not None and guess < low + max(multiple, round(low * _CLOSE)):
            return
        if high is None:
            middle = _GROWTH * low
            guess = None if guess is None else min(guess, middle, limit)
        else:
            # What failed in spite of much room fails for something else than the memory that peaks tell of.
            middle = (low + high) // 2
            guess = None if guess is None or guess > 2 * high else guess
        if guess is None:
            size = middle
        elif trial.fits:
            size = guess if low + step < guess <= top else min(low + step, middle)
        elif guess <= top:
            size = guess if low < guess <= size - step else max(size - step, middle)
        else:
            size = max(size - max(step, round(size * _BACK)), middle)
        size = min(top, max(low + multiple, size // multiple * multiple))
        if high is not None or size < 2 * low:
            step = 2 * step or multiple


def _stays(trials: list[BatchTrial]) -> bool:
    """Whether the process still holds what a larger size has left, so that no smaller one can be measured."""
    *before, last = trials
    larger = [trial.peak for trial in before if not trial.fits and trial.peak is not None]
    return not last.fits and last.peak is not None and any(last.peak >= peak for peak in larger)


def _expected(trials: list[BatchTrial], base: int | None, memory: int | None, counted: bool) -> int | None:
    """The largest size that should fit, by peaks that rise in a line or bend upwards; `None` where none is known."""
    told = [(trial.batch_size, trial.peak, trial.fits) for trial in trials if trial.peak is not None]
    known = sorted((size, peak) for size, peak, fits in told if fits)
    if base is None or memory is None or not known:
        return None
    (upper, peak), room = known[-1], max(1, memory - base)
    failed = min(((size, above) for size, above, fits in told if not fits), default=None)
    if failed is not None:
        # A little below the line between them: from there it can be come closer to, and from above it may not.
        size, above = failed
        return int(upper + _BELOW * (memory - peak) * (size - upper) / max(1, above - peak))
    lower, before = max((entry for entry in known if 2 * entry[0] <= upper), default=(0, base))
    if not lower:
        return 2 * upper
    # A rise that is not seen counts as one that is just not seen. Where a peak above the memory would be the end,
    # chance is on the other side: the further away a size, the more it may take than the line says.
    rise = max(peak - before, _RISE * room) + counted * _RISE * room
    line = upper + (memory - peak) * (upper - lower) / rise
    first, second = (max(held - base, _PEAK * room) for held in (before, peak))
    power = math.log(second / first) / math.log(upper / lower)
    bent = upper * (room / second) ** (1 / power) if power > 1 else math.inf
    # Libraries take another way of computing for a larger batch, and with it more memory than a line or a bend says.
    careful = 2 * upper if counted and peak - before > _RISE * room else math.inf
    return int(min(line, bent, careful))
