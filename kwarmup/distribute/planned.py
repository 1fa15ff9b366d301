"""A plan for several devices: does every batch divide, and what is the nearest plan where it does?"""

from __future__ import annotations

import math
import warnings
from typing import Any

from kwarmup.distribute import replicas
from kwarmup.errors import Code, type_error, value_error
from kwarmup.plan import Plan, PlanWarning


def on(plan: Plan, strategy: Any, scale_batch: bool) -> Plan:
    """Return `plan` for the devices of a strategy; see `Plan.on`."""
    if not hasattr(strategy, "num_replicas_in_sync") and not hasattr(strategy, "device_mesh"):
        raise type_error(
            "strategy", strategy, "a tf.distribute strategy or a keras.distribution.DataParallel",
            "plan.on(kw.distribute.strategy())",
        )  # fmt: skip
    count = replicas.count(strategy)
    changes: dict[str, Any] = {"replicas": count}
    if scale_batch:
        changes |= _scaled(plan, count)
    elif plan.follows is None:
        _check(plan, count)
    found = _replaced(plan, changes)
    if hasattr(strategy, "device_mesh"):
        _check_partial(found, count)
    return found


def _check_partial(plan: Plan, count: int) -> None:
    """JAX cuts arrays into equal pieces only, a last, partial batch too."""
    for _, segment in plan.clock.segments_between(0, None):
        last = segment.pass_examples - (segment.pass_ticks - 1) * segment.micro_batch
        if last % count:
            raise value_error(
                "strategy",
                Code(f"{count} devices on JAX, and a last batch of {last} examples in a pass of {plan!r}"),
                f"last batches that divide by {count} too: JAX cuts a batch into equal pieces only",
                "plan.replace(drop_remainder=True).on(strategy)",
            )


def _scaled(plan: Plan, count: int) -> dict[str, Any]:
    if plan.scaling == 0:
        raise value_error(
            "scale_batch",
            Code("True, of a plan with scaling=0"),
            "a plan that says how the learning rate moves with the batch size",
            "plan.replace(scaling=1).on(strategy, scale_batch=True) for the linear rule, scaling=0.5 for the "
            "square-root rule",
        )
    clock = plan.clock
    if plan.follows is not None:
        raise value_error(
            "scale_batch",
            Code(f"True, of a plan with batch_size={plan.follows!r}"),
            "a batch size that is known before training",
            "plan.replace(batch_size=64).on(strategy, scale_batch=True)",
        )
    return {
        "learning_rate": count**plan.scaling * plan.profile,
        "batch_size": count * clock.batch_size,
        # Rounded like this, each size is the one of before times the devices.
        "multiple_of": count * clock.multiple_of,
        **{
            name: count * getattr(clock, name)
            for name in ("min_batch_size", "max_batch_size")
            if getattr(clock, name) is not None
        },
    }


def _check(plan: Plan, count: int) -> None:
    clock = plan.clock
    unit = count * clock.gradient_accumulation_steps
    sizes = sorted({segment.batch_size for _, segment in clock.segments_between(0, None)})
    odd = [size for size in sizes if size % unit]
    if not odd:
        return
    by = f"{count} replicas"
    if clock.gradient_accumulation_steps > 1:
        by += f" × {clock.gradient_accumulation_steps} accumulated micro-batches"
    raise value_error(
        "strategy",
        Code(f"{by}, and a batch of {odd[0]} in {plan!r}"),
        f"batch sizes that divide by {unit} in every phase",
        f"plan.replace({_nearest(plan, unit)}).on(strategy)",
    )


def _nearest(plan: Plan, unit: int) -> str:
    """The arguments of the nearest plan whose batch sizes divide."""
    clock = plan.clock
    if isinstance(clock.batch_size, int):
        # A half goes up: a larger batch rather than none.
        return f"batch_size={max(unit, (2 * clock.batch_size + unit) // (2 * unit) * unit)}"
    step = math.lcm(unit, clock.multiple_of)
    changes = {"multiple_of": step}
    for name in ("min_batch_size", "max_batch_size"):
        limit = getattr(clock, name)
        if limit is not None and limit % step:
            changes[name] = -(-limit // step) * step
    return ", ".join(f"{name}={value}" for name, value in changes.items())


def _replaced(plan: Plan, changes: dict[str, Any]) -> Plan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)  # said where the plan was made
        return plan.replace(**changes)
