"""Points that fill a space evenly, however many of them there are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import keras_tuner


def values(space: Sequence[Any], number: int, seed: Any) -> dict[str, Any]:
    """Return values of hyperparameters: the point of a number in a sequence without clusters and gaps.

    Each coordinate goes on by a constant step and begins again at 0 behind 1. The steps are powers of 1 / g, where
    g ** (d + 1) = g + 1 for d hyperparameters; g is the golden ratio for one.

    Args:
        space: hyperparameters of keras-tuner; one that depends on others stands behind them.
        number: of the point, from 0.
        seed: says where the sequence begins.

    Papers: Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization", section 4 (such points need
    fewer trials than random ones); Roberts 2018, "The Unreasonable Effectiveness of Quasirandom Sequences" (the
    steps).

    >>> peak = keras_tuner.HyperParameters()
    >>> _ = peak.Float("peak", 0.0, 1.0)
    >>> found = sorted(values(peak.space, number, seed=0)["peak"] for number in range(8))
    >>> gaps = [right - left for left, right in zip(found, found[1:])]
    >>> 0.05 < min(gaps) and max(gaps) < 0.25
    True
    """
    root = 1.5
    for _ in range(64):
        root = (1 + root) ** (1 / (len(space) + 1))
    chosen = keras_tuner.HyperParameters()
    for place, hp in enumerate(space, 1):
        chosen.merge([hp])
        if chosen.is_active(hp):
            begin = random.Random(f"{seed}/{hp.name}").random()
            chosen.values[hp.name] = hp.prob_to_value((begin + number * root**-place) % 1)
    return dict(chosen.values)
