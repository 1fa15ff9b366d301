"""A batch size that follows the gradient noise scale: what is declared, and what a measurement leads to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from kwarmup.errors import value_error
from kwarmup.length import number
from kwarmup.profile import Profile

_KEY = "follow_noise"


@final
@dataclass(frozen=True, repr=False)
class FollowNoise:
    """What `follow_noise` declares, checked: sizes from `start` on that the measured noise may lead to.

    Args:
        start: examples per update, until the noise scale says more.
        max: examples per update at most.
        factor: from one size to the next.
    """

    start: int
    max: int
    factor: int | float = 2

    def __post_init__(self) -> None:
        for name, least in (("start", 1), ("max", self.start)):
            value = number(name, getattr(self, name), _line())
            if not isinstance(value, int) or value < least:
                write = _line(self.start, 32 * least) if name == "max" else _line()
                raise value_error(name, value, f"a whole number, {least} or more", write)
            object.__setattr__(self, name, value)
        factor = number("factor", self.factor, f"{_line()[:-1]}, factor=2)")
        if factor <= 1:
            raise value_error("factor", factor, "a number above 1", f"{_line()[:-1]}, factor=2)")
        object.__setattr__(self, "factor", factor)

    def sizes(self, unit: int = 1) -> list[int]:
        """Return the sizes that the batch may have, in order: multiples of `unit`, the last as near to `max` as can be.

        >>> follow_noise(start=32, max=200).sizes()
        [32, 64, 128, 200]
        """
        largest = self.max // unit * unit
        found, wanted = [self.start], float(self.start)
        while found[-1] < largest:
            wanted *= self.factor
            size = min(int(wanted / unit + 0.5) * unit, largest)
            if size > found[-1]:
                found.append(size)
        return found

    def needed(self, size: int, unit: int = 1) -> int | None:
        """Return what the noise scale must pass for a batch of `size` to grow; `None` where it is at its largest."""
        return next((larger for larger in self.sizes(unit) if larger > size), None)

    def after(self, size: int, least: float, unit: int = 1) -> int:
        """Return the batch size behind a measurement: the largest that the noise scale passes, never a smaller one.

        Args:
            size: the batch size so far.
            least: the lower end of the noise scale's interval; NaN where nothing is known.
            unit: what sizes divide by.

        >>> rule = follow_noise(start=32, max=1024)
        >>> [rule.after(64, least) for least in (20.0, 127.9, 128.0, 5000.0, float("nan"))]
        [64, 64, 128, 1024, 64]
        """
        passed = [larger for larger in self.sizes(unit) if size < larger <= least]
        # An infinite lower end is that of a gradient without any length: nothing was measured.
        return passed[-1] if passed and math.isfinite(least) else size

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON; `batch_size_from_dict` reads it back."""
        return {_KEY: {"start": self.start, "max": self.max, "factor": self.factor}}

    def __repr__(self) -> str:
        more = "" if self.factor == 2 else f", factor={self.factor!r}"
        return f"follow_noise(start={self.start}, max={self.max}{more})"


def follow_noise(start: int, max: int, factor: float = 2) -> FollowNoise:
    """A batch size that grows with the gradient noise scale: `Plan(batch_size=follow_noise(start=32, max=1024))`.

    Far below the noise scale, twice the batch saves nearly half of the updates; far above it, hardly any.
    The noise scale grows while a model learns. `Plan.fit` measures it on the batches that it trains on anyway, and
    behind each pass lets the batch grow to the largest size that the lower end of its 95 % interval has passed.
    It never shrinks. The learning rate moves with it by the plan's `scaling`, and keeps its place in the data.

    In a plan's table and picture the batch stays at `start`, since nobody knows yet what will be measured. The history
    of the training has `noise_scale`, `noise_scale_low` (the lower end) and `batch_size` for each pass.
    `history.growth` has the `decisions` behind the passes with the reason for each, and `plan`, the plan that the
    training came to. A checkpoint keeps all of it.

    It is measured by a `NoiseScaleMonitor`, ten times a pass or more and at most at every tenth update. One among the
    callbacks takes its place: `callbacks=[NoiseScaleMonitor(every=1, parts=4, examples=50_000)]`.

    Args:
        start: examples per update in the first pass, at least.
        max: examples per update at most.
        factor: from one size to the next, above 1. Sizes are rounded to what the plan's clock divides by.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if one is out of range.

    Paper: McCandlish et al. 2018, "An Empirical Model of Large-Batch Training".

    Example:

    >>> from kwarmup import Plan, cosine, follow_noise
    >>> plan = Plan(learning_rate=0.1 * cosine(), batch_size=follow_noise(32, 1024), examples=960, epochs=2)
    >>> print(plan.table())
    phase     updates  epochs  batch size      learning rate
    cosine()   0 – 59   0 – 2  32 or more  0.1 → 6.85233e-05
    60 updates at most, 2 epochs of 960 examples; the batch grows with the noise, up to 1,024
    """
    return FollowNoise(start, max, factor)


class Decision(NamedTuple):
    """What became of the batch size behind a pass, and the measurement that this follows from."""

    epoch: int
    noise_scale: float
    interval: tuple[float, float]
    before: int
    after: int
    needed: int | None

    @property
    def reason(self) -> str:
        """The decision in words.

        >>> Decision(3, 210.0, (140.2, 330.0), 32, 128, 64).reason
        'The noise scale is 140.2 or more: the batch grows from 32 to 128.'
        """
        least = self.interval[0]
        if self.needed is None:
            return f"The batch is as large as it may be: it stays at {self.before:,}."
        if math.isnan(self.noise_scale):
            return f"The noise scale is not known yet: the batch stays at {self.before:,}."
        known = f"The noise scale is {least:.4g} or more"
        if self.after > self.before:
            return f"{known}: the batch grows from {self.before:,} to {self.after:,}."
        return f"{known}, but not for sure {self.needed:,} or more: the batch stays at {self.before:,}."


def batch_size_from_dict(data: Any) -> int | Profile | FollowNoise:
    """Return the batch size of a plan's data: a number, or what `to_dict` of a profile or of a rule has made."""
    if not isinstance(data, dict):
        return data
    return FollowNoise(**data[_KEY]) if set(data) == {_KEY} else Profile.from_dict(data)


def refuse(follows: FollowNoise | None) -> None:
    """Raise where a batch size is needed that is known before training.

    Raises:
        ValueError: if there is a rule that it follows instead.
    """
    if follows is not None:
        raise value_error(
            "batch_size",
            follows,
            "one that is known before training, since nothing changes it on the way here",
            "plan.fit(model, x, y), or plan.replace(batch_size=64)",
        )


def _line(start: int = 32, largest: int = 1024) -> str:
    return f"follow_noise(start={start}, max={largest})"
