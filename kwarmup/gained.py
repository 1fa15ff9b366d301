"""A schedule read at a pace of its own, times a gain: what AdaScale puts into an optimizer, and what it knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, final

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from kwarmup import noise
from kwarmup.parts import SAME
from kwarmup.schedule import Schedule

#: Of each variable its type and first value. The step is a whole number and a part, since single precision cannot
#: count beyond 2**24.
_STATE: dict[str, tuple[str, float]] = {
    "whole": ("int32" if keras.backend.backend() == "jax" else "int64", 0),
    "part": ("float32", 0.0),
    "gain": ("float32", 1.0),
    "trace": ("float32", 0.0),
    "squared_norm": ("float32", 0.0),
    "largest": ("float32", 0.0),
    "agreed": ("float32", 0.0),
    "used": ("float32", 0.0),
}


@final
@keras.saving.register_keras_serializable(package="kwarmup")
class Gained(LearningRateSchedule):
    """The learning rate of a schedule at its own step, times the gain of a larger batch.

    The step is how many updates with the base batch training is worth so far. All that it knows are
    variables, so that a compiled step can change them; a saved model keeps them.

    Args:
        learning_rate: a schedule for the base batch.
        state: what `get_config` has saved; nothing for a training that begins.

    Example:

    >>> from kwarmup import Schedule, warmup
    >>> gained = Gained(Schedule(warmup(steps=8)), {"whole": 2, "part": 0.5, "gain": 3.0})
    >>> float(gained(0)), gained.step
    (0.75, 2.5)
    """

    def __init__(self, learning_rate: Schedule, state: dict[str, float] | None = None):
        self.learning_rate = learning_rate
        self.state = {
            name: keras.Variable(
                (state or {}).get(name, first), dtype=dtype, trainable=False, autocast=False, name=name
            )
            for name, (dtype, first) in _STATE.items()
        }
        self._held: dict[str, Any] | None = None

    @contextlib.contextmanager
    def holding(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """While inside, the variables are read as these values, and what is assigned to them changes the yielded ones.

        For JAX, whose compiled steps take a variable for a constant, and hand on what they are given instead.
        """
        self._held = dict(values)
        try:
            yield self._held
        finally:
            self._held = None

    def __call__(self, step: Any) -> Any:
        # Not at the optimizer's step, which counts updates with the large batch.
        tick = self._read("whole") * self.learning_rate.curve.parts
        return ops.multiply(self.learning_rate(tick), self._read("gain"))

    @property
    def step(self) -> float:
        """The updates with the base batch that training is worth so far."""
        return int(self._value("whole")) + float(self._value("part"))

    @property
    def used(self) -> float:
        """The learning rate of the last measured update."""
        return float(self._value("used"))

    def seen(self, count: Any) -> None:
        """Note how many examples a batch holds; the largest is a full one."""
        self._write("largest", ops.maximum(self._read("largest"), ops.cast(count, "float32")))

    def measure(self, squares: Any, square: Any, count: Any, away: Any, *, parts: int, scale: float) -> None:
        """Take in what a batch shows that was `seen`, in front of its update: the gain that this has.

        Args:
            squares: mean |g|^2 of the batch's parts.
            square: |g|^2 of the batch.
            count: examples in it.
            away: the squared distance, relative, of the batch's own gradient from that of its parts.
            parts: into how many it was cut.
            scale: how many base batches a full batch holds.
        """
        trace, squared_norm = noise.two_sizes(squares, square, count / parts, count)
        # Under a loss scale a gradient may overflow; the last batch of a pass may hold fewer examples than parts.
        known = ops.logical_and(ops.isfinite(trace + squared_norm), count >= parts)
        decay = max(1 - scale / 1000, 0.0)
        for name, new in (("trace", trace), ("squared_norm", squared_norm)):
            # Begun at 0, both are too small by the same factor, which their ratio does not show.
            before = self._read(name)
            self._write(name, ops.where(known, decay * before + (1 - decay) * new, before))
        agreed = ops.where(away < SAME, self._read("agreed") + 1.0, -np.inf)
        self._write("agreed", ops.where(known, agreed, self._read("agreed")))
        # A batch that is not full is worth less.
        share = ops.maximum(scale * count / self._read("largest"), 1.0)
        variance = self._read("trace") * scale / self._read("largest")
        self._write("gain", noise.gain(variance, self._read("squared_norm"), share, ops))

    def updated(self, updates: Any) -> None:
        """Go on by the gain behind an update; by nothing behind a step without one.

        Args:
            updates: 1 or 0.
        """
        done = ops.cast(updates, "float32")
        self._write("used", ops.where(done > 0, self(0), self._read("used")))
        part = self._read("part") + self._read("gain") * done
        whole = ops.floor(part)
        self._write("whole", self._read("whole") + ops.cast(whole, self.state["whole"].dtype))
        self._write("part", part - whole)

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs, as plain data."""
        return {
            "learning_rate": keras.saving.serialize_keras_object(self.learning_rate),
            "state": {name: self._value(name).item() for name in self.state},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Gained:
        """Return the schedule that `get_config` describes."""
        return cls(keras.saving.deserialize_keras_object(config["learning_rate"]), config["state"])

    def __repr__(self) -> str:
        return f"Gained({self.learning_rate!r}, step={self.step:g}, gain={self._value('gain').item():g})"

    def _read(self, name: str) -> Any:
        return self.state[name].value if self._held is None else self._held[name]

    def _write(self, name: str, value: Any) -> None:
        if self._held is None:
            self.state[name].assign(value)
        else:
            self._held[name] = ops.cast(value, self.state[name].dtype)

    def _value(self, name: str) -> np.ndarray:
        return ops.convert_to_numpy(self.state[name])
