"""Which batch size a profile asks for, where: stretches of one whole size each."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from kwarmup.errors import Code, value_error
from kwarmup.profile import Phase, Profile


@dataclass(frozen=True)
class Stretch:
    """The sizes within one phase of a batch-size profile.

    Args:
        unit: `"steps"` or `"examples"`, in which `offsets` and `length` count from the phase's begin.
        offsets: where each size begins.
        sizes: examples per update, one for each offset.
        length: where the phase ends; `None` for never.
    """

    unit: str
    offsets: tuple[Fraction, ...]
    sizes: tuple[int, ...]
    length: Fraction | None


@dataclass(frozen=True)
class Rounding:
    """What becomes of a batch size that is not whole: the nearest multiple, within limits."""

    multiple_of: int
    minimum: int
    maximum: int | None

    def __call__(self, value: float) -> int:
        """Return the size for a value; a half is rounded up."""
        size = int(min(value, 2.0**53) / self.multiple_of + 0.5) * self.multiple_of
        return max(self.minimum, size if self.maximum is None else min(size, self.maximum))


def stretches(profile: Profile, examples: int, epochs: int, rounding: Rounding) -> list[Stretch]:
    """Return the sizes that `profile` asks for, rounded by `rounding`; within a ramp a half goes where it goes.

    Lengths in epochs and fractions count passes over all `examples`.

    Raises:
        ValueError: if the phases are longer than the run, if a shape goes up and down, or if the
            rest of the run cannot be told because lengths in steps are mixed in.
    """
    total = Fraction(examples * epochs)
    lengths = [_length(phase, examples, total) for phase in profile.phases]
    known = sum(
        (length for unit, length in lengths if unit == "examples" and length is not None), Fraction(0)
    )
    if known > total:
        raise value_error(
            "batch_size",
            profile,
            f"phases that fit into the run of {epochs} epochs of {examples} examples",
            "batch_size=64 * (hold(epochs=2) >> hold(4))",
        )
    found, end = [], 1.0
    for index, (phase, (unit, length)) in enumerate(zip(profile.phases, lengths, strict=True)):
        start, to = phase.ends(end)
        last = index + 1 == len(lengths)
        if length is None and not last:
            if any(unit == "steps" for unit, _ in lengths):
                raise value_error(
                    "batch_size",
                    profile,
                    "lengths in epochs, examples or fractions around a phase that takes the rest",
                    "batch_size=64 * (hold(epochs=2) >> hold(4))",
                )
            length = total - known
        elif length is None and not any(unit == "steps" for unit, _ in lengths):
            length = total - known
        if phase.to is None or length is None:
            if start != to:
                raise value_error(
                    "batch_size", profile, "a length for a ramp behind lengths in steps",
                    "batch_size=64 * (hold(steps=100) >> linear(to=4, epochs=2))",
                )  # fmt: skip
            found.append(Stretch(unit, (Fraction(0),), (rounding(profile.scale * start),), length))
            end = start
        else:
            offsets, sizes = _ramp(profile, phase, start, to, rounding)
            places = tuple(_exact(offset) * length for offset in offsets)
            found.append(Stretch(unit, places, sizes, length))
            end_value = phase.end(start, to, float(length) if unit == "steps" else None)
            end = start if end_value is None else end_value
    # Past the end of the profile its last value holds.
    found.append(Stretch("examples", (Fraction(0),), (rounding(profile.scale * end),), None))
    return found


def _length(phase: Phase, examples: int, total: Fraction) -> tuple[str, Fraction | None]:
    unit = phase.length.unit
    if unit == "rest":
        return "examples", None
    factor = {"steps": Fraction(1), "examples": Fraction(1), "epochs": Fraction(examples), "fraction": total}[
        unit
    ]
    return ("steps" if unit == "steps" else "examples"), phase.length.exact * factor


def _exact(offset: float) -> Fraction:
    # Bisection ends a rounding error beside the place. Meant is the simple fraction next to it: a size that
    # changes after a third of three epochs must do so at the end of the first, not one batch later.
    simple = Fraction(offset).limit_denominator(100_000)
    return simple if abs(simple - Fraction(offset)) < 1e-13 else Fraction(offset)


def _ramp(
    profile: Profile, phase: Phase, start: float, to: float, rounding: Rounding
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return progress values at which the rounded size changes, and the sizes from there on."""
    if phase.shape.per_step:
        raise value_error(
            "batch_size", Code(repr(phase)), "a shape of the progress, not of the step",
            "batch_size=64 * linear(to=4, epochs=2)",
        )  # fmt: skip
    rate = np.log(to / start) if phase.shape.geometric else 0.0

    def value(t: np.ndarray) -> np.ndarray:
        f = np.asarray(phase.shape.evaluate(np, t, rate=np.float64(rate)), "float64")
        return profile.scale * (start * (1 - f) + to * f)

    grid = value(np.linspace(0.0, 1.0, 1025))
    steps = np.diff(grid)
    if (steps > 1e-9).any() and (steps < -1e-9).any():
        raise value_error(
            "batch_size", Code(repr(phase)), "a shape that only goes up or only goes down",
            "batch_size=64 * linear(to=4, epochs=2)",
        )  # fmt: skip
    first, last = rounding(grid[0]), rounding(grid[-1])
    direction = rounding.multiple_of if last >= first else -rounding.multiple_of
    sizes = np.arange(first, last + direction, direction)
    if len(sizes) == 1:
        return (0.0,), (first,)
    # The rounded size becomes sizes[i] where the value crosses the middle between it and sizes[i - 1].
    middles = sizes[1:] - direction / 2
    low, high = np.zeros(len(middles)), np.ones(len(middles))
    for _ in range(60):
        middle = (low + high) / 2
        reached = value(middle) >= middles if direction > 0 else value(middle) <= middles
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return (0.0, *high.tolist()), tuple(sizes.tolist())
