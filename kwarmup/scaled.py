"""A learning rate times a factor that may change while training runs, in compiled steps too."""

from __future__ import annotations

from typing import Any, final

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from kwarmup import private
from kwarmup.distribute import replicas
from kwarmup.errors import value_error


@final
@keras.saving.register_keras_serializable(package="kwarmup")
class Scaled(LearningRateSchedule):
    """The learning rate that an optimizer had, times a factor.

    `install` puts one into an optimizer, `change` changes its factor. A saved model keeps both.

    Args:
        learning_rate: any Keras schedule, or a number.
        factor: what it is multiplied with.

    Example:

    >>> float(Scaled(0.5, factor=0.25)(0))
    0.125
    """

    def __init__(self, learning_rate: LearningRateSchedule | float, factor: float = 1.0):
        self.learning_rate = learning_rate
        # A variable, since a compiled step would never look at an attribute again.
        self.variable = keras.Variable(
            factor,
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name="factor",
        )
        self._before = self.factor
        self._changed_at = 0

    @property
    def factor(self) -> float:
        """The factor that the next update will use."""
        return _short(self.variable)

    def factor_of_last(self, updates: int) -> float:
        """Return the factor that the last of `updates` updates used; of none, that of the first."""
        # Callbacks look at an update when it is over, and some of them behind the one that changed the factor.
        return self._before if updates and updates == self._changed_at else self.factor

    def assign(self, factor: float, updates: int) -> None:
        """Set the factor behind `updates` updates; `change` does so in a model."""
        # At a second change behind one update, what that update used is known from the first.
        self._before, self._changed_at = self.factor_of_last(updates), updates
        self.variable.assign(factor)

    def __call__(self, step: Any) -> Any:
        rate = self.learning_rate
        value = rate(step) if isinstance(rate, LearningRateSchedule) else rate
        return ops.multiply(ops.cast(ops.convert_to_tensor(value), "float32"), self.variable)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs, as plain data."""
        return {
            "learning_rate": keras.saving.serialize_keras_object(self.learning_rate),
            "factor": self.factor,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaled:
        """Return the schedule that `get_config` describes."""
        return cls(keras.saving.deserialize_keras_object(config["learning_rate"]), config["factor"])

    def __repr__(self) -> str:
        return f"Scaled({self.learning_rate!r}, factor={self.factor!r})"


def unscaled(optimizer: keras.optimizers.Optimizer) -> LearningRateSchedule | None:
    """Return the schedule inside an optimizer, without a factor; `None` where the rate is a plain number."""
    schedule = private.schedule_of(optimizer)
    if isinstance(schedule, Scaled):
        schedule = schedule.learning_rate
    return schedule if isinstance(schedule, LearningRateSchedule) else None


def replace(optimizer: keras.optimizers.Optimizer, schedule: LearningRateSchedule) -> None:
    """Put another schedule into an optimizer that has one, under the same factor; for steps yet to be compiled."""
    rate = private.rate_of(optimizer)
    if isinstance(rate, Scaled):
        rate.learning_rate = schedule
    else:
        optimizer.learning_rate = schedule


def install(model: keras.Model) -> Scaled:
    """Return the `Scaled` in the optimizer of a compiled model, after putting one there if there is none.

    Raises:
        ValueError: if the model has no optimizer, or its learning rate is a function.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise value_error(
            "model", model.name, "a compiled model", "model.compile(SGD(Schedule(profile)), loss=...)"
        )
    rate: Any = private.rate_of(optimizer)
    if isinstance(rate, Scaled):
        return rate
    if isinstance(rate, keras.Variable):
        rate = _short(rate)
    elif not isinstance(rate, LearningRateSchedule):
        raise value_error(
            "learning_rate", rate, "a number or a schedule, which can be scaled", "SGD(Schedule(profile))"
        )
    with replicas.scope(model):
        scaled = Scaled(rate)
    optimizer.learning_rate = scaled
    # A step that has been compiled would go on with the learning rate that it knows.
    model.make_train_function(force=True)
    return scaled


def factor_of(model: keras.Model) -> float | None:
    """Return the factor in the optimizer of a model, `None` where there is none."""
    rate = private.rate_of(model.optimizer)
    return rate.factor if isinstance(rate, Scaled) else None


def change(model: keras.Model, factor: float, updates: int) -> None:
    """Set the factor in the optimizer of a model behind `updates` updates; the next one is the first to use it."""
    install(model).assign(factor, updates)
    if keras.backend.backend() == "jax":
        # What is not among the optimizer's own variables is a constant in JAX's compiled step; and among those
        # it would be one more than a model has that is loaded, which then loses the optimizer's whole state.
        model.make_train_function(force=True)


def _short(value: Any) -> float:
    # 0.1 as its author wrote it, not 0.10000000149: in single precision both are the same number.
    return float(str(np.float32(ops.convert_to_numpy(value))))
