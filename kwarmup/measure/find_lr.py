"""The learning-rate range test: train a model for a while at rising learning rates, and leave it untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kwarmup import private
from kwarmup.descent import divergence
from kwarmup.errors import value_error
from kwarmup.length import number
from kwarmup.profile import Profile
from kwarmup.schedule import Schedule
from kwarmup.supply import Supply
from kwarmup.sweep import Sweep
from kwarmup.trial import STRIDE, Measured, Trial, check, layout, losses, progress
from kwarmup.untouched import untouched
from kwarmup.verbs import exponential, linear

SHAPES: dict[str, Callable[..., Profile]] = {"exponential": exponential, "linear": linear}


def find_lr(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    shape: Literal["exponential", "linear"] = "exponential",
    batch_size: int = 32,
    repeats: int = 5,
    seed: int | None = 0,
) -> Sweep:
    """Measure how the loss goes while the learning rate rises from update to update.

    Each repeat trains from the model's present weights, with a new optimizer like the model's own, on other
    batches and other dropout. It ends before `high` where training diverges. Behind it the model is as it was,
    to the last bit: weights, optimizer, statistics, metrics and random generators. Ctrl-C ends the
    measurement and returns what there is. A `tf.data.Dataset` that shuffles anew each time it is read has
    been read `repeats` times. A model over several replicas is trained on all of them, each batch shared out.

    Args:
        model: compiled; its own learning rate does not matter.
        x: arrays in any nesting, a `tf.data.Dataset` of single examples, a `PyDataset`, or a function that
            makes a generator of batches.
        y: targets, beside arrays.
        sample_weight: weights, beside arrays.
        low: the learning rate of the first update, above 0.
        high: that of the last.
        steps: updates in a repeat.
        shape: `"exponential"`, by equal factors, or `"linear"`.
        batch_size: examples per update, over all replicas and accumulated micro-batches.
        repeats: how many times; the intervals of the suggestions come from these.
        seed: of the order of arrays, which differs from repeat to repeat; `None` for the order as it is.

    Returns:
        The learning rates and the loss of each batch; `suggest()` and `plot()` are its methods.

    Raises:
        TypeError: if `x` is a generator, which cannot be begun anew, or an argument is of another type.
        ValueError: if the model is not compiled, is spread over several workers or accumulates gradients over
            replicas, or an argument is out of range.

    Paper: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.

    Example:

    >>> import keras, numpy as np
    >>> import kwarmup as kw
    >>> keras.utils.set_random_seed(0)
    >>> x = np.random.normal(size=(256, 4)).astype("float32")
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> sweep = kw.find_lr(model, x, x @ np.ones((4, 1)), low=1e-4, high=10, steps=60, repeats=2)
    >>> sweep
    <Sweep of 60 learning rates from 0.0001 to 10, 2 repeats, batch size 32>
    >>> 0.005 < sweep.suggest().learning_rate < 0.5
    True
    """
    check(model, "find_lr")
    low, high, steps, repeats = _checked(low, high, steps, shape, repeats)
    parts, replicas = layout(model)
    # Behind the last update the rate stays; what is left of a stride is cut off.
    count = -(-steps * parts // STRIDE) * STRIDE
    supply = Supply(
        "find_lr", x, y, sample_weight,
        batch_size=batch_size, parts=parts, replicas=replicas, count=count, trials=repeats, seed=seed,
    )  # fmt: skip
    profile = high * SHAPES[shape](start=low / high, to=1, steps=steps - 1)
    rates = Schedule(profile).curve(np.arange(steps))
    private.build(model, supply.first())
    found: list[Measured] = []
    interrupted = False
    try:
        with progress("find_lr", repeats * count) as advance, untouched(model):
            trial = Trial(model, _Rates(rates, parts))
            for repeat in range(repeats):

                def stop(measured: Measured, repeat: int = repeat) -> bool:
                    advance(repeat * count + len(measured))
                    return divergence(losses(measured, parts)[:steps]) is not None

                found.append([])
                trial.rewind()
                trial.run(supply.trial(repeat), count, found[-1], stop)
    except KeyboardInterrupt:
        interrupted = True
    rows = [_until_divergence(losses(measured, parts)[:steps]) for measured in found]
    rows = [row for row in rows if row]
    if interrupted and not rows:
        raise KeyboardInterrupt
    return Sweep(tuple(rates.tolist()), tuple(rows), int(batch_size), interrupted)


class _Rates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each update, looked up: to trace a profile takes a twentieth of a whole range test.

    On torch it is computed anew in each update.
    """

    def __init__(self, rates: np.ndarray, parts: int):
        self.rates, self.parts = rates.astype("float32"), parts

    def __call__(self, step: Any) -> Any:
        update = ops.minimum(ops.cast(step, "int32") // self.parts, len(self.rates) - 1)
        return ops.take(ops.convert_to_tensor(self.rates), update)


def _until_divergence(values: np.ndarray) -> tuple[float, ...]:
    ended = divergence(values)
    return tuple(values.tolist() if ended is None else values[: ended + 1].tolist())


def _checked(low: Any, high: Any, steps: Any, shape: str, repeats: Any) -> tuple[float, float, int, int]:
    write = "find_lr(model, x, y, low=1e-7, high=10, steps=100, repeats=5)"
    low, high = float(number("low", low, write)), float(number("high", high, write))
    if low <= 0:
        raise value_error("low", low, "a learning rate above 0", write)
    if high <= low:
        raise value_error("high", high, f"a learning rate above low, {low:g}", write)
    for name, value, least in (("steps", steps, 20), ("repeats", repeats, 1)):
        if not isinstance(number(name, value, write), int) or value < least:
            raise value_error(name, value, f"a whole number, {least} or more", write)
    if shape not in SHAPES:
        raise value_error("shape", shape, '"exponential" or "linear"', 'find_lr(model, x, y, shape="linear")')
    return low, high, int(steps), int(repeats)
