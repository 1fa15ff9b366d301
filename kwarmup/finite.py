"""Notice a loss that is no longer a finite number, and say where."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kwarmup import applied


class LossNotFinite(FloatingPointError):
    """The loss became NaN or infinite; the message says at which update, and where to go on from.

    `Plan.fit` raises it, at most one update late. The weights are of no use then; a checkpoint is never
    written behind such a loss.

    Args:
        loss: what it was, `nan`, `inf` or `-inf`.
        update: how many updates were done, the one of this loss among them.
        epoch: the pass over the data, from 0.
        learning_rate: of the last of these updates.
        checkpoint: the newest one, if any.

    Example:

    >>> from kwarmup import LossNotFinite
    >>> raise LossNotFinite(float("nan"), update=120, epoch=1, learning_rate=0.48)
    Traceback (most recent call last):
    kwarmup.finite.LossNotFinite: The loss is nan at update 120, in pass 1, with a learning rate of 0.48.
    There is no checkpoint to go back to.
    Write: a lower peak, a longer warmup, or clipnorm=1.0 in the optimizer; or
    plan.fit(..., checkpoint_dir="runs/a", roll_back=0.5), which goes back and halves the learning rate by itself
    """

    def __init__(
        self, loss: float, update: int, epoch: int, learning_rate: float, checkpoint: Path | None = None
    ):
        self.loss, self.update, self.epoch = loss, update, epoch
        self.learning_rate, self.checkpoint = learning_rate, checkpoint
        self.gone_back = 0  # how often, without getting past this place
        super().__init__(loss, update, epoch, learning_rate, checkpoint)

    def __str__(self) -> str:
        kept = "There is no checkpoint to go back to."
        if self.checkpoint:
            kept = f"The last good checkpoint is {self.checkpoint}."
        if self.gone_back:
            kept += f" Training has gone back {self.gone_back} times and has not come past this place."
        if self.update <= 1:
            return (
                f"The loss is {self.loss} at the first update, with the weights that the model began with: it is not "
                "the learning rate.\n"
                "Write: assert np.isfinite(x).all() and np.isfinite(y).all(), and look at the loss and the weights"
            )
        return (
            f"The loss is {self.loss} at update {self.update:,}, in pass {self.epoch}, with a learning rate of "
            f"{self.learning_rate:.4g}.\n{kept}\n"
            "Write: a lower peak, a longer warmup, or clipnorm=1.0 in the optimizer; or\n"
            'plan.fit(..., checkpoint_dir="runs/a", roll_back=0.5), which goes back and halves the learning rate '
            "by itself"
        )


class FiniteLoss:
    """Raises once the loss of a training is not a finite number.

    Each loss is looked at when the next update is under way, so that nothing waits for the device. Keras's
    logs hold the mean over the pass, in which a loss that is not finite stays.

    Args:
        optimizer: tells the learning rate.
        checkpoint: returns the newest checkpoint, if any.
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, checkpoint: Callable[[], Path | None] = lambda: None
    ):
        self.optimizer, self.checkpoint = optimizer, checkpoint
        self._waiting: tuple[Any, int, int] | None = None

    def updated(self, logs: dict[str, Any] | None, update: int, epoch: int) -> None:
        """Take the logs behind `update` updates, in pass `epoch`, and look at those taken before.

        Raises:
            LossNotFinite: if the loss before was not finite.
        """
        self.check()
        if logs and "loss" in logs:
            self._waiting = logs["loss"], update, epoch

    def check(self) -> None:
        """Look at the loss that was taken last; no checkpoint may be written behind one that is not finite.

        Raises:
            LossNotFinite: if it was not finite.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        value, update, epoch = waiting
        loss = float(keras.ops.convert_to_numpy(value))
        if not math.isfinite(loss):
            rate = applied.learning_rate(self.optimizer, update)
            raise LossNotFinite(loss, update, epoch, rate, self.checkpoint())
