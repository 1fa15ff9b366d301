"""One cycle: up to the peak and down to almost nothing, as torch's `OneCycleLR` counts it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from kwarmup import shapes, verbs
from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import number
from kwarmup.profile import Profile
from kwarmup.recipes.arguments import positive, whole
from kwarmup.verbs import Number, ShapeLike

_EXAMPLE = "one_cycle(total_steps=10_000)"


def one_cycle(
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: ShapeLike = "cos",
    three_phase: bool = False,
    div_factor: float = 25,
    final_div_factor: float = 1e4,
) -> Profile:
    """Rise from `1 / div_factor` to the peak, then fall to `1 / (div_factor * final_div_factor)`.

    Value by value what torch's `OneCycleLR(max_lr=peak, ...)` gives on each of its updates. With T updates
    the peak is at `pct_start * T - 1` and the end at `T - 1`, the last update of the run; with
    `three_phase` the profile is back at its start at `2 * pct_start * T - 2`. These may lie between two
    updates.

    Where libraries differ: torch raises past the run and divides by zero where `pct_start * T` is 1; here
    the last value holds, and a phase of length zero is left out, so that the profile starts at the peak. A
    phase that would begin before update 0 or end behind the last one is cut there, as in torch.
    optax puts the peak at `int(pct_start * T)` and the end at `T`: `warmup(steps=int(0.3 * T), start=1 / 25,
    shape="cosine") >> cosine(steps=T - int(0.3 * T), to=4e-6)`. fastai counts in fractions of the run:
    `warmup(fraction=0.25, start=1 / 25, shape="cosine") >> cosine(to=1e-5)`.

    Args:
        total_steps: updates in the whole run.
        epochs: passes over the data; with `steps_per_epoch`, instead of `total_steps`.
        steps_per_epoch: updates in one pass.
        pct_start: the part of the run in which the rate rises, 0 to 1.
        anneal_strategy: `"cos"` or `"linear"`, as torch has it, or any shape.
        three_phase: fall back to the start as fast as it rose, and then to the end.
        div_factor: peak over start, above 0.
        final_div_factor: start over end, above 0.

    Raises:
        TypeError: if the length is not given in exactly one of the two ways, or is no whole number.
        ValueError: if an argument is out of range, or the shape is unknown.

    Paper: Smith and Topin 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates", section 3.

    Example:

    >>> 0.1 * one_cycle(steps_per_epoch=50, epochs=4, anneal_strategy="linear")
    0.1 * (warmup(steps=59, start=0.04) >> linear(steps=140, to=4e-06))
    """
    total = _total(total_steps, epochs, steps_per_epoch)
    start = 1 / positive("div_factor", div_factor, "one_cycle(total_steps=10_000, div_factor=25)")
    write = "one_cycle(total_steps=10_000, final_div_factor=1e4)"
    end = start / positive("final_div_factor", final_div_factor, write)
    values = (start, 1, start, end) if three_phase else (start, 1, end)
    return _anneal(total, pct_start, anneal_strategy, values)


def one_cycle_momentum(
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: ShapeLike = "cos",
    three_phase: bool = False,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
) -> Profile:
    """The momentum that goes with `one_cycle`: down while the learning rate goes up, and back.

    The values are momenta as they are; no peak is multiplied in front. They are what torch's
    `OneCycleLR(cycle_momentum=True, ...)` sets, with the phases of `one_cycle` (see there for the edges).

    Args:
        total_steps: updates in the whole run.
        epochs: passes over the data; with `steps_per_epoch`, instead of `total_steps`.
        steps_per_epoch: updates in one pass.
        pct_start: the part of the run in which the momentum falls, 0 to 1.
        anneal_strategy: `"cos"` or `"linear"`, as torch has it, or any shape.
        three_phase: be back at `max_momentum` as fast as it fell, and stay there.
        base_momentum: the lowest, where the learning rate peaks; from 0 and below 1.
        max_momentum: at the start and the end; from 0 and below 1.

    Raises:
        TypeError: if the length is not given in exactly one of the two ways, or is no whole number.
        ValueError: if an argument is out of range, or the shape is unknown.

    Paper: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", section 4.3.

    Example:

    >>> one_cycle_momentum(total_steps=100, pct_start=0.5, anneal_strategy="linear")
    linear(steps=49, to=0.85, start=0.95) >> linear(steps=50, to=0.95)
    """
    total = _total(total_steps, epochs, steps_per_epoch)
    write = "one_cycle_momentum(total_steps=10_000, base_momentum=0.85, max_momentum=0.95)"
    for name, value in (("base_momentum", base_momentum), ("max_momentum", max_momentum)):
        if not 0 <= number(name, value, write) < 1:
            raise value_error(name, value, "a momentum, from 0 and below 1", write)
    values = (max_momentum, base_momentum, max_momentum)
    return _anneal(total, pct_start, anneal_strategy, (*values, max_momentum) if three_phase else values)


def _total(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    given = {"total_steps": total_steps, "epochs": epochs, "steps_per_epoch": steps_per_epoch}
    given = {name: value for name, value in given.items() if value is not None}
    if set(given) not in ({"total_steps"}, {"epochs", "steps_per_epoch"}):
        raise type_error(
            "total_steps",
            Code(", ".join(f"{name}={value!r}" for name, value in given.items()) or "no length"),
            "either total_steps, or epochs and steps_per_epoch",
            "one_cycle(steps_per_epoch=50, epochs=4)",
        )
    return math.prod(whole(name, value, _EXAMPLE) for name, value in given.items())


def _anneal(total: int, pct_start: float, strategy: ShapeLike, values: Sequence[float]) -> Profile:
    """Move through `values`, in phases that end where torch's do.

    torch gives an update on a boundary to the earlier phase, and an update before 0 or after
    `total - 1` to nobody: a phase without an update of its own is left out, one that sticks out is cut.
    """
    pct_start = number("pct_start", pct_start, "one_cycle(total_steps=10_000, pct_start=0.3)")
    if not 0 <= pct_start <= 1:
        raise value_error("pct_start", pct_start, "a part of the run, from 0 to 1", "pct_start=0.3")
    shape = shapes.as_shape("cosine" if strategy == "cos" else strategy, argument="anneal_strategy")
    last = total - 1
    # The same float arithmetic as torch's, since a boundary may miss a whole number by its rounding.
    inner = [float(pct_start * total) - 1, float(2 * pct_start * total) - 2]
    phases: list[Profile] = []
    begin, left = 0.0, Fraction(last)
    for end, start, to in zip([*inner[: len(values) - 2], last], values[:-1], values[1:], strict=True):
        if begin < min(end, last):
            steps = _at_most(min(end, last) - max(begin, 0), left)
            left -= Fraction(repr(steps))
            # To 12 digits, so that a phase which sticks out by its rounding only is whole.
            parts = [round((place - begin) / (end - begin), 12) for place in (max(begin, 0), min(end, last))]
            phases.append(_phase(shape, steps, start, to, parts, first=not phases))
        begin = end
    return Profile(phases or [verbs.hold(values[1])])


def _at_most(steps: float, left: Fraction) -> float:
    """Return `steps`, or less by its rounding: the end must not move behind the last update."""
    if Fraction(repr(steps)) > left:
        steps = float(left)
    while steps > 0 and Fraction(repr(steps)) > left:
        steps = math.nextafter(steps, 0)
    return steps


def _phase(
    shape: shapes.Shape, steps: float, start: Number, to: Number, parts: list[float], first: bool
) -> Profile:
    """Return the phase from `start` to `to`, or of it only what lies between the progress `parts`."""
    if parts == [0, 1]:
        # Where it starts is only said where no phase before ends there.
        return verbs.decay(shape=shape, to=to, start=start if first else None, steps=steps)
    if shape == shapes.linear:
        cut = [start + (to - start) * part for part in parts]
        return verbs.linear(start=cut[0], to=cut[1], steps=steps)
    if shape == shapes.cosine:
        begin, end = parts
        return verbs.curve(shapes.cosine_part(begin, end), low=start, high=to, steps=steps)
    raise value_error(
        "pct_start",
        Code(f"a phase that is cut at the edge of the run, with {shape!r}"),
        'anneal_strategy="cos" or "linear" there, or phases that end within the run',
        "one_cycle(total_steps=10_000, pct_start=0.3)",
    )
