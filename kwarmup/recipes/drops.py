"""Recipes that fall in steps: step_decay, multistep."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypedDict

from kwarmup import verbs
from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import Length
from kwarmup.profile import Profile
from kwarmup.recipes.arguments import given_length, positive, times, whole
from kwarmup.verbs import LengthKeywords, Number

if TYPE_CHECKING:
    from typing_extensions import Unpack


def step_decay(*bare: Any, drops: int, gamma: Number = 0.1, **length: Unpack[LengthKeywords]) -> Profile:
    """Multiply by `gamma` each time the given length has passed, `drops` times.

    `gamma ** min(drops, n // length)`. The last value takes the rest of the run.

    Where libraries differ: torch's `StepLR` and Keras's `ExponentialDecay(staircase=True)` drop for ever;
    with as many drops as fit into the run the values are the same. As there, the update on a boundary
    has the new value.

    Args:
        drops: how many, 1 or more.
        gamma: factor of each drop, above 0.
        **length: from one drop to the next: `steps=`, `epochs=`, `examples=` or `fraction=`.

    Raises:
        TypeError: if the length is a bare number, missing or given twice, or `drops` is no whole number.
        ValueError: if an argument is out of range.

    Paper: He et al. 2016, "Deep Residual Learning for Image Recognition", section 3.4.

    Example:

    >>> step_decay(epochs=30, drops=2)
    hold(epochs=30) >> hold(0.1, epochs=30) >> hold(0.01)
    """
    write = "step_decay(epochs=30, drops=2)"
    every = given_length("step_decay", bare, length, write)
    drops = whole("drops", drops, write)
    return _stairs([times(every, 1)] * drops, gamma, write)


class Milestones(TypedDict, total=False):
    """Places in the run, ascending, in exactly one unit; each as `LengthKeywords` has it."""

    steps: Sequence[Number]
    epochs: Sequence[Number]
    examples: Sequence[Number]
    fraction: Sequence[Number]


def multistep(*bare: Any, gamma: Number = 0.1, **milestones: Unpack[Milestones]) -> Profile:
    """Multiply by `gamma` at each milestone; the last value takes the rest of the run.

    Milestones count from where the recipe begins: behind a warmup, from its end.

    Where libraries differ: as in torch's `MultiStepLR` and optax's `piecewise_constant_schedule`, the
    update at a milestone has the new value. Keras's `PiecewiseConstantDecay` keeps the old one there, so
    its boundaries are the milestones less one: for `boundaries=[99, 199]` write `steps=[100, 200]`.

    Args:
        gamma: factor of each drop, above 0.
        **milestones: a list in one unit: `steps=`, `epochs=`, `examples=` or `fraction=`. Ascending;
            two that are equal drop twice.

    Raises:
        TypeError: if not exactly one list is given.
        ValueError: if the milestones are out of order or out of range, or `gamma` is not above 0.

    Paper: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.

    Example:

    >>> multistep(epochs=[30, 60, 80])
    hold(epochs=30) >> hold(0.1, epochs=30) >> hold(0.01, epochs=20) >> hold(0.001)
    """
    write = "multistep(epochs=[30, 60, 80])"
    given = {unit: value for unit, value in milestones.items() if value is not None}
    if bare or len(given) != 1:
        received = [*map(repr, bare), *(f"{unit}={value!r}" for unit, value in given.items())]
        raise type_error(
            "milestones", Code(f"multistep({', '.join(received)})"), "one list, in one unit", write
        )
    unit, places = next(iter(given.items()))
    if isinstance(places, str) or not isinstance(places, Sequence) or not places:
        raise type_error(unit, places, "a list of places in the run", write)
    found = [Length.read("multistep", **{unit: place}) for place in places]
    lengths = []
    for before, place in zip([Length(0, unit), *found[:-1]], found, strict=True):
        if place.exact < before.exact:
            raise value_error(unit, list(places), "places in ascending order", write)
        # As decimals: 0.8 - 0.1 is 0.7, and the drop comes at 0.8 of the run, not one update later.
        lengths.append(times(Length(1, unit), place.exact - before.exact))
    return _stairs(lengths, gamma, write)


def _stairs(lengths: list[dict[str, Any]], gamma: Number, write: str) -> Profile:
    # Powers as decimals too: 0.1 ** 3 is 0.001.
    factor = Fraction(repr(positive("gamma", gamma, write)))
    values = [float(factor**i) for i in range(len(lengths) + 1)]
    stairs = [verbs.hold(value if i else None, **lengths[i]) for i, value in enumerate(values[:-1])]
    return Profile([*stairs, verbs.hold(values[-1])])
