"""What an optimizer has really done: how many updates, with which learning rate and batch size."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kwarmup.gained import Gained
from kwarmup.private import schedule_of
from kwarmup.scaled import Scaled, unscaled
from kwarmup.schedule import Schedule


def updates(optimizer: keras.optimizers.Optimizer) -> int:
    """Return how many updates the optimizer has applied; micro-batches and skipped steps do not count."""
    # A conversion by numpy works inside a distribution strategy too, where int() of a variable raises.
    return int(ops.convert_to_numpy(optimizer.iterations))


def learning_rate(optimizer: keras.optimizers.Optimizer, done: int | None = None) -> float:
    """Return the learning rate that the last of `done` updates used; of none, the one of the first.

    `None` for all updates so far. An optimizer with a plain number knows only the one of now.

    `optimizer.learning_rate` is the next one, and evaluating a schedule there costs as much as a small
    training step, so a kwarmup schedule is evaluated on the host.
    """
    schedule = schedule_of(optimizer)
    if schedule is None:
        return float(ops.convert_to_numpy(optimizer.learning_rate))
    done = updates(optimizer) if done is None else done
    inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
    # Keras hands its raw counter of micro-batches to a schedule: this is where it stood at the update.
    tick = max(0, done * (inner.gradient_accumulation_steps or 1) - 1)
    if isinstance(schedule, Scaled):
        return _at(schedule.learning_rate, tick) * schedule.factor_of_last(done)
    return _at(schedule, tick)


def _at(rate: Any, tick: int) -> float:
    if isinstance(rate, Gained):
        return rate.used  # what it has used cannot be worked out again
    if isinstance(rate, Schedule):
        return float(rate.curve.at_tick(np.asarray(tick, "int64"), np, "int64", "float64"))
    return rate if isinstance(rate, float) else float(ops.convert_to_numpy(rate(tick)))


def batch_size(optimizer: keras.optimizers.Optimizer) -> int | None:
    """Return the batch size that the plan has for the last update; before the first update, for that one.

    Known where the optimizer follows a kwarmup schedule whose clock has a batch size that moves; else `None`.
    """
    schedule = unscaled(optimizer)
    clock = schedule.clock if isinstance(schedule, Schedule) else None
    if clock is None or isinstance(clock.batch_size, int):
        return None
    return int(clock.batch_size_at(max(0, updates(optimizer) - 1)))
