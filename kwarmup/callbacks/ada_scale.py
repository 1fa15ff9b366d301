"""AdaScale: a schedule that was made for one batch size, with a batch several times as large."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import keras
from keras import ops

from kwarmup import scaled
from kwarmup.distribute import replicas
from kwarmup.errors import Code, value_error
from kwarmup.gained import Gained
from kwarmup.length import number
from kwarmup.parts import FIGURES, TRIALS, examples_in, function_of, measuring, run_next
from kwarmup.plan import Plan
from kwarmup.schedule import Schedule

_PARTS = 8
_WRITE = "model.compile(SGD(Schedule(profile, clock)), loss=...)"


@final
class AdaScale(keras.callbacks.Callback):
    """Trains with `scale` times the batch that a schedule was made for, in fewer updates.

    An update with the large batch is worth r of those with the base batch, where r = (s + m) / (s / scale + m), s being
    the noise of the base batch's gradient and m the squared gradient. This gain lies between 1, where
    there is no noise that a larger batch could average out, and `scale`, where there is nothing else. The learning
    rate is r times that of the schedule at its own step, and that step goes on by r. So training takes between
    1 / `scale` of the schedule's updates and all of them, and stops where the schedule ends: let `epochs` be `scale`
    times as many as for the base batch. A warmup comes by itself, as the gain grows with the noise.

    Noise and gradient are averaged over about 1000 / `scale` updates, and come from parts of the batches, inside the
    compiled step, as for `NoiseScaleMonitor`. Before anything is measured, in the first update, the gain is 1.
    The schedule stays in the optimizer with all that is known; a saved model keeps it, and training goes on with it in
    another `fit` with this callback. Logs have `gain` and `base_step` for each epoch.

    `plan.fit(model, x, y, callbacks=[AdaScale(scale=8)])`, with a plan for the base batch, trains with `scale` times
    that and passes over the data until the schedule ends; with a `checkpoint_dir` it goes on bit for bit, and so it
    does among the callbacks of `Checkpoints`. In Keras's own `fit`, batch size and epochs are yours to give, as below.
    With several updates an execution training may go on past the end by as many.

    Args:
        scale: the batch size in `fit` over that of the schedule, 1 or more. With 1 nothing changes.
        parts: how many parts a batch is cut into; `None` for `scale`, but 8 at most. More say more, and cost more.
        steps: updates with the base batch that training ends behind; `None` for what the schedule says.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if one is out of range; when training begins, if the optimizer has no kwarmup schedule, one whose
            batch size moves or whose end is unknown, or if the model is spread over devices; if in `Plan.fit`
            something else moves the batch size too; behind the first update, if the batch is not `scale` times that
            of the schedule's clock.

    Paper: Johnson et al. 2020, "AdaScale SGD: A User-Friendly Algorithm for Distributed Training".

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import AdaScale, Plan, cosine
    >>> plan = Plan(learning_rate=0.1 * cosine(), batch_size=10, examples=200, epochs=2)  # 40 updates
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    >>> x, y = np.ones((200, 1)), np.random.default_rng(0).normal(size=(200, 1))  # little but noise to learn
    >>> history = model.fit(x, y, batch_size=40, epochs=8, verbose=0, callbacks=[AdaScale(scale=4)])
    >>> 10 <= int(model.optimizer.iterations) < 40
    True
    """

    def __init__(self, scale: float, parts: int | None = None, steps: int | None = None):
        super().__init__()
        self.scale = number("scale", scale, "AdaScale(scale=8)")
        if self.scale < 1:
            raise value_error("scale", scale, "a number, 1 or more", "AdaScale(scale=8)")
        for name, value, least in (("parts", parts, 2), ("steps", steps, 1)):
            if value is not None and (type(value) is not int or value < least):
                expected = f"a whole number, {least} or more, or None"
                raise value_error(
                    name, value, expected, f"AdaScale(scale=8, {name}={4 if least == 2 else 10_000})"
                )
        self.parts = parts or min(_PARTS, max(2, round(self.scale)))
        self.steps = steps
        #: The variables of the schedule, which checkpoints keep.
        self.state: list[keras.Variable] = []
        self._total = self._left = 0
        self._split = self._settled = self._checked = self._begun = self._over = False
        self._plain: Any = None
        self._functions: dict[str, tuple[Any, Any]] = {}

    def paced(self, plan: Plan) -> Plan:
        """Return the plan of what `Plan.fit` trains on: batches `scale` times as large, and passes at most.

        Raises:
            ValueError: if there is no such batch size, or training has no end.
        """
        clock, total = plan.clock, self.steps or _steps_of(plan.learning_rate)
        assert isinstance(clock.batch_size, int)
        size = self.scale * clock.batch_size
        if size != int(size):
            raise value_error(
                "scale", self.scale, f"one with a whole number of examples, for batches of {clock.batch_size}",
                f"AdaScale(scale={math.ceil(self.scale)})",
            )  # fmt: skip
        if size > clock.examples:
            raise value_error(
                "scale", self.scale, f"at most {clock.examples / clock.batch_size:.4g}: a batch of all examples",
                f"AdaScale(scale={clock.examples // clock.batch_size})",
            )  # fmt: skip
        # What is read of the learning rate is the optimizer's own schedule.
        plan = plan.replace(learning_rate=plan.profile.peak, batch_size=int(size), scaling=0)
        # An update is worth one with the base batch, or more.
        micro_batches = total * clock.gradient_accumulation_steps
        return plan.replace(epochs=math.ceil(micro_batches / plan.clock.first_micro_batch(1)))

    def is_over(self) -> bool:
        """Return whether the schedule has ended."""
        return self._over

    def __repr__(self) -> str:
        return f"AdaScale(scale={self.scale!r}, parts={self.parts!r}, steps={self.steps!r})"

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin where the schedule stands."""
        self.put_in_place()
        self._left = 0
        self._split = self._known("agreed") >= TRIALS
        self._settled = self._checked = self._begun = self._over = False

    def put_in_place(self) -> None:
        """Put the schedule into the optimizer, or take the one over that an earlier training has left there."""
        self._check_device()
        optimizer = self.model.optimizer
        schedule: Any = scaled.unscaled(optimizer)
        if not isinstance(schedule, Gained | Schedule):
            raise value_error(
                "learning_rate",
                optimizer.learning_rate if schedule is None else schedule,
                "a kwarmup schedule, to be read at another pace",
                _WRITE,
            )
        gained = schedule if isinstance(schedule, Gained) else Gained(schedule)
        self._total = self.steps or _steps_of(gained.learning_rate)
        if gained is not schedule:
            scaled.replace(optimizer, gained)
            # A step that has been compiled would go on with the schedule that it knows.
            self.model.make_train_function(force=True)
        self._gained, self.state = gained, list(gained.state.values())

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Let the execution that follows adapt."""
        model: Any = self.model
        if self._plain is not model.train_function:
            self._plain, self._functions = model.train_function, {}
        # Beside a step, what its parts did to metrics is undone, which the first execution may yet have to make.
        way = "parts" if self._split else "beside" if self._begun else "plain"
        way = "plain" if self.scale == 1 else way
        if way not in self._functions:
            step = self._step(way)
            self._functions[way] = step, self._function(step)
        self._begun = True
        run_next(model, *self._functions[way], behind=lambda logs: logs.pop(FIGURES, None))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop where the schedule ends."""
        if not self._checked:
            self._check_batch()
            self._checked = True
        if not self._settled:
            agreed = self._known("agreed")
            # One that disagrees settles it.
            self._split, self._settled = agreed >= TRIALS, agreed >= TRIALS or agreed < 0
        self._left -= self.model.steps_per_execution
        if self._left > 0:
            return  # It cannot be over yet; asking makes the program wait for the device.
        missing = self._total - self._gained.step
        if missing <= 0:
            self.model.stop_training = self._over = True
        self._left = max(1, math.ceil(missing / self.scale))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["gain"], logs["base_step"] = self._known("gain"), self._gained.step

    def _step(self, way: str) -> Callable[..., Any]:
        model, gained = self.model, self._gained

        def measure(*figures: Any) -> None:
            gained.measure(*figures, parts=self.parts, scale=float(self.scale))

        step = model.train_step
        if way != "plain":
            step = measuring(model, self.parts, split=way == "parts", before=measure)

        def adapted(data: Any) -> dict[str, Any]:
            gained.seen(examples_in(data))
            before = ops.add(model.optimizer.iterations, 0)
            logs = step(data)
            # None behind a micro-batch that is only accumulated, or a gradient that was skipped.
            gained.updated(ops.subtract(model.optimizer.iterations, before))
            return logs

        def adapted_on_jax(state: Any, data: Any) -> tuple[Any, Any]:
            *state, values = state
            with gained.holding(values) as held:
                gained.seen(examples_in(data))
                before = _iterations(model, state)
                logs, state = step(tuple(state), data)
                gained.updated(_iterations(model, state) - before)
            return logs, (*state, held)

        return adapted_on_jax if keras.backend.backend() == "jax" else adapted

    def _function(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return what `fit` is to call for a step."""
        function, variables = function_of(self.model, step), self._gained.state
        if keras.backend.backend() != "jax":
            return function

        def carried(state: Any, iterator: Any) -> tuple[Any, Any]:
            values = {name: variable.value for name, variable in variables.items()}
            logs, (*state, values) = function((*state, values), iterator)
            for name, value in values.items():
                variables[name].assign(value)
            return logs, tuple(state)

        return carried

    def _known(self, name: str) -> float:
        return float(ops.convert_to_numpy(self._gained.state[name]))

    def _check_device(self) -> None:
        count = replicas.count(self.model)
        laid_out = keras.distribution.distribution() is not None
        if count != 1 or laid_out:
            how = "laid out by keras.distribution" if laid_out else f"spread over {count} replicas"
            raise value_error(
                "model",
                Code(f"{self.model.name}, {how}"),
                "a model on one device",
                "model.fit(x, y) without AdaScale",
            )

    def _check_batch(self) -> None:
        schedule = self._gained.learning_rate
        clock, parts = schedule.clock, schedule.curve.parts
        if clock is None:
            return
        assert isinstance(clock.batch_size, int)
        found, wanted = int(self._known("largest")) * parts, self.scale * clock.batch_size
        if found != wanted:
            raise value_error(
                "batch_size",
                Code(f"{found} in fit, {clock.batch_size} in the schedule's clock, scale={self.scale!r}"),
                f"{wanted:g} in fit: scale times that of the schedule",
                f"plan.fit(model, x, y, callbacks=[AdaScale(scale={self.scale!r})]), or "
                f"model.fit(x, y, batch_size={math.ceil(wanted / parts)}, callbacks=[AdaScale(scale={self.scale!r})])",
            )


def _iterations(model: keras.Model, state: Any) -> Any:
    """Return the updates so far, by the values that a step on JAX is given."""
    with keras.StatelessScope(list(zip(model.optimizer.variables, state[2], strict=True))):
        return ops.add(model.optimizer.iterations, 0)


def _steps_of(schedule: Schedule) -> int:
    """Return behind how many updates with the base batch a schedule is over."""
    clock = schedule.clock
    if clock is not None:
        if not isinstance(clock.batch_size, int):
            raise value_error(
                "batch_size",
                clock.batch_size,
                "one whole number in the schedule's clock",
                "Clock(..., batch_size=64)",
            )
        return clock.steps
    lengths = [phase.length for phase in schedule.profile.phases]
    if any(length.unit == "rest" for length in lengths):
        raise value_error(
            "steps",
            None,
            f"how many updates with the base batch training takes, which {schedule!r} does not say",
            "AdaScale(scale=8, steps=10_000)",
        )
    return math.ceil(sum(length.exact for length in lengths))
