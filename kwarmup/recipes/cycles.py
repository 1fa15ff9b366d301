"""Recipes that come back: cosine_restarts, cyclic."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from kwarmup import shapes, verbs
from kwarmup.errors import type_error, value_error
from kwarmup.length import Length, number
from kwarmup.profile import Profile
from kwarmup.recipes.arguments import given_length, positive, times, whole
from kwarmup.verbs import LengthKeywords, Number

if TYPE_CHECKING:
    from typing_extensions import Unpack


def cosine_restarts(
    *bare: Any,
    cycles: int,
    t_mul: Number = 1,
    m_mul: Number = 1,
    to: Number = 0,
    **length: Unpack[LengthKeywords],
) -> Profile:
    """Fall to `to` along half a cosine wave, jump back up, and again: warm restarts.

    Cycle i, from 0, lasts `t_mul ** i` times the given length and falls from `to + (1 - to) * m_mul ** i`.

    Where libraries differ: `m_mul` shrinks the height above `to`, as in Keras's `CosineDecayRestarts`
    (its `alpha` is `to`); timm shrinks the top itself, which is the same for `to=0`, and else
    `cosine(steps=10, to=0.1) >> cosine(steps=10, start=0.5, to=0.1)` and so on. Keras and torch restart
    for ever, here `to` holds after `cycles` cycles, as in timm with its `cycle_limit`. With lengths in
    steps and no clock, more cycles than the run has time for restart to its end.

    Args:
        cycles: how many, 1 or more.
        t_mul: length of each cycle over the one before, above 0.
        m_mul: height of each cycle over the one before, above 0.
        to: value that each cycle falls to, relative to the peak.
        **length: of the first cycle: `steps=`, `epochs=`, `examples=` or `fraction=`.

    Raises:
        TypeError: if the length is a bare number, missing or given twice, or `cycles` is no whole number.
        ValueError: if an argument is out of range.

    Paper: Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", section 3.

    Example:

    >>> cosine_restarts(epochs=10, cycles=3, t_mul=2)
    cosine(epochs=10) >> cosine(epochs=20, start=1) >> cosine(epochs=40, start=1)
    """
    write = "cosine_restarts(epochs=10, cycles=3, t_mul=2)"
    first = given_length("cosine_restarts", bare, length, write)
    cycles = whole("cycles", cycles, write)
    longer = Fraction(repr(positive("t_mul", t_mul, write)))
    tops = _tops(number("to", to, write), positive("m_mul", m_mul, write), cycles)
    return Profile(
        verbs.cosine(to=to, start=top if i else None, **times(first, longer**i)) for i, top in enumerate(tops)
    )


def cyclic(
    *bare: Any,
    cycles: int,
    base: Number,
    down: Number | None = None,
    m_mul: Number = 1,
    gamma: Number = 1,
    **length: Unpack[LengthKeywords],
) -> Profile:
    """Rise from `base` to the peak and fall back to it, `cycles` times, in straight lines.

    Cycle i, from 0, peaks at `base + (1 - base) * m_mul ** i`; with `gamma` the height above `base` is
    multiplied by `gamma ** n` at update n. The policies of Smith 2017 and torch's `CyclicLR(base_lr=base *
    peak, max_lr=peak, ...)`, value by value:

    - triangular: `cyclic(steps=2_000, base=0.1, cycles=4)`
    - triangular2: `cyclic(steps=2_000, base=0.1, cycles=4, m_mul=0.5)`
    - exp_range: `cyclic(steps=2_000, base=0.1, cycles=4, gamma=0.9994)`

    Where libraries differ: torch cycles for ever, here `base` holds after the last cycle. With lengths in
    steps and no clock, more cycles than the run has time for go on to its end. torch cycles the momentum
    too, from `max_momentum` down to `base_momentum` and back: `linear(start=0.9, to=0.8, steps=2_000) >>
    linear(to=0.9, steps=2_000)`, as often as it takes.

    Args:
        cycles: how many, 1 or more.
        base: value between the cycles, relative to the peak; from 0 and below 1.
        down: length of the fall, in the same unit as the rise; `None` for as long.
        m_mul: height of each cycle over the one before, above 0.
        gamma: factor of the height per update, above 0; not 1 only with lengths in steps.
        **length: of the rise (torch's `step_size_up`): `steps=`, `epochs=`, `examples=` or `fraction=`.

    Raises:
        TypeError: if a length is a bare number, missing or given twice, `cycles` is no whole number, or
            `gamma` comes with a length that is not in steps.
        ValueError: if an argument is out of range.

    Paper: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.

    Example:

    >>> cyclic(epochs=4, base=0, cycles=2, m_mul=0.5)
    warmup(epochs=4) >> linear(epochs=4) >> linear(epochs=4, to=0.5) >> linear(epochs=4)
    """
    write = "cyclic(steps=2_000, base=0.1, cycles=4)"
    rise = given_length("cyclic", bare, length, write)
    cycles = whole("cycles", cycles, write)
    base, gamma = number("base", base, write), positive("gamma", gamma, write)
    if not 0 <= base < 1:
        raise value_error("base", base, "from 0 and below 1, which is the peak", write)
    tops = _tops(base, positive("m_mul", m_mul, write), cycles)
    fall = rise if down is None else Length.read("cyclic", **{rise.unit: positive("down", down, write)})
    if gamma != 1 and rise.unit != "steps":
        raise type_error("gamma", gamma, "lengths in steps, since it counts updates", write)
    if gamma == 1:
        return Profile(part for i, top in enumerate(tops) for part in _triangle(base, top, rise, fall, not i))
    return Profile(part for i, top in enumerate(tops) for part in _damped(base, top, rise, fall, gamma, i))


def _tops(base: Number, m_mul: Number, cycles: int) -> list[float]:
    """Where each cycle begins to fall; as decimals: 0.2 + 0.8 * 0.5 is 0.6, not next to it."""
    low, factor = Fraction(repr(base)), Fraction(repr(m_mul))
    return [float(low + (1 - low) * factor**i) for i in range(cycles)]


def _triangle(base: Number, top: Number, rise: Length, fall: Length, first: bool) -> list[Profile]:
    return [
        verbs.linear(to=top, start=base if first else None, **times(rise, 1)),
        verbs.linear(to=base, **times(fall, 1)),
    ]


def _damped(
    base: Number, top: Number, rise: Length, fall: Length, gamma: Number, cycle: int
) -> list[Profile]:
    """One cycle under `gamma`: each half carries the factor that has built up before it."""
    before = cycle * (rise.exact + fall.exact)
    halves = []
    for half, begin, end, since in ((rise, 0, 1, before), (fall, 1, 0, before + rise.exact)):
        steps = times(half, 1)["steps"]
        shape = shapes.damped(begin, end, steps, gamma)
        high = base + (top - base) * gamma ** float(since)
        halves.append(verbs.curve(shape, low=base, high=high, steps=steps))
    return halves
