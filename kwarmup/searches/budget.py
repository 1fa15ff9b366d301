"""What each trial of a search may cost: as many examples, as many updates, or as much time as the plan has.

A budget is a function of the plan and a batch size that returns passes over the data, not yet rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction

from kwarmup.clock import Clock
from kwarmup.errors import Code, value_error
from kwarmup.plan import Plan
from kwarmup.profile import Profile
from kwarmup.speed import Throughput
from kwarmup.step_time import StepTime

Budget = Callable[[Plan, int], float]

#: Passes are whole, and so a trial may be that much off its budget and no further.
_OFF = 0.1


def equal_examples(plan: Plan, batch_size: int) -> float:
    """Give every trial of a search the examples that the plan has: as many passes, whatever the batch size.

    Args:
        plan: the plan that is searched around.
        batch_size: of a trial.

    Returns:
        Passes over the data.

    Example:

    >>> from kwarmup import Plan, equal_examples
    >>> equal_examples(Plan(learning_rate=0.1, batch_size=50, examples=1_000, epochs=8), 100)
    8.0
    """
    return float(plan.clock.epochs)


def equal_updates(plan: Plan, batch_size: int) -> float:
    """Give every trial of a search the updates that the plan has: twice the batch size, twice the passes.

    Of a batch size that moves, each pass has the updates that it has in the plan of the trial, and phases in passes
    stay as many passes.

    Args:
        plan: the plan that is searched around.
        batch_size: of a trial, the first one where it moves.

    Returns:
        Passes over the data, the plan's own at its own batch size; between two whole ones by the straight line.
        `search` rounds them, and refuses a plan that is too short for that.

    Raises:
        ValueError: if the batch size does not divide as the plan has it, or its phases do not fit into the passes.

    Example:

    >>> from kwarmup import Plan, equal_updates
    >>> equal_updates(Plan(learning_rate=0.1, batch_size=50, examples=1_000, epochs=8), 100)
    16.0
    """
    return _passes_for(plan, batch_size, lambda clock: Fraction(clock.steps))


def equal_time(measured: Throughput | StepTime) -> Budget:
    """Give every trial of a search the time that the plan takes, by a measured time of an update.

    `seconds = fixed · updates + per_example · examples`, over the updates of a plan, whatever their batch sizes.
    Validation and compiling are not in it. A search that goes on keeps the passes that it began with, whatever is
    measured then; its workers should be given the same figures.

    Args:
        measured: what `throughput` returned, or the line through it.

    Returns:
        A function like `equal_updates`, with its errors.

    Example:

    >>> from kwarmup import Plan, StepTime, equal_time
    >>> time = StepTime(1e-3, 1e-5, (1e-3, 1e-3), (1e-5, 1e-5), 0.0)  # 1 ms, and 10 µs for each example
    >>> equal_time(time)(Plan(learning_rate=0.1, batch_size=100, examples=1_000, epochs=8), 500)
    13.333333333333334
    """
    time = measured.step_time if isinstance(measured, Throughput) else measured

    # As fractions: rounding must not take the plan's own passes away from it.
    fixed, per_example = Fraction(time.fixed), Fraction(time.per_example)

    def seconds(clock: Clock) -> Fraction:
        return fixed * clock.steps + per_example * clock.total_examples

    def budget(plan: Plan, batch_size: int) -> float:
        return _passes_for(plan, batch_size, seconds)

    return budget


def batch_of(plan: Plan, batch_size: int) -> int | Profile:
    """Return the batch size of a trial as its plan has it: a profile begins with `batch_size`, scaled as a whole."""
    own = plan.clock.batch_size
    return batch_size if isinstance(own, int) else own * (batch_size / plan.clock.batch_size_at(0))


def _passes_for(plan: Plan, batch_size: int, cost: Callable[[Clock], Fraction]) -> float:
    """Return the passes at which a trial of this batch size costs what the plan does.

    Args:
        plan: the plan that is searched around.
        batch_size: of the trial.
        cost: of a run; it grows with the passes.

    Raises:
        ValueError: if there is no such clock, or only longer ones.
    """
    # The phases fit into as many passes as the plan has: what is refused here would be at any length.
    trial = replace(plan.clock, batch_size=batch_of(plan, batch_size))
    exact, fewest = _passes_at(trial, cost, cost(plan.clock))
    if round(exact) < fewest:
        enough, _ = _passes_at(plan.clock, cost, cost(replace(trial, epochs=fewest)))
        raise value_error(
            "budget",
            Code(f"{exact:.3g} passes at batch size {batch_size}, for {plan.clock.epochs} of the plan"),
            f"{fewest} passes or more, into which the phases of the batch size fit",
            f"plan.replace(epochs={math.ceil(enough)}), or batch sizes closer to each other",
        )
    return exact


def _passes_at(clock: Clock, cost: Callable[[Clock], Fraction], wanted: Fraction) -> tuple[float, int]:
    """Return the passes at which a run costs as much as is wanted, and the fewest that there can be if that is less.

    Below the fewest passes the cost is taken as proportional to them, as it is between none and one.
    """
    shorter, below, fits = 0, Fraction(0), True
    longer, above = clock.epochs, cost(clock)
    if above == wanted:
        return float(longer), 0
    while above < wanted:
        shorter, below = longer, above
        longer = max(math.ceil(longer * wanted / above), longer + longer // 8 + 1)
        above = cost(replace(clock, epochs=longer))
    # By the straight line there are few clocks to lay out, and by halves in turn there are never many.
    by_line = True
    while longer - shorter > 1:
        part = (wanted - below) / (above - below) if by_line and fits else Fraction(1, 2)
        middle = min(max(shorter + int(part * (longer - shorter)), shorter + 1), longer - 1)
        found = _cost_if_it_fits(cost, clock, middle)
        if found is not None and found >= wanted:
            longer, above = middle, found
        else:
            shorter, below, fits = middle, found or Fraction(0), found is not None
        by_line = not by_line
    if not fits:
        return float(longer * wanted / above), longer
    return float(shorter + (wanted - below) / (above - below)), 0


def _cost_if_it_fits(cost: Callable[[Clock], Fraction], clock: Clock, epochs: int) -> Fraction | None:
    """Return the cost of as many passes, `None` where they are too few for the phases of the batch size."""
    try:
        return cost(replace(clock, epochs=epochs))
    except ValueError:
        return None


def as_before(kept: Mapping[int, int]) -> Budget:
    """Return the budget that gives each batch size the passes that are kept of it."""
    return lambda plan, batch_size: float(kept[batch_size])


def passes(budget: Budget, plan: Plan, batch_size: int) -> int:
    """Return the whole passes over the data that a trial has.

    Args:
        budget: one of the above, or a function like them.
        plan: the plan that is searched around.
        batch_size: of the trial.

    Raises:
        ValueError: if rounding would make the trial more than a tenth longer or shorter.
    """
    exact = float(budget(plan, batch_size))
    whole = max(1, round(exact))
    if not exact > 0 or abs(whole / exact - 1) > _OFF:
        longer = math.ceil(plan.clock.epochs * 5 / exact) if exact > 0 else plan.clock.epochs
        raise value_error(
            "budget",
            Code(f"{exact:.3g} passes at batch size {batch_size}, for {plan.clock.epochs} of the plan"),
            "passes that can be rounded to a whole number without being a tenth off",
            f"plan.replace(epochs={longer}), or batch sizes closer to each other",
        )
    return whole
