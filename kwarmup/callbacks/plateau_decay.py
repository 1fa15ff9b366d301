"""Lower the learning rate where training has come to a standstill, whatever schedule it follows."""

from __future__ import annotations

from typing import final

from kwarmup import applied, scaled
from kwarmup.errors import value_error
from kwarmup.length import number
from kwarmup.plateau import Plateau


@final
class PlateauDecay(Plateau):
    """Multiplies the learning rate by `factor` after `patience` checks in a row without an improvement.

    The optimizer may follow any schedule, such as a warmup, or a plain number: from the first decay on
    every value of it is multiplied. That holds in compiled steps, under `steps_per_execution`, gradient
    accumulation and mixed precision. A saved model keeps the factor; loaded, it goes on with it.

    A check is an improvement if the monitored value is better than the best one so far by more than
    `min_delta`. A value that is not finite never is, and never becomes the best.

    Args:
        monitor: a name in the logs: `"val_loss"`, `"loss"`, `"val_accuracy"` and so on.
        factor: what the learning rate is multiplied with, above 0 and below 1.
        patience: checks in a row without an improvement behind which it is, 1 or more. As in Keras;
            torch waits for one more, so that its `patience=10` is 11 here.
        min_delta: what an improvement must exceed, 0 or more, in the unit of the monitored value.
        mode: `"min"` or `"max"`, the better end; `"auto"` knows it for the loss and Keras's own metrics.
        cooldown: checks after a decay that do not count where they are no improvement, 0 or more. As in
            torch; in Keras the last of them does count, so that there 1 does nothing.
        min_factor: what the product of all decays does not go below, from 0 up and below 1.
        epochs: check behind every so many passes, the value in the logs of that pass. The default is 1.
        steps: check every so many updates instead, the mean of the monitored value over these alone. It
            comes from the sums that Keras keeps in single precision, so it must be a mean over the training
            data, as losses and accuracies are; a loss that is not finite hides the rest of its pass. Under
            `steps_per_execution` a check comes behind the execution in which its updates are over.

    A second `fit` with the same object goes on where the first ended; with another model, or behind
    updates that it has not seen, it begins anew. Its state is kept in the checkpoints of `Plan.fit`.
    Nothing else can set the learning rate beside it, as `WarmupDecay` does: put a `Schedule` into the optimizer.

    Raises:
        TypeError: if an argument is of another type, or `epochs` and `steps` are both given.
        ValueError: if one leaves its range; when training begins, if the learning rate is a function; and at
            the first check, if the logs do not hold the monitored value, nothing tells which end of it
            is the better one, or it is no mean where `steps` needs one.

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import PlateauDecay, Record, Schedule, hold, warmup
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    >>> model.compile(keras.optimizers.SGD(Schedule(warmup(steps=8) >> hold())), "mse")
    >>> x = np.ones((4, 1))
    >>> callbacks = [PlateauDecay("loss", factor=0.5, patience=2), Record()]
    >>> history = model.fit(x, 0 * x, batch_size=1, epochs=6, verbose=0, callbacks=callbacks)
    >>> history.history["learning_rate"]  # the second pass without an improvement is the third
    [0.375, 0.875, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        mode: str = "auto",
        cooldown: int = 0,
        min_factor: float = 0.0,
        *,
        epochs: int | None = None,
        steps: int | None = None,
    ):
        super().__init__(monitor, patience, min_delta, mode, cooldown, epochs, steps)
        self.factor = number("factor", factor, "PlateauDecay(factor=0.1)")
        if not 0 < self.factor < 1:
            raise value_error("factor", factor, "a number above 0 and below 1", "PlateauDecay(factor=0.1)")
        self.min_factor = number("min_factor", min_factor, "PlateauDecay(min_factor=1e-3)")
        if not 0 <= self.min_factor < 1:
            raise value_error(
                "min_factor", min_factor, "a number from 0 up and below 1", "PlateauDecay(min_factor=1e-3)"
            )

    def begin(self) -> None:
        """Put a factor into the optimizer, if there is none."""
        scaled.install(self.model)

    def act(self) -> None:
        """Lower the factor, but not below its least value; one that is there, or below already, is left alone."""
        factor = scaled.install(self.model).factor
        lower = max(factor * self.factor, self.min_factor)
        if lower < factor:
            scaled.change(self.model, lower, applied.updates(self.model.optimizer))
