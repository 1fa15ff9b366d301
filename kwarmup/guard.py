"""Does training really run what the plan says? Asked before the first update, answered with both numbers."""

from __future__ import annotations

from typing import Any

import keras

from kwarmup import applied
from kwarmup.clock import Clock
from kwarmup.errors import Code, value_error
from kwarmup.optimizers.hyperparameter import Scheduling
from kwarmup.plan import Plan
from kwarmup.scaled import unscaled
from kwarmup.schedule import Schedule


def check_model(plan: Plan, model: keras.Model, begun: int = 0) -> None:
    """Compare a compiled model with the plan it is to be trained by.

    Args:
        plan: what should happen.
        model: a compiled model.
        begun: updates that are over already.

    Raises:
        ValueError: if the model is not compiled, if its optimizer follows another schedule or another clock,
            accumulates another number of micro-batches, or has done another number of updates; or if the
            model is distributed over another number of replicas.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise value_error(
            "model", model.name, "a compiled model", "model.compile(SGD(plan.learning_rate), loss=...)"
        )
    schedule = unscaled(optimizer)
    if isinstance(schedule, Schedule) and schedule != plan.learning_rate:
        raise value_error(
            "learning_rate",
            schedule,
            f"the plan's own, {plan.learning_rate!r}",
            "model.compile(SGD(plan.learning_rate), loss=...)",
        )
    inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
    for name, scheduled in inner.schedules.items() if isinstance(inner, Scheduling) else ():
        if scheduled.clock not in (None, plan.clock):
            raise value_error(
                name,
                Code(f"{scheduled!r} in the optimizer, {plan.clock!r} in the plan"),
                "the plan's clock in both",
                f"kw.{type(inner).__name__}(plan.learning_rate, {name}={scheduled.profile!r}), "
                "which takes the plan's",
            )
    parts = inner.gradient_accumulation_steps or 1
    compare(
        "gradient_accumulation_steps",
        "the optimizer",
        parts,
        plan.clock,
        plan.clock.gradient_accumulation_steps,
    )
    replicas = getattr(getattr(model, "distribute_strategy", None), "num_replicas_in_sync", 1)
    compare("replicas", "the model's strategy", replicas, plan.clock, plan.clock.replicas)
    done = applied.updates(optimizer)
    if done != begun:
        raise value_error(
            "iterations",
            Code(f"an optimizer that has done {done} updates"),
            f"{begun}, where the plan begins",
            "model.compile(SGD(plan.learning_rate), loss=...) once more, which makes a new optimizer",
        )


def compare(name: str, who: str, real: Any, clock: Clock, planned: Any) -> None:
    """Raise a `ValueError` that says both numbers, where they differ."""
    if real != planned:
        raise value_error(
            name,
            Code(f"{real} in {who}, {planned} in {clock!r}"),
            "the same in both",
            f"plan.replace({name}={real!r})",
        )


def check_updates(plan: Plan, optimizer: keras.optimizers.Optimizer, epoch: int) -> None:
    """Compare the updates done behind pass `epoch` with the clock's.

    Raises:
        RuntimeError: if they differ: the data held another number of examples.
    """
    clock = plan.clock
    planned = clock.first_micro_batch(epoch + 1) // clock.gradient_accumulation_steps
    done = applied.updates(optimizer)
    # Under a dynamic loss scale, steps whose gradients overflow are skipped and not counted.
    skipping = hasattr(optimizer, "inner_optimizer")
    if done != planned and not (skipping and done < planned):
        raise RuntimeError(
            f"After pass {epoch} the optimizer has done {done} updates, but the plan has {planned}: the data "
            f"does not hold the {clock.examples} examples a pass that {clock!r} counts.\n"
            "Write: plan.replace(examples=...) with the number that a pass really has"
        )
