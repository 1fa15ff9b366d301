"""Which way an objective gets better: as keras-tuner says, but for metrics of which Keras knows it better."""

from __future__ import annotations

from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.metrics_tracking import infer_metric_direction

from kwarmup.private import direction_of


def direction(name: str) -> str | None:
    """Return `"max"` or `"min"`, by which the best of an objective is told; `None` where nobody knows.

    keras-tuner knows a few metrics that are better the larger they are, and takes all others for losses: it
    would search for the worst F1 or R2 score.
    """
    found = _inferred(name)
    if found is None:
        return None
    try:
        metric = keras.metrics.get(name.removeprefix("val_").removeprefix("weighted_"))
    except (TypeError, ValueError):
        return found
    return "max" if direction_of(metric) == "up" else found


def told(objective: Any) -> Any:
    """Return an objective as keras-tuner is to take it: by its name, where it tells the best of that rightly."""
    if isinstance(objective, list | tuple):
        return [told(one) for one in objective]
    if not isinstance(objective, str) or (way := direction(objective)) in (None, _inferred(objective)):
        return objective
    return keras_tuner.Objective(objective, way)


def _inferred(name: str) -> str | None:
    try:
        return infer_metric_direction(name)
    except (TypeError, ValueError):  # a metric of Keras that cannot be made without arguments
        return None
