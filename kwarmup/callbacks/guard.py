"""Compare what Keras's own `fit` runs with the plan."""

from __future__ import annotations

from typing import Any, final

import keras

from kwarmup import guard
from kwarmup.errors import type_error
from kwarmup.plan import Plan


@final
class Guard(keras.callbacks.Callback):
    """Raises where Keras's `fit` does not run what the plan says, before the first update if that can be seen.

    For `model.fit(x, y, **plan.fit_arguments, callbacks=[Guard(plan)])`, and with `plan.batches(x, y)` as
    the data. `Plan.fit` does the same by itself.

    Args:
        plan: what should happen.

    Before the first update it compares with the plan: the epochs; the batches in each, and with them a
    `batch_size` that was forgotten, other data or another `steps_per_epoch`; the kwarmup schedule in the
    optimizer, its accumulation, and the updates it has done, none or those in front of `initial_epoch`; and
    the replicas. A number or a Keras schedule in the optimizer is left alone, as a learning rate of its own.

    No callback is shown the data. So another batch size, where the number of batches is right, is found behind
    the first batch, by what Keras has counted, and the examples and updates of an epoch behind the first. There
    too data of another length is found, if Keras does not know its length before. A model with a training
    step of its own counts as it likes: of that only the updates are compared.

    Raises:
        TypeError: if `plan` is no plan.
        ValueError: before the first update; both numbers are said.
        RuntimeError: behind the first batch or an epoch; both numbers are said.

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import Guard, Plan
    >>> plan = Plan(learning_rate=0.1, batch_size=50, examples=100, epochs=3)
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    >>> x = np.ones((100, 1))
    >>> history = model.fit(x, x, epochs=3, verbose=0, callbacks=[Guard(plan)])
    Traceback (most recent call last):
    ValueError: `steps_per_epoch`: expected 2 batches in an epoch, as in Clock(examples=100, epochs=3, batch_size=50).
    Received: 4 in fit, as 100 examples have with Keras's default, batch_size=32
    Write: model.fit(x, y, **plan.fit_arguments)
    """

    def __init__(self, plan: Plan):
        super().__init__()
        if not isinstance(plan, Plan):
            raise type_error("plan", plan, "a Plan", "Guard(plan)")
        self.plan = plan
        self._begin: int | None = None  # the epoch that this training begins with
        self._epoch = 0
        self._at_first_batch = self._within_epoch = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._begin = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._begin is None:
            guard.check_fit(self.plan, self.params["epochs"], self.params["steps"])
            guard.check_model(self.plan, self.model, self._updates_before(epoch))
            self._begin, self._at_first_batch = epoch, True
        self._epoch, self._within_epoch = epoch, True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._at_first_batch:
            self._at_first_batch = False
            self._check_counted(batch + 1)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._epoch_ends()  # Validation counts anew.

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch_ends()

    def _epoch_ends(self) -> None:
        if self._within_epoch and not self.model.stop_training:
            planned = self._updates_before(self._epoch + 1)
            guard.check_done(
                self.plan,
                self.model.optimizer,
                planned,
                f"epoch {self._epoch}",
                unknown_length=self.params["steps"] is None,
            )
            if self._epoch == self._begin:
                self._check_counted(self._steps)
        self._within_epoch = False

    def _check_counted(self, batches: int) -> None:
        first = self._epoch * self._steps
        guard.check_counted(self.plan, first, first + batches, guard.examples_counted(self.model))

    @property
    def _steps(self) -> int:
        return self.plan.fit_arguments["steps_per_epoch"]

    def _updates_before(self, epoch: int) -> int:
        return epoch * self._steps // self.plan.clock.gradient_accumulation_steps
