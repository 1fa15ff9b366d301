"""What each trial of a search may cost: as many examples, as many updates, or as much time as the plan has.

A budget is a function of the plan and a batch size that returns passes over the data, not yet rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from kwarmup.errors import Code, value_error
from kwarmup.plan import Plan
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

    Args:
        plan: the plan that is searched around.
        batch_size: of a trial.

    Returns:
        Passes over the data. `search` rounds them, and refuses a plan that is too short for that.

    Example:

    >>> from kwarmup import Plan, equal_updates
    >>> equal_updates(Plan(learning_rate=0.1, batch_size=50, examples=1_000, epochs=8), 100)
    16.0
    """
    return plan.clock.steps / math.ceil(plan.clock.examples / batch_size)


def equal_time(measured: Throughput | StepTime) -> Budget:
    """Give every trial of a search the time that the plan's own batch size takes, by a measured time of an update.

    Validation and compiling are not in it. A search that goes on keeps the passes that it began with, whatever is
    measured then; its workers should be given the same figures.

    Args:
        measured: what `throughput` returned, or the line through it.

    Returns:
        A function like `equal_examples`.

    Example:

    >>> from kwarmup import Plan, StepTime, equal_time
    >>> time = StepTime(1e-3, 1e-5, (1e-3, 1e-3), (1e-5, 1e-5), 0.0)  # 1 ms, and 10 µs for each example
    >>> equal_time(time)(Plan(learning_rate=0.1, batch_size=100, examples=1_000, epochs=8), 500)
    13.333333333333334
    """
    time = measured.step_time if isinstance(measured, Throughput) else measured

    def budget(plan: Plan, batch_size: int) -> float:
        def of_a_pass(size: int) -> float:
            return math.ceil(plan.clock.examples / size) * time.seconds(size)

        return plan.clock.epochs * of_a_pass(int(plan.clock.batch_size_at(0))) / of_a_pass(batch_size)

    return budget


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
