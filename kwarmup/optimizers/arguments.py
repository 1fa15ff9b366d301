"""What may be given for a hyperparameter, a number, a profile or a schedule, and what it is checked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kwarmup.clock import Clock
from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import number
from kwarmup.profile import Profile
from kwarmup.schedule import Schedule

Scheduled = float | Profile | Schedule

#: What may be scheduled: below which value it stays, from 0 up, if that is checked, and a line that works.
KNOWN = {
    "learning_rate": (None, "0.1 * (warmup(steps=500) >> cosine(steps=9_500))"),
    "momentum": (1.0, "linear(start=0.85, to=0.95, steps=500)"),
    "beta_1": (1.0, "linear(start=0.85, to=0.95, steps=500)"),
    "beta_2": (1.0, "linear(start=0.95, to=0.999, steps=500)"),
    "epsilon": (math.inf, "1e-7 * hold(steps=500)"),
    "weight_decay": (math.inf, "0.1 * cosine(steps=10_000)"),
}


def bind(optimizer: str, given: dict[str, Any], parts: int) -> dict[str, Any]:
    """Return numbers as floats, profiles as schedules on the clock of the others, anything else as it is.

    Args:
        optimizer: the name of its class, for errors.
        given: the learning rate and the hyperparameters, by name.
        parts: micro-batches per update.

    Raises:
        TypeError: if a hyperparameter is neither a number, a profile nor a `Schedule`.
        ValueError: if a value leaves its range, two schedules have different clocks, or one counts another
            number of micro-batches per update.
    """
    clock = _common_clock(given)
    return {name: _bind(optimizer, name, value, clock, parts) for name, value in given.items()}


def _common_clock(given: dict[str, Any]) -> Clock | None:
    clocks = {name: v.clock for name, v in given.items() if isinstance(v, Schedule) and v.clock is not None}
    first = next(iter(clocks.values()), None)
    for name, clock in clocks.items():
        if clock != first:
            raise value_error(
                name,
                clock,
                f"one clock for the whole run, which is {first!r} in {next(iter(clocks))}",
                f"{name}=Schedule(..., plan.clock), or the profile alone, which takes the others' clock",
            )
    return first


def _bind(optimizer: str, name: str, value: Any, clock: Clock | None, parts: int) -> Any:
    limit, example = KNOWN[name]
    write = f"kw.{optimizer}(..., {name}={example})"
    # Keras takes other schedules and functions for the learning rate, and no weight decay at all.
    if (value is None and name == "weight_decay") or (name == "learning_rate" and _is_keras(value)):
        return value
    if isinstance(value, Profile):
        value = Schedule(value, clock, None if clock else parts)
    if isinstance(value, Schedule):
        _check_parts(optimizer, name, value, parts)
    else:
        try:
            value = float(number(name, value, write))
        except TypeError:
            raise type_error(name, value, "a number, a profile or a Schedule", write) from None
    if limit is not None:
        _check_range(name, value, limit, write)
    return value


def _is_keras(value: Any) -> bool:
    return callable(value) and not isinstance(value, Schedule)


def _check_parts(optimizer: str, name: str, schedule: Schedule, parts: int) -> None:
    counted = schedule.curve.parts
    if counted == parts:
        return
    write = f"kw.{optimizer}(..., {name}={schedule.profile!r}), which counts as the optimizer does"
    if schedule.clock is not None:
        write = f"kw.{optimizer}(..., gradient_accumulation_steps={counted if counted > 1 else None})"
    raise value_error(
        "gradient_accumulation_steps",
        Code(f"{parts} in {optimizer}, {counted} in {name}={schedule!r}"),
        "the same in both",
        write,
    )


def _check_range(name: str, value: float | Schedule, limit: float, write: str) -> None:
    low, high = _extremes(value) if isinstance(value, Schedule) else (value, value)
    if low >= 0 and high < limit:
        return
    shown = value.profile if isinstance(value, Schedule) else value
    found = f"{low:g}" if low == high else f"from {low:g} to {high:g}"
    wanted = "values of 0 or more" if limit == math.inf else f"values from 0 and below {limit:g}"
    raise value_error(name, Code(f"{shown!r}, which is {found}"), wanted, write)


def _extremes(schedule: Schedule) -> tuple[float, float]:
    curve = schedule.curve
    steps = np.array([piece.tick // curve.parts for piece in curve.pieces])
    # Between the ends of a piece only a shape of the user can leave the values it has there.
    looked_at = np.concatenate([steps, steps[1:] - 1, np.linspace(0, curve.end, 1000).astype("int64")])
    values = curve(looked_at)
    return float(values.min()), float(values.max())
