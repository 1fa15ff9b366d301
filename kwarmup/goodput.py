"""Which batch size trains fastest: examples per second times what each of them is still worth.

A step takes fixed + per_example · B seconds, and S_min (1 + phi / B) steps reach a target, with the noise scale or
critical batch size phi. The product is least at sqrt(fixed · phi / per_example). It is flat there: a batch that
is half or twice as large costs little, and which ones cost how little is part of the answer.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from sys import float_info
from typing import Any, Literal, NamedTuple, Protocol, final

from kwarmup.errors import type_error, value_error
from kwarmup.length import number

Interval = tuple[float, float]

#: How much slower than the best the batch sizes of `near` may be.
NEAR = 1.1
_WRITE = "best_batch_size(fixed=1.2e-3, per_example=4e-6, noise_scale=400)"


class Uncertain(Protocol):
    """A measured number with its 95 % interval, as `NoiseScale` is one."""

    @property
    def value(self) -> float: ...

    @property
    def interval(self) -> Interval: ...


class Known(NamedTuple):
    """A number with an interval, such as a part of a `StepTime`.

    >>> from kwarmup import StepTime
    >>> time = StepTime(0.001, 1e-5, (0.0008, 0.0012), (0.9e-5, 1.1e-5), 0.0)
    >>> fixed = Known(time.fixed, time.fixed_interval)
    >>> print(best_batch_size(fixed, Known(time.per_example, time.per_example_interval), noise_scale=100))
    100; optimum 100 [85, 115]; 54 to 186 take at most 10% longer
    """

    value: float
    interval: Interval


def efficiency(batch_size: Any, noise_scale: float, base: float = 1) -> Any:
    """Return what an example in a batch is worth, against one in a batch of `base`.

    Paper: Qiao et al. 2021, equation 7.

    Example:

    >>> efficiency(64, noise_scale=64, base=64), efficiency(192, noise_scale=64, base=64)
    (1.0, 0.5)
    """
    if math.isinf(noise_scale):
        return 1.0 + 0.0 * batch_size
    return (noise_scale + base) / (noise_scale + batch_size)


def goodput(batch_size: Any, fixed: float, per_example: float, noise_scale: float, base: float = 1) -> Any:
    """Return examples per second, counted at what they are worth.

    Args:
        batch_size: a number or an array.
        fixed: seconds of a step that do not depend on its batch.
        per_example: seconds more with each example.
        noise_scale: of the gradients.
        base: the batch size at which an example is worth one.

    Paper: Qiao et al. 2021, equation 6.

    Example:

    >>> goodput(64, fixed=0.064, per_example=0.001, noise_scale=64, base=64)
    500.0
    """
    return batch_size / (fixed + per_example * batch_size) * efficiency(batch_size, noise_scale, base)


@final
@dataclass(frozen=True)
class BestBatchSize:
    """The batch size that trains fastest, what is known of it, and which others are nearly as fast.

    Args:
        batch_size: the fastest one that is allowed.
        interval: the 95 % interval of the optimum, within the limits.
        near: the smallest and the largest one allowed that is predicted to take at most 10 % longer.
        optimum: where the time would be least without limits.
        limited: `"max"` or `"min"` where a limit keeps the batch from the optimum, else `""`.

    Example:

    >>> from kwarmup import best_batch_size
    >>> best = best_batch_size(fixed=1.2e-3, per_example=4e-6, noise_scale=400, max=128)
    >>> best.batch_size, best.limited, round(best.optimum)
    (128, 'max', 346)
    """

    batch_size: int
    interval: Interval
    near: tuple[int, int]
    optimum: float
    limited: Literal["", "min", "max"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinity: it is written as a word."""
        low, high = map(_plain, self.interval)
        return {
            "batch_size": self.batch_size,
            "interval": [low, high],
            "near": list(self.near),
            "optimum": _plain(self.optimum),
            "limited": self.limited,
        }

    def __str__(self) -> str:
        limited = {"": "", "min": ", the smallest allowed", "max": ", the largest allowed"}[self.limited]
        return (
            f"{self.batch_size:,}{limited}; optimum {self.optimum:,.0f} "
            f"[{self.interval[0]:,.0f}, {self.interval[1]:,.0f}]; "
            f"{self.near[0]:,} to {self.near[1]:,} take at most {NEAR - 1:.0%} longer"
        )


