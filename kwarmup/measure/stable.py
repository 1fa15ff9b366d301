"""The largest learning rate whose first update does not raise the loss, by trying."""

from __future__ import annotations

import math
from typing import Any

import keras

from kwarmup import private
from kwarmup.errors import value_error
from kwarmup.length import number
from kwarmup.supply import Supply
from kwarmup.sweep import Suggestion
from kwarmup.trial import Measured, Trial, check, layout, losses, progress
from kwarmup.untouched import untouched

#: Where the first search begins, how far searches go, and how near they come.
_BEGIN, _LEAST, _MOST, _RATIO = 1e-3, 1e-12, 1e12, 1.01
#: A loss scale that is too large is halved so many times until an update is made.
_TRIES = 40


def largest_stable_lr(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int = 32,
    repeats: int = 5,
    seed: int | None = 0,
) -> Suggestion:
    """Find the learning rate up to which a first update makes the loss of its batch smaller.

    With plain gradient descent, loss L and gradient g that is where L(w - η g) = L(w): on a quadratic,
    η = 2 |g|² / (gᵀHg). Any other optimizer makes its own first update. Beyond, training leaves the valley it
    is in, or diverges (the catapult); a warmup that begins there loses no time below. It is doubled until the
    loss rises and then bisected to 1 %, on one batch a repeat, with the same dropout before and after the
    update. Behind it the model is as it was, to the last bit.

    Args:
        model: compiled; its own learning rate does not matter.
        x: as for `find_lr`.
        y: targets, beside arrays.
        sample_weight: weights, beside arrays.
        batch_size: examples per update.
        repeats: how many batches; the interval comes from these.
        seed: which examples of arrays they have; `None` for the first ones.

    Returns:
        The median over the batches, with an interval. After Ctrl-C, over those that were finished.

    Raises:
        TypeError: if `x` is a generator, which cannot be begun anew, or an argument is of another type.
        ValueError: if the model is not compiled, an argument is out of range, or no learning rate, however
            large, raises the loss, or any, however small, does.

    Paper: Kalra and Barkeshli 2024, "Why Warmup the Learning Rate? Underlying Mechanisms and Improvements".

    Example:

    >>> import keras, numpy as np
    >>> import kwarmup as kw
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile("sgd", "mse")  # of w x to 0, at x = 1: a curvature of 2
    >>> stable = kw.largest_stable_lr(model, np.ones((64, 1)), np.zeros((64, 1)), repeats=1)
    >>> round(stable.learning_rate, 1)
    1.0
    """
    check(model, "largest_stable_lr")
    write = "largest_stable_lr(model, x, y, repeats=5)"
    if not isinstance(number("repeats", repeats, write), int) or repeats < 1:
        raise value_error("repeats", repeats, "a whole number, 1 or more", write)
    parts, replicas = layout(model)
    supply = Supply(
        "largest_stable_lr", x, y, sample_weight,
        batch_size=batch_size, parts=parts, replicas=replicas, count=parts, trials=repeats, seed=seed,
    )  # fmt: skip
    private.build(model, supply.first())
    found: list[float] = []
    try:
        with progress("largest_stable_lr", repeats) as advance, untouched(model):
            trial = Trial(model, _BEGIN, stride=parts)
            for repeat in range(repeats):
                update = supply.update(repeat)

                def rises(learning_rate: float, update: Any = update) -> bool:
                    before, after = _first_update(trial, update, parts, learning_rate)
                    return not after <= before  # so that NaN rises too

                found.append(_largest(rises, found[-1] if found else _BEGIN))
                advance(repeat + 1)
    except KeyboardInterrupt:
        if not found:
            raise
    return Suggestion.of(found, "stable")


def _first_update(trial: Trial, update: Any, parts: int, learning_rate: float) -> tuple[float, float]:
    """Return the loss of an update's batch before it and behind it."""
    trial.rewind()
    trial.optimizer.learning_rate = learning_rate
    measured: Measured = []
    for _ in range(_TRIES):
        trial.same_dice()
        trial.run(update(), parts, measured, stop=lambda _: False)
        if len(values := losses(measured, parts)) == 2:
            return float(values[0]), float(values[1])
    return float(values[0]), math.inf


def _largest(rises: Any, begin: float) -> float:
    """Return the largest number that does not rise, to 1 %, doubling or halving from `begin` on."""
    low = high = begin
    if rises(begin):
        while rises(low := low / 2):
            if low < _LEAST:
                raise _nowhere(f"one that falls for small updates; it rises even at {low:.0e}")
        high = 2 * low
    else:
        while not rises(high := high * 2):
            if high > _MOST:
                raise _nowhere(f"one that rises for large updates; it does not even at {high:.0e}")
        low = high / 2
    while high / low > _RATIO:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rises(middle) else (middle, high)
    return low


def _nowhere(expected: str) -> ValueError:
    return value_error("loss", "the loss of a batch behind its update", expected, "find_lr(model, x, y)")
