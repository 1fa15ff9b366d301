"""Gradient descent whose momentum may follow a profile, and may be corrected for a moving learning rate."""

from __future__ import annotations

from typing import Any, final

import keras
from keras import ops

from kwarmup.optimizers.arguments import Scheduled
from kwarmup.optimizers.hyperparameter import Hyperparameter, Scheduling
from kwarmup.private import index_of


@final
@keras.saving.register_keras_serializable(package="kwarmup")
class SGD(Scheduling, keras.optimizers.SGD):
    """Keras's `SGD`, with a momentum and a weight decay that may be profiles or schedules.

    Update of a weight w with gradient g, learning rate lr and momentum m, all at this update:

        v = m v - lr g            w = w + v

    as in Keras, or with `momentum_correction`

        v = m v - g               w = w + lr v

    as in torch. Both are the same algorithm only while the learning rate does not move: in the first the
    velocity still has the learning rates of past updates in it, so after a jump it takes about 1 / (1 - m)
    updates to get up to speed. Goyal et al. correct that by multiplying the velocity with lr / previous
    lr; the second form does it without a division, and so also where a warmup starts from 0.

    Args:
        learning_rate: a number, a profile, or any schedule that Keras takes.
        momentum: a number, a profile or a `Schedule`, with values from 0 to 1.
        nesterov: look ahead: in place of v, the weight moves by `m v - lr g`.
        weight_decay: a number, a profile or a `Schedule`, 0 or more; `w = w - lr weight_decay w` before
            the update. (torch's adds `weight_decay w` to the gradient instead.)
        momentum_correction: keep the velocity free of the learning rate, so that a jump of the learning
            rate takes effect at once.
        **arguments: what `keras.optimizers.SGD` takes besides: `clipnorm`, `use_ema`,
            `gradient_accumulation_steps` and so on.

    A profile is bound to the clock of the learning rate, if that has one. Each value is a function of the
    number of updates done, so it is right in compiled steps, after loading and past the end of the run.

    Raises:
        TypeError: if a hyperparameter is of another type.
        ValueError: if a value leaves its range, two schedules have different clocks, or one counts another
            number of micro-batches per update.

    Paper: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 3 (momentum correction).

    Example:

    >>> from kwarmup import SGD, one_cycle, one_cycle_momentum
    >>> optimizer = SGD(0.1 * one_cycle(1_000), momentum=one_cycle_momentum(1_000), nesterov=True)
    >>> round(float(optimizer.momentum), 6)
    0.95
    """

    momentum = Hyperparameter()
    weight_decay = Hyperparameter()

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: Scheduled = 0.0,
        nesterov: bool = False,
        weight_decay: Scheduled | None = None,
        *,
        momentum_correction: bool = False,
        **arguments: Any,
    ):
        hyperparameters = {"momentum": momentum, "weight_decay": weight_decay}
        super().__init__(learning_rate, hyperparameters, nesterov=nesterov, **arguments)
        self.momentum_correction = bool(momentum_correction)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable by its gradient; Keras calls this."""
        # Keras asks here whether the momentum is 0, which nobody can say of a tensor.
        if not self.momentums:
            super().update_step(gradient, variable, learning_rate)
            return
        velocity = self.momentums[index_of(self, variable)]
        learning_rate = ops.cast(learning_rate, variable.dtype)
        momentum = ops.cast(self.momentum, variable.dtype)
        step = ops.cast(gradient, variable.dtype)
        if not self.momentum_correction:
            step = ops.multiply(step, learning_rate)
        self.assign(velocity, ops.subtract(ops.multiply(velocity, momentum), step))
        move = ops.subtract(ops.multiply(velocity, momentum), step) if self.nesterov else velocity
        if self.momentum_correction:
            move = ops.multiply(move, learning_rate)
        self.assign_add(variable, move)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs, as plain data."""
        return {**super().get_config(), "momentum_correction": self.momentum_correction}
