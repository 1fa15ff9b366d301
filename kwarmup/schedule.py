"""The learning-rate schedule that Keras optimizers take: a profile bound to a clock."""

from __future__ import annotations

from typing import Any, final

import keras
import numpy as np
from keras import ops

from kwarmup.clock import Clock
from kwarmup.curve import Curve
from kwarmup.errors import value_error
from kwarmup.profile import Profile
from kwarmup.shapes import Shape


@final
@keras.saving.register_keras_serializable(package="kwarmup")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A profile as a Keras learning rate: a pure function of the optimizer's step.

    `learning_rate = profile at the update, times (batch / first batch) ** scaling`. It branches on
    nothing, so eager, graph and XLA run the same operations, and it holds its last value for ever.

    Args:
        profile: what should happen, with its peak in front, `0.1 * (warmup(steps=500) >> ...)`; a number
            stands for a constant.
        clock: how long the run is; not needed where all lengths are in steps.
        gradient_accumulation_steps: what the optimizer was given, where there is no clock to tell.
            Keras hands the raw counter of micro-batches to a schedule; this divides it.
        scaling: 0, 0.5 or 1; only matters where the clock's batch size changes.

    Call it with a step (an integer or an array of integers, of the raw counter); the result is
    float32 whatever the policy.

    Raises:
        TypeError: if `profile` is neither a profile nor a number.
        ValueError: if a phase needs a clock and there is none, the phases are longer than the run, or a
            shape is a function that does not work on tensors.

    Example:

    >>> from kwarmup import Schedule, cosine, warmup
    >>> schedule = Schedule(0.1 * (warmup(steps=500) >> cosine(steps=9_500)))
    >>> round(float(schedule(250)), 6)
    0.05
    """

    def __init__(
        self,
        profile: Profile | float,
        clock: Clock | None = None,
        gradient_accumulation_steps: int | None = None,
        scaling: float = 0,
    ):
        self.curve = Curve(profile, clock, gradient_accumulation_steps, scaling)
        for shape in self.curve.shapes:
            _check_on_tensors(shape)

    def __call__(self, step: Any) -> Any:
        step = ops.convert_to_tensor(step)
        integer = keras.backend.standardize_dtype(step.dtype)
        if integer not in ("int32", "int64"):
            # JAX has no 64-bit integers unless asked; elsewhere a step past 2**31 must not wrap.
            integer = "int32" if keras.backend.backend() == "jax" else "int64"
            step = ops.cast(step, integer)
        return ops.cast(self.curve.at_tick(step, ops, integer, "float32"), "float32")

    @property
    def profile(self) -> Profile:
        """The profile, its peak in front."""
        return self.curve.profile

    @property
    def clock(self) -> Clock | None:
        """The clock it was bound to, if any."""
        return self.curve.clock

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs, as plain data.

        Raises:
            ValueError: if a shape is a function without a registered name.
        """
        return {
            "profile": self.profile.to_dict(),
            "clock": self.clock.to_dict() if self.clock else None,
            "gradient_accumulation_steps": self.curve.parts,
            "scaling": self.curve.scaling,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """Return the schedule that `get_config` describes."""
        config = dict(config)
        config["profile"] = Profile.from_dict(config["profile"])
        config["clock"] = Clock.from_dict(config["clock"]) if config["clock"] else None
        return cls(**config)

    def __repr__(self) -> str:
        words = [repr(self.profile)]
        if self.clock is not None:
            words.append(repr(self.clock))
        elif self.curve.parts != 1:
            words.append(f"gradient_accumulation_steps={self.curve.parts}")
        if self.curve.scaling:
            words.append(f"scaling={self.curve.scaling!r}")
        return f"Schedule({', '.join(words)})"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Schedule) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.profile, self.clock, self.curve.parts, self.curve.scaling


def _check_on_tensors(shape: Shape) -> None:
    if not shape.custom or isinstance(shape.formula, KerasFormula):
        return
    try:
        shape.formula(keras.KerasTensor((), "float32"))
    except Exception as error:
        raise value_error(
            "shape",
            shape.name,
            f"a function that runs inside the training step, made of operators and keras.ops ({error})",
            "decay(shape=lambda t: keras.ops.sin(t * math.pi / 2))",
        ) from error


class KerasFormula:
    """A Keras schedule as the formula of a shape: its value n updates after the phase began, over its first.

    Two are equal where their classes and configs are.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, first: float):
        self.schedule, self.first = schedule, first
        self.takes_arrays = _takes_arrays(schedule)

    def __call__(self, step: Any) -> Any:
        step = ops.convert_to_tensor(step)
        if self.takes_arrays or not step.shape:
            value = self.schedule(step)
        else:
            value = ops.reshape(ops.map(self.schedule, ops.reshape(step, (-1,))), ops.shape(step))
        return ops.cast(value, "float32") / self.first

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, KerasFormula) and self._key == other._key

    def __hash__(self) -> int:
        return hash(repr(self._key))

    @property
    def _key(self) -> tuple[Any, Any]:
        return type(self.schedule), self.schedule.get_config()

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as Keras serialises it."""
        return {"name": "keras_schedule", "schedule": keras.saving.serialize_keras_object(self.schedule)}


def _takes_arrays(schedule: keras.optimizers.schedules.LearningRateSchedule) -> bool:
    try:
        return tuple(schedule(ops.convert_to_tensor([0.0, 1.0])).shape) == (2,)
    except Exception:  # CosineDecay with a warmup branches on its step, which an array cannot decide.
        return False


def adapt(thing: Any) -> tuple[Shape, float] | None:
    """Return the shape for a Keras schedule, and its first value; `None` for anything else.

    Raises:
        ValueError: if the schedule starts at 0: there is nothing to warm up to.
    """
    if not isinstance(thing, keras.optimizers.schedules.LearningRateSchedule):
        return None
    value = ops.convert_to_numpy(thing(ops.convert_to_tensor(0, "int32")))
    first = float(str(np.float32(value)))  # 0.1, as its author wrote it, not 0.10000000149
    if first == 0:
        raise value_error(
            ">>", thing, "a schedule that starts above 0, so that there is a peak to go on from",
            "0.1 * (warmup(steps=500) >> cosine(steps=9_500))",
        )  # fmt: skip
    formula = KerasFormula(thing, first)
    return Shape(type(thing).__name__, formula, free=True, per_step=True, custom=True), first


def keras_schedule(schedule: dict[str, Any]) -> Shape:
    """Return the shape that `KerasFormula.to_json` wrote."""
    adapted = adapt(keras.saving.deserialize_keras_object(schedule))
    assert adapted is not None
    return adapted[0]
