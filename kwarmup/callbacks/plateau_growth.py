"""Grow the batch where training has come to a standstill, in place of a decay of the learning rate."""

from __future__ import annotations

from typing import final

from kwarmup import applied, scaled
from kwarmup.errors import value_error
from kwarmup.growth import unit_of
from kwarmup.length import number
from kwarmup.plan import Plan
from kwarmup.plateau import Plateau
from kwarmup.replan import with_batch_size


@final
class PlateauGrowth(Plateau):
    """Divides the batch size by `factor` after `patience` checks in a row without an improvement.

    Where `PlateauDecay` multiplies the learning rate by a factor, this one lets the batch grow by it: the
    ratio of learning rate and batch size, and with it the noise of the gradient, goes down alike, in fewer
    updates. What the largest batch size leaves over, the learning rate goes down by. Both take effect with the
    next pass over the data.

    It is for `Plan.fit`, which lets it change the plan; the one in force is the attribute `plan`. Growths are kept
    in the checkpoints of `Plan.fit`.

    Args:
        monitor: a name in the logs, as for `PlateauDecay`.
        factor: what the ratio of learning rate and batch size is multiplied with, above 0 and below 1: 0.5
            doubles the batch.
        patience: checks in a row without an improvement behind which it is, 1 or more.
        min_delta: what an improvement must exceed, 0 or more.
        mode: `"min"`, `"max"` or `"auto"`.
        cooldown: checks behind a growth that do not count where they are no improvement.
        max_batch_size: examples per update at most; sizes are rounded to what the plan's clock divides by.
        epochs: check behind every so many passes. The default is 1.
        steps: check every so many updates instead.

    All of these but the last-named three as for `PlateauDecay`, which says more.

    Raises:
        TypeError: if an argument is of another type, or `epochs` and `steps` are both given.
        ValueError: if one leaves its range; when training begins, if the plan moves its batch size by itself,
            begins above `max_batch_size`, or there is no plan; and at checks as `PlateauDecay`.

    Paper: Smith et al. 2018, "Don't Decay the Learning Rate, Increase the Batch Size".

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import Plan, PlateauGrowth
    >>> plan = Plan(learning_rate=0.1, batch_size=10, examples=100, epochs=6)
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    >>> model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    >>> growth = PlateauGrowth("loss", factor=0.5, patience=2, max_batch_size=20)
    >>> x = np.ones((100, 1))
    >>> history = plan.fit(model, x, 0 * x, verbose=0, callbacks=[growth])
    >>> growth.plan.clock.batch_size, int(model.optimizer.iterations)
    (10 * (hold(epochs=3) >> hold(2)), 45)
    >>> round(float(model.optimizer.learning_rate), 6)  # the fifth pass would have doubled it once more
    0.05
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.5,
        patience: int = 10,
        min_delta: float = 1e-4,
        mode: str = "auto",
        cooldown: int = 0,
        *,
        max_batch_size: int,
        epochs: int | None = None,
        steps: int | None = None,
    ):
        super().__init__(monitor, patience, min_delta, mode, cooldown, epochs, steps)
        self.factor = number("factor", factor, self.line("factor=0.5"))
        if not 0 < self.factor < 1:
            raise value_error(
                "factor",
                factor,
                "a number above 0 and below 1",
                self.line("factor=0.5"),
            )
        self.max_batch_size = self.whole_number("max_batch_size", max_batch_size, 1)
        self.plan: Plan | None = None
        self._batch_size = 0  # decided on, from the next pass on
        self._left_over = 1.0  # factor of the learning rate, likewise

    def line(self, arguments: str) -> str:
        """Return the line to write, for errors."""
        limit = "" if "max_batch_size" in arguments else ", max_batch_size=1024"
        return f"PlateauGrowth({arguments}{limit})"

    def replan(self, plan: Plan, epoch: int) -> Plan:
        """Return the plan with the batch size that was decided on; `Plan.fit` calls this before each pass."""
        now = plan.clock.batch_size_at(plan.clock.step_at(epochs=epoch))
        if epoch == 0 or self.plan is None:
            self._check_plan(plan, now, epoch)
            self._batch_size, self._left_over = now, 1.0
        elif self._batch_size != now:
            plan = with_batch_size(plan, self._batch_size, epoch)
        if self._left_over != 1:
            factor = scaled.install(self.model).factor * self._left_over
            scaled.change(self.model, factor, applied.updates(self.model.optimizer))
            self._left_over = 1.0
        self.plan = plan
        return plan

    def _check_plan(self, plan: Plan, now: int, epoch: int) -> None:
        if now > self.max_batch_size:
            raise value_error(
                "max_batch_size",
                self.max_batch_size,
                f"{now} or more, with which the plan begins",
                f"PlateauGrowth(max_batch_size={16 * now})",
            )
        # What cannot grow is refused now, and not behind hours.
        with_batch_size(plan, now, epoch)

    def begin(self) -> None:
        """Put a factor into the optimizer, for what the largest batch size leaves over."""
        if self.plan is None:
            raise value_error(
                "callbacks",
                self,
                "a training by a plan, whose batch size it can change",
                "plan.fit(model, x, y, callbacks=[PlateauGrowth(max_batch_size=1024)])",
            )
        scaled.install(self.model)

    def act(self) -> None:
        """Decide on a larger batch, and on what that leaves over for the learning rate."""
        assert self.plan is not None
        clock = self.plan.clock
        unit = unit_of(clock)
        wanted = round(self._batch_size / self.factor / unit) * unit
        larger = max(self._batch_size, min(wanted, self.max_batch_size // unit * unit))
        growth = larger / self._batch_size
        # The plan moves the learning rate by growth ** scaling itself.
        self._left_over *= self.factor * growth ** (1 - self.plan.scaling)
        self._batch_size = larger
