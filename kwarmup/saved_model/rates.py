"""The learning rate that travels with a model: as a function of the update, and what it must answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kwarmup.errors import value_error
from kwarmup.gained import Gained
from kwarmup.plan import Plan
from kwarmup.private import schedule_of
from kwarmup.scaled import unscaled
from kwarmup.schedule import Schedule

_ASKED = 100


@dataclass(frozen=True)
class Rate:
    """A learning rate as an endpoint, and its values to compare with.

    Args:
        at: the learning rate at a tensor of updates.
        steps: the updates to compare it at.
        expected: the learning rates there.
    """

    at: Callable[[Any], Any]
    steps: Any
    expected: Any


def rate_of(model: keras.Model, plan: Plan | None, trainable: bool) -> Rate | None:
    """Return the learning rate of the plan; without one, of the optimizer's schedule; `None` for a plain number.

    Raises:
        ValueError: if the model shall train on, and its optimizer follows another schedule than the plan's.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    schedule = schedule_of(optimizer) if isinstance(optimizer, keras.optimizers.Optimizer) else None
    if plan is not None:
        own = unscaled(optimizer) if schedule is not None else None
        if trainable and isinstance(own, Schedule) and own != plan.learning_rate:
            raise value_error(
                "plan",
                plan,
                f"one with the learning rate that the optimizer will go on with, {own!r}",
                "export(model, path, plan=plan, trainable=True)",
            )
        steps = _spread(plan.clock.steps)
        return Rate(_per_update(plan.learning_rate, plan.curve.parts), steps, plan.curve(steps))
    if schedule is None or isinstance(
        unscaled(optimizer), Gained
    ):  # which is measured, no function of the update
        return None
    inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(schedule, Schedule):
        steps = _spread(schedule.clock.steps if schedule.clock else schedule.curve.end)
        return Rate(_per_update(schedule, schedule.curve.parts), steps, schedule.curve(steps))
    one = _per_update(schedule, inner.gradient_accumulation_steps or 1)
    steps = _spread(1_000)
    values = [float(keras.ops.convert_to_numpy(one(keras.ops.convert_to_tensor(step)))) for step in steps]
    # Keras's own schedules may branch on their step, which an array cannot decide.
    return Rate(lambda step: keras.ops.map(one, step), steps, np.array(values))


def _per_update(schedule: Any, parts: int) -> Callable[[Any], Any]:
    # Keras hands its raw counter of micro-batches to a schedule.
    return lambda step: schedule(step * parts)


def _spread(steps: int) -> Any:
    """Return a hundred updates from the first one to some behind the last."""
    return np.unique(np.linspace(0, 1.1 * max(1, steps), _ASKED).astype("int64"))
