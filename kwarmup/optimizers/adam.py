"""Adam and AdamW with betas, epsilon and weight decay that may follow profiles."""

from __future__ import annotations

from typing import Any, final

import keras

from kwarmup.optimizers.arguments import Scheduled
from kwarmup.optimizers.hyperparameter import Hyperparameter, Scheduling


@final
@keras.saving.register_keras_serializable(package="kwarmup")
class Adam(Scheduling, keras.optimizers.Adam):
    """Keras's `Adam`, with betas, an epsilon and a weight decay that may be profiles or schedules.

    Update t, from 1, of a weight w with gradient g, all values being those of this update:

        m = beta_1 m + (1 - beta_1) g
        v = beta_2 v + (1 - beta_2) g²
        w = w - lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    The correction of the bias takes today's beta to the power of t, as Keras and torch do, not the
    product of all betas so far. While t is not far above 1 / (1 - beta) these differ where a beta
    moves: after 100 updates at beta_2 = 0.999, a jump to 0.996 makes the next update 1.8 times as
    large. After some thousand updates both are 0.

    Args:
        learning_rate: a number, a profile, or any schedule that Keras takes.
        beta_1: decay of the first moment, from 0 and below 1: a number, a profile or a `Schedule`.
        beta_2: decay of the second moment, likewise.
        epsilon: what the divisor is at least, 0 or more, likewise.
        amsgrad: divide by the largest second moment so far.
        weight_decay: a number, a profile or a `Schedule`, 0 or more; `w = w - lr weight_decay w` before
            the update.
        **arguments: what `keras.optimizers.Adam` takes besides: `clipnorm`, `use_ema`,
            `gradient_accumulation_steps` and so on.

    A profile is bound to the clock of the learning rate, if that has one.

    Raises:
        TypeError: if a hyperparameter is of another type.
        ValueError: if a value leaves its range, two schedules have different clocks, or one counts another
            number of micro-batches per update.

    Paper: Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization".

    Example:

    >>> from kwarmup import Adam, linear, one_cycle_momentum
    >>> optimizer = Adam(beta_1=one_cycle_momentum(1_000), beta_2=linear(start=0.95, to=0.999, steps=500))
    >>> round(float(optimizer.beta_2), 6)
    0.95
    """

    beta_1 = Hyperparameter()
    beta_2 = Hyperparameter()
    epsilon = Hyperparameter()
    weight_decay = Hyperparameter()

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Scheduled = 0.9,
        beta_2: Scheduled = 0.999,
        epsilon: Scheduled = 1e-7,
        amsgrad: bool = False,
        weight_decay: Scheduled | None = None,
        **arguments: Any,
    ):
        moving = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(learning_rate, moving, amsgrad=amsgrad, **arguments)


@final
@keras.saving.register_keras_serializable(package="kwarmup")
class AdamW(Scheduling, keras.optimizers.AdamW):
    """Keras's `AdamW`, with a weight decay, betas and an epsilon that may be profiles or schedules.

    The update is that of `Adam`; before it, `w = w - lr weight_decay w`. Since the learning rate is in
    there as well, a constant weight decay already goes down with the learning rate.

    Args:
        learning_rate: a number, a profile, or any schedule that Keras takes.
        weight_decay: 0 or more: a number, a profile or a `Schedule`.
        beta_1: decay of the first moment, from 0 and below 1, likewise.
        beta_2: decay of the second moment, likewise.
        epsilon: what the divisor is at least, 0 or more, likewise.
        amsgrad: divide by the largest second moment so far.
        **arguments: what `keras.optimizers.AdamW` takes besides.

    A profile is bound to the clock of the learning rate, if that has one.

    Raises:
        TypeError: if a hyperparameter is of another type.
        ValueError: if a value leaves its range, two schedules have different clocks, or one counts another
            number of micro-batches per update.

    Paper: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization".

    Example:

    >>> from kwarmup import AdamW, cosine, warmup
    >>> optimizer = AdamW(
    ...     1e-3 * (warmup(steps=500) >> cosine(steps=9_500)), weight_decay=0.1 * cosine(steps=10_000)
    ... )
    >>> round(float(optimizer.weight_decay), 6)
    0.1
    """

    beta_1 = Hyperparameter()
    beta_2 = Hyperparameter()
    epsilon = Hyperparameter()
    weight_decay = Hyperparameter()

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: Scheduled = 0.004,
        beta_1: Scheduled = 0.9,
        beta_2: Scheduled = 0.999,
        epsilon: Scheduled = 1e-7,
        amsgrad: bool = False,
        **arguments: Any,
    ):
        moving = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(learning_rate, moving, amsgrad=amsgrad, **arguments)