def best_batch_size(
    fixed: float | Uncertain,
    per_example: float | Uncertain,
    noise_scale: float | Uncertain,
    *,
    min: int = 1,
    max: int | None = None,
    multiple_of: int = 1,
) -> BestBatchSize:
    """Return the batch size that reaches a target soonest, by the time of a step and the noise of the gradients.

    The optimum is sqrt(fixed · noise_scale / per_example): there goodput, the throughput times the worth of an
    example, is largest. Each of the three may be a number, or something with a `value` and an `interval`, such
    as a `NoiseScale`. The logarithm of the optimum is half the sum of theirs, so its interval follows without
    sampling. The noise scale is measured apart, and its width adds as the root of a sum of squares; the two parts
    of a step come from one fit and lean on each other, and theirs are summed as if both erred together.

    Args:
        fixed: seconds of a step that do not depend on its batch.
        per_example: seconds more with each example.
        noise_scale: the noise scale, or the critical batch size of a `Tradeoff`. It grows along a training, and the
            optimum with its square root.
        min: the smallest batch size allowed.
        max: the largest one, that fits into memory; `None` for no limit.
        multiple_of: what it must be a multiple of, such as the number of replicas.

    Returns:
        A `BestBatchSize`, with the range that is nearly as fast.

    Raises:
        TypeError: if a number is of another type.
        ValueError: if a number is out of range, no multiple lies between the limits, or there is no optimum, since the
            noise scale is infinite or examples cost nothing, and no `max`.

    Papers: Qiao et al. 2021, "Pollux", for goodput; McCandlish et al. 2018, section 2.3, for the steps.

    Example:

    >>> from kwarmup import best_batch_size
    >>> print(best_batch_size(fixed=1.17e-3, per_example=3.9e-6, noise_scale=467, multiple_of=8))
    376; optimum 374 [374, 374]; 208 to 696 take at most 10% longer
    """
    alpha, beta = _known("fixed", fixed), _known("per_example", per_example)
    phi = _known("noise_scale", noise_scale)
    sizes = _Sizes(*_limits(min, max, multiple_of))
    optimum = _optimum(alpha.value, beta.value, phi.value)
    if math.isinf(optimum) and math.isinf(sizes.high):
        expected = "a limit, since without one the largest batch is the fastest"
        raise value_error("max", None, expected, f"{_WRITE[:-1]}, max=4096)")
    time = _Time(alpha.value, beta.value, phi.value)
    # The time falls up to the optimum and rises behind it.
    best = sorted(sizes.around(optimum), key=time)[0]
    low, high = time.within(NEAR * time(best))
    return BestBatchSize(
        batch_size=best,
        interval=tuple(sizes.clip(end) for end in _interval(optimum, alpha, beta, phi)),  # type: ignore[arg-type]
        near=(sizes.around(low)[-1], sizes.around(high)[0]),
        optimum=optimum,
        limited="min" if optimum < sizes.low else "max" if optimum > sizes.high else "",
    )


class _Sizes(NamedTuple):
    """The batch sizes that are allowed: multiples between two of them; the upper one may be infinite."""

    low: int
    high: float
    multiple_of: int

    def clip(self, size: float) -> float:
        return min(max(size, self.low), self.high)

    def around(self, size: float) -> list[int]:
        """Return the one or two sizes next to a number, within the limits."""
        size = self.clip(size)
        below, above = math.floor(size / self.multiple_of), math.ceil(size / self.multiple_of)
        return [number * self.multiple_of for number in range(below, above + 1)]


