"""Hyperparameters of an optimizer that are functions of its step, read as their value at this update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from kwarmup.errors import message
from kwarmup.optimizers.arguments import KNOWN, bind
from kwarmup.schedule import Schedule

#: Where an optimizer keeps what its hyperparameters are read as for the moment; not through `setattr`, since
#: Keras and TensorFlow would track a dictionary and what is in it.
_READ_AS = "_hyperparameters_read_as"


class Hyperparameter:
    """An attribute that holds a number or a `Schedule` and is read as a number or a tensor."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        if optimizer is None:
            return self
        own = vars(optimizer)
        read_as = own.get(_READ_AS, {})
        if self.name in read_as:
            return read_as[self.name]
        if self.name not in own:
            raise AttributeError(f"{type(optimizer).__name__} has no {self.name} yet")
        value = own[self.name]
        return value(_tick(optimizer)) if isinstance(value, Schedule) else value

    def __set__(self, optimizer: Any, value: Any) -> None:
        if self.name in vars(optimizer):
            made = f"model.compile(kw.{type(optimizer).__name__}(..., {self.name}={KNOWN[self.name][1]}))"
            expected = "no change once it is made, since a compiled step never looks at it again"
            raise AttributeError(message(self.name, value, expected, made))
        vars(optimizer)[self.name] = value


class Scheduling:
    """What an optimizer with such attributes inherits from in front of Keras's class.

    Keras reads hyperparameters once for every variable; here each schedule is evaluated once an update.
    """

    def __init__(self, learning_rate: Any, hyperparameters: dict[str, Any], **arguments: Any):
        given = {"learning_rate": learning_rate, **hyperparameters}
        bound = bind(type(self).__name__, given, arguments.get("gradient_accumulation_steps") or 1)
        schedules = {name: value for name, value in bound.items() if isinstance(value, Schedule)}
        schedules.pop("learning_rate", None)
        # Keras wants to see numbers; the schedules take their places behind its back.
        numbers = {name: schedule.curve(0) for name, schedule in schedules.items()}
        super().__init__(**{**bound, **numbers}, **arguments)
        vars(self).update(schedules)

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The hyperparameters that are scheduled, by name; the learning rate is not among them."""
        own = vars(self)
        return {name: own[name] for name in KNOWN if isinstance(own.get(name), Schedule)}

    def rebind(self, schedules: dict[str, Schedule]) -> None:
        """Put other schedules in the places of those that are there; for steps yet to be compiled."""
        vars(self).update(schedules)

    def build(self, variables: list[Any]) -> None:
        """Make the slots for the variables; Keras calls this."""
        # Keras compares with 0 here to know what an update will need: a schedule is not 0.
        with _read_as(self, self.schedules):
            super().build(variables)  # type: ignore[misc]

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Do one update, or one micro-batch of it; Keras calls this."""
        own, tick = vars(self), _tick(self)
        values = {name: schedule(tick) for name, schedule in self.schedules.items()}
        own[_READ_AS] = {**values, "learning_rate": self.learning_rate}
        try:
            super().apply(grads, trainable_variables)  # type: ignore[misc]
        finally:
            # Nothing is restored: the replicas of a MirroredStrategy are threads that take turns in here.
            own.pop(_READ_AS, None)

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the next update; within an update, of this one."""
        read_as = vars(self).get(_READ_AS, {})
        if "learning_rate" in read_as:
            return read_as["learning_rate"]
        return super().learning_rate  # type: ignore[misc]

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs, as plain data."""
        plain = {name: keras.saving.serialize_keras_object(value) for name, value in self.schedules.items()}
        with _read_as(self, plain):
            return super().get_config()  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        """Return the optimizer that `get_config` describes."""
        # Keras does this for the learning rate alone.
        config = dict(config)
        for name in KNOWN:
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return super().from_config(config, custom_objects)  # type: ignore[misc]


def _tick(optimizer: Any) -> Any:
    """The raw counter that a `Schedule` takes, at the first micro-batch of this update."""
    parts = optimizer.gradient_accumulation_steps
    return optimizer.iterations * parts if parts else optimizer.iterations


@contextmanager
def _read_as(optimizer: Any, values: dict[str, Any]) -> Iterator[None]:
    own = vars(optimizer)
    before = own.get(_READ_AS, {})
    own[_READ_AS] = values
    try:
        yield
    finally:
        own[_READ_AS] = before
