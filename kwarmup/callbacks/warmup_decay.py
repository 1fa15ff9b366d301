"""Drive a model that was compiled with a plain learning rate through a profile."""

from __future__ import annotations

from typing import Any, final

import keras

from kwarmup import applied
from kwarmup.clock import Clock
from kwarmup.curve import Curve
from kwarmup.errors import Code, value_error
from kwarmup.private import schedule_of
from kwarmup.profile import Profile


@final
class WarmupDecay(keras.callbacks.Callback):
    """Sets the optimizer's learning rate before each batch, or each epoch, from a profile.

    For models whose optimizer somebody else made: a loaded model, a framework that builds the optimizer
    itself. The values are those of `Schedule(profile, clock)`, which is faster and the first choice
    where the optimizer is yours. The position is read from `optimizer.iterations`, so a training that
    goes on in a second `fit` goes on in the profile.

    Args:
        profile: what should happen, its peak in front; a number stands for a constant.
        clock: how long the run is; not needed where all lengths are in steps.
        every: `"batch"` sets it before each update; `"epoch"` once a pass, to the value of the pass's
            first update.

    Raises:
        TypeError: if `profile` is neither a profile nor a number.
        ValueError: if `every` is neither word, or a phase needs a clock and there is none; and when
            training begins, if the optimizer already follows a schedule, if `steps_per_execution` is above 1
            with `every="batch"`, or if the clock counts another accumulation than the optimizer.

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import WarmupDecay, warmup
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> x = np.ones((4, 1))
    >>> history = model.fit(x, x, batch_size=1, verbose=0, callbacks=[WarmupDecay(warmup(steps=8))])
    >>> float(model.optimizer.learning_rate)  # of update 3
    0.375
    """

    def __init__(self, profile: Profile | float, clock: Clock | None = None, every: str = "batch"):
        super().__init__()
        if every not in ("batch", "epoch"):
            raise value_error(
                "every", every, '"batch" or "epoch"', 'WarmupDecay(profile, clock, every="epoch")'
            )
        self.curve = Curve(profile, clock)
        self.every = every

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        optimizer = self.model.optimizer
        if schedule_of(optimizer) is not None:
            raise value_error(
                "learning_rate",
                schedule_of(optimizer),
                "a plain number in the optimizer, which this callback then sets",
                "SGD(Schedule(profile, clock)) without the callback, or SGD(0.1) with it",
            )
        if self.every == "batch" and self.model.steps_per_execution > 1:
            raise value_error(
                "steps_per_execution",
                self.model.steps_per_execution,
                "1, since a callback runs only between executions, not between their updates",
                'SGD(Schedule(profile, clock)), or WarmupDecay(profile, clock, every="epoch")',
            )
        clock, inner = self.curve.clock, getattr(optimizer, "inner_optimizer", optimizer)
        parts = inner.gradient_accumulation_steps or 1
        if clock is not None and clock.gradient_accumulation_steps != parts:
            raise value_error(
                "gradient_accumulation_steps",
                Code(f"{clock.gradient_accumulation_steps} in the clock, {parts} in the optimizer"),
                "the same number in both",
                f"Clock(..., gradient_accumulation_steps={parts})",
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.every == "epoch":
            self._set()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.every == "batch":
            self._set()

    def _set(self) -> None:
        optimizer = self.model.optimizer
        optimizer.learning_rate = self.curve(applied.updates(optimizer))