class _Time:
    """The seconds to a target, in units that depend neither on the batch size nor on how far off the target is."""

    def __init__(self, fixed: float, per_example: float, noise_scale: float):
        self.fixed, self.per_example = fixed, per_example
        # S(B) is as (1 - w) / B + w: finite whether or not the noise scale is.
        self.weight = 1 / (1 + noise_scale)

    def __call__(self, batch_size: float) -> float:
        step = self.fixed + self.per_example * batch_size
        return step * ((1 - self.weight) / batch_size + self.weight)

    def within(self, seconds: float) -> Interval:
        """Return the smallest and the largest batch size that take no longer."""
        fixed, per_example, weight = self.fixed, self.per_example, self.weight
        # a B^2 - b B + c = 0, solved without the difference that cancels.
        a, c = per_example * weight, fixed * (1 - weight)
        b = seconds - fixed * weight - per_example * (1 - weight)
        root = b + math.sqrt(max(0.0, b * b - 4 * a * c))
        return 2 * c / root if root > 0 else 0.0, root / (2 * a) if a else math.inf


def _optimum(fixed: float, per_example: float, noise_scale: float) -> float:
    if not fixed or not noise_scale:
        return 0.0
    return math.sqrt(fixed * noise_scale / per_example) if per_example else math.inf


def _interval(optimum: float, fixed: Known, per_example: Known, noise_scale: Known) -> Interval:
    lows = fixed.interval[0], per_example.interval[1], noise_scale.interval[0]
    highs = fixed.interval[1], per_example.interval[0], noise_scale.interval[1]
    if not 0 < optimum < math.inf:
        # Without a logarithm the outermost values that each of them allows remain.
        return _optimum(*lows), _optimum(*highs)
    values = fixed.value, per_example.value, noise_scale.value
    widths = [
        0.5
        * math.hypot(
            _decades(values[0], ends[0]) + _decades(values[1], ends[1]), _decades(values[2], ends[2])
        )
        for ends in (lows, highs)
    ]
    return optimum * math.exp(-widths[0]), optimum * math.exp(widths[1])


def _decades(value: float, end: float) -> float:
    return abs(math.log(end / value)) if 0 < end < math.inf else 0.0 if end == value else math.inf


def _known(argument: str, given: Any) -> Known:
    if hasattr(given, "value") and hasattr(given, "interval"):
        value, (low, high) = given.value, given.interval
    else:
        value = low = high = given
    for one in (value, low, high):
        if isinstance(one, bool) or not isinstance(one, numbers.Real):
            raise type_error(
                argument, given, "a number, or something with a `value` and an `interval`", _WRITE
            )
    infinite = math.inf if argument == "noise_scale" else float_info.max
    if not 0 <= low <= value <= high or value > infinite:
        few = "" if argument == "noise_scale" else " and finite"
        raise value_error(argument, given, f"a number, 0 or more{few}, within its interval", _WRITE)
    return Known(float(value), (float(low), float(high)))


def _limits(low: Any, high: Any, multiple_of: Any) -> tuple[int, float, int]:
    for name, value in (("min", low), ("max", high), ("multiple_of", multiple_of)):
        write = f"{_WRITE[:-1]}, {name}={({'min': 8, 'max': 4096, 'multiple_of': 8})[name]})"
        if value is None and name == "max":
            continue
        if not isinstance(number(name, value, write), int) or value < 1:
            raise value_error(name, value, "a whole number, 1 or more", write)
    smallest = -(-low // multiple_of) * multiple_of
    largest = math.inf if high is None else high // multiple_of * multiple_of
    if smallest > largest:
        raise value_error(
            "max",
            high,
            f"a multiple of {multiple_of} between min and max",
            f"{_WRITE[:-1]}, min={multiple_of}, max={smallest})",
        )
    return smallest, largest, multiple_of


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)
