"""What warmup buys on somebody's model: short trainings at rising peaks, each with a warmup and without."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kwarmup import private, scaled
from kwarmup.clock import Clock
from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import number
from kwarmup.peaks import WarmupGain, good
from kwarmup.profile import Profile
from kwarmup.schedule import Schedule
from kwarmup.supply import Supply
from kwarmup.trial import STRIDE, Measured, Trial, layout, losses, progress
from kwarmup.untouched import same_random_numbers
from kwarmup.verbs import linear
from kwarmup.verbs import warmup as warmup_verb

#: Peaks that are too large in both arms, in a row, behind which no larger one is tried.
_TOO_LARGE = 2
#: The first peak, doubled or halved so often at most.
_MOST = 16
#: Where the model's learning rate is no number.
_BEGIN = 0.01
#: How many peaks are expected, for the progress bar.
_EXPECTED = 10
_WRITE = "warmup_gain(build, x, y, steps=200, batch_size=32, repeats=3)"

#: For each peak the final losses of the seeds, with warmup and without.
_Table = dict[int, tuple[list[float], list[float]]]


def warmup_gain(
    build: Callable[[], keras.Model],
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    validation_data: tuple[Any, ...] | None = None,
    warmup: Profile | None = None,
    then: Profile | None = None,
    steps: int = 200,
    batch_size: int = 32,
    repeats: int = 3,
    seed: int = 0,
) -> WarmupGain:
    """Measure how much larger the peak of the learning rate may be with a warmup than without.

    That is what a warmup is for: it takes the model to where a larger learning rate is stable. Short trainings
    at peaks a factor of two apart, from the model's own learning rate upwards until they are too large with
    warmup and without, and downwards until the best loss is found. Both arms have the same first weights,
    batches and dropout, and as many updates. Ctrl-C returns what there is.

    Args:
        build: returns a new compiled model each time it is called.
        x: as for `find_lr`.
        y: targets, beside arrays.
        sample_weight: weights, beside arrays.
        validation_data: arrays as `fit` takes them, whose loss counts; `None` for the mean loss of the last tenth
            of the updates.
        warmup: how the learning rate rises to 1; `None` for `warmup(fraction=0.25)`.
        then: what follows it, and is all there is without it; `None` for `linear()`, a decay to 0.
        steps: updates in a training.
        batch_size: examples per update.
        repeats: seeds of first weights and of the order of examples; the interval comes from these.
        seed: the first of them.

    Returns:
        All final losses; `gain`, `interval`, `table()` and `print` read them.

    Raises:
        TypeError: if `build` is no function or does not return a model, or an argument is of another type.
        ValueError: if a model is not compiled or is the same one again, an argument is out of range, or all trainings
            diverge whatever the peak.

    Paper: Kalra and Barkeshli 2024, "Why Warmup the Learning Rate? Underlying Mechanisms and Improvements".

    Example:

    >>> import keras, numpy as np
    >>> import kwarmup as kw
    >>> x = np.ones((32, 1), "float32")
    >>> y = np.array([[0.0], [2.0]] * 16)
    >>> def build():
    ...     model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    ...     model.compile(keras.optimizers.SGD(0.1), "mse")
    ...     return model
    >>> gain = kw.warmup_gain(build, x, y, then=kw.hold(), steps=50, repeats=1)
    >>> print(gain)  # a quadratic of curvature 2: 1 is the limit, with warmup or without
    Warmup buys nothing here: the largest good peak is 0.8 against 0.8 without. Best loss 1 with it and 1 without.
    """
    first = warmup_verb(fraction=0.25) if warmup is None else warmup
    behind = linear() if then is None else then
    steps, repeats, seed = _checked(first, behind, steps, repeats, seed)
    table: _Table = {}
    interrupted = False
    with same_random_numbers():
        models = [_built(build, seed) for _ in range(2)]
        if models[0] is models[1]:
            received = Code(f"a function that returned the same {models[0].name} again")
            raise value_error(
                "build", received, "a new model each time", "def build(): return keras.Sequential([...])"
            )
        parts, replicas = layout(models[0])
        supply = Supply(
            "warmup_gain", x, y, sample_weight,
            batch_size=batch_size, parts=parts, replicas=replicas, count=steps * parts, trials=repeats, seed=seed,
            of="build",
        )  # fmt: skip
        clock = Clock(
            examples=steps * batch_size, epochs=1, batch_size=batch_size, gradient_accumulation_steps=parts
        )
        begin = _begin(models[0])
        arms = []
        for model, profile in zip(models, (first >> behind, behind), strict=True):
            private.build(model, supply.first())
            arms.append(_Arm(model, Schedule(profile, clock), steps, parts, validation_data))
        starts = [_weights(build, seed + repeat, supply.first()) for repeat in range(repeats)]
        with progress("warmup_gain", _EXPECTED * repeats) as advance:
            try:
                for power in _powers(table):
                    pairs = []
                    for repeat, start in enumerate(starts):
                        pairs.append(
                            [arm.run(begin * 2.0**power, start, supply.trial(repeat)) for arm in arms]
                        )
                        advance(min(len(table), _EXPECTED - 1) * repeats + repeat + 1)
                    table[power] = [one for one, _ in pairs], [other for _, other in pairs]
            except KeyboardInterrupt:
                interrupted = True
    found = sorted(table)
    columns = [[tuple(table[power][arm]) for power in found] for arm in range(2)]
    if any(not np.isfinite(seeds).any() for arm in columns for seeds in zip(*arm, strict=True)) or not found:
        if interrupted:
            raise KeyboardInterrupt
        raise value_error(
            "build",
            Code(f"trainings that all diverged, with peaks from {begin * 2.0 ** found[0]:.1g} on"),
            "a model that can be trained",
            "build, with weights, data and a loss that are finite",
        )
    return WarmupGain(
        peaks=tuple(begin * 2.0**power for power in found),
        with_warmup=tuple(columns[0]),
        without_warmup=tuple(columns[1]),
        profiles=(repr(first >> behind), repr(behind)),
        steps=steps,
        batch_size=int(batch_size),
        validated=validation_data is not None,
        interrupted=interrupted,
    )


def _powers(table: _Table) -> Iterator[int]:
    """Yield which peak to try next, as a power of two, while the losses come into the table."""
    power = 0
    while power <= _MOST:
        yield power
        power += 1
        if power >= _TOO_LARGE and not any(is_good[-_TOO_LARGE:].any() for is_good in _good(table)):
            break
    power = 0
    # Where the best is the lowest, a lower one may be better.
    while power > -_MOST and any(np.argmin(medians) == 0 for medians in _medians(table)):
        power -= 1
        yield power


def _medians(table: _Table) -> list[np.ndarray]:
    return [np.array([np.median(table[power][arm]) for power in sorted(table)]) for arm in range(2)]


def _good(table: _Table) -> list[np.ndarray]:
    return [good(medians) for medians in _medians(table)]


class _Arm:
    """A model that is trained again and again, with one profile and peaks that differ."""

    def __init__(self, model: keras.Model, schedule: Schedule, steps: int, parts: int, validation_data: Any):
        self.model, self.steps, self.parts, self.validation_data = model, steps, parts, validation_data
        # What is run is a multiple of the stride, and an update more would be one too many.
        stride = next(n for n in range(STRIDE, 0, -1) if steps * parts % n == 0)
        self.trial = Trial(model, scaled.Scaled(schedule), stride)
        self._train_step = vars(model)["train_step"]

    def run(self, peak: float, weights: Sequence[np.ndarray], batches: Any) -> float:
        """Return the final loss of a training; infinite if it diverged."""
        self.trial.rewind()
        self.trial.same_dice()
        self.model.set_weights(weights)
        # JAX knows a function that it has compiled, with the peak as a constant, by the object that it is.
        vars(self.model)["train_step"] = lambda *arguments: self._train_step(*arguments)
        scaled.change(self.model, peak, 0)
        measured: Measured = []
        # A loss that explodes may come down again (the catapult); one that is not finite will not.
        self.trial.run(batches, self.steps * self.parts, measured, lambda now: not np.isfinite(now[-1][1]))
        values = losses(measured, self.parts)
        if len(values) < self.steps or not np.isfinite(values).all():
            return np.inf
        if self.validation_data is None:
            final = float(values[-max(1, self.steps // 10) :].mean())
        else:
            trainer: Any = self.model
            final = float(trainer.evaluate(*self.validation_data, verbose=0, return_dict=True)["loss"])
        return final if np.isfinite(final) else np.inf


def _built(build: Callable[[], keras.Model], seed: int) -> keras.Model:
    if not callable(build) or isinstance(build, keras.Model):
        raise type_error("build", build, "a function that returns a new compiled model", _WRITE)
    _draw_from(seed)
    model = build()
    if not isinstance(model, keras.Model):
        received = Code(f"a function that returned {model!r}")
        raise type_error("build", received, "a function that returns a compiled model", _WRITE)
    if not isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer):
        received = Code(f"a function that returned {model.name}, which is not compiled")
        raise value_error(
            "build", received, "a function that returns a compiled model", "model.compile(...) in build"
        )
    return model


def _weights(build: Callable[[], keras.Model], seed: int, batch: Any) -> list[np.ndarray]:
    model = _built(build, seed)
    private.build(model, batch)
    # A copy: torch hands out the memory of the variable itself.
    return [np.array(weight) for weight in model.get_weights()]


def _draw_from(seed: int) -> None:
    """Begin the random numbers anew that first weights and dropout are drawn from."""
    # Not `keras.utils.set_random_seed`, which leaves something behind that cannot be put back.
    random.seed(seed)
    np.random.seed(seed)
    if keras.backend.backend() == "torch":
        import torch

        torch.manual_seed(seed)


def _begin(model: keras.Model) -> float:
    rate = private.rate_of(model.optimizer)
    if not isinstance(rate, keras.Variable):
        return _BEGIN
    value = float(str(np.float32(ops.convert_to_numpy(rate))))  # 0.1, not 0.10000000149
    return value if value > 0 else _BEGIN


def _checked(first: Any, behind: Any, steps: Any, repeats: Any, seed: Any) -> tuple[int, int, int]:
    for name, profile, write in (
        ("warmup", first, "warmup_gain(build, x, y, warmup=kw.warmup(fraction=0.25))"),
        ("then", behind, "warmup_gain(build, x, y, then=kw.linear())"),
    ):
        if not isinstance(profile, Profile):
            raise type_error(name, profile, "a profile", write)
        if profile.peak != 1 or any(phase.length.unit == "epochs" for phase in profile.phases):
            expected = "a profile with a peak of 1, and lengths in steps or fractions of the short training"
            raise value_error(name, profile, expected, write)
    for name, value, least in (("steps", steps, 10), ("repeats", repeats, 1), ("seed", seed, 0)):
        if not isinstance(number(name, value, _WRITE), int) or value < least:
            raise value_error(name, value, f"a whole number, {least} or more", _WRITE)
    return int(steps), int(repeats), int(seed)
