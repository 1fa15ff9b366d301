"""What a step logs: metrics count each micro-batch, losses once a batch, as Keras does with the large one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from kwarmup.errors import Code, value_error
from kwarmup.private import loss_tracker, output_loss_trackers


def begun(model: keras.Model) -> list[list[Any]]:
    """Return where the losses of several outputs stand before a step."""
    return [
        [ops.copy(variable.value) for variable in tracker.variables]
        for tracker in output_loss_trackers(model)
    ]


@contextlib.contextmanager
def apart(model: keras.Model) -> Iterator[list[Any]]:
    """While inside, losses of several outputs are logged from nothing; behind it they are in what is yielded."""
    found: list[Any] = []
    for tracker in output_loss_trackers(model):
        tracker.reset_state()
    yield found
    found += [ops.stop_gradient(tracker.result()) for tracker in output_loss_trackers(model)]


def count(model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> None:
    """Let a model's metrics count a micro-batch.

    Raises:
        ValueError: if the model logs something else, which would be that of one micro-batch.
    """
    logs = model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    if type(model).compute_metrics is not keras.Model.compute_metrics:
        others = sorted(set(logs) - set(model.get_metrics_result()))
        if others:
            raise value_error(
                "max_device_batch",
                Code(f"compute_metrics of {type(model).__name__}, which returns {', '.join(others)}"),
                "what is logged to be the result of metrics in model.metrics",
                "plan.fit(model, x, y) without max_device_batch",
            )


def ended(
    model: keras.Model, begun: list[list[Any]], logged: list[Any], loss: Any, whole: Any, known: Any
) -> Any:
    """Log the losses of a batch; return what the model logs.

    Args:
        model: whose metrics have counted all micro-batches.
        begun: as `begun` returned it.
        logged: the losses of several outputs.
        loss: the loss.
        whole: how many examples the batch has.
        known: the same, `None` where it is not known in front of the step: there Keras gives each batch the
            same weight in the losses of several outputs.
    """
    for tracker, values, value in zip(output_loss_trackers(model), begun, logged, strict=True):
        for variable, before in zip(tracker.variables, values, strict=True):
            variable.assign(before)
        tracker.update_state(value, sample_weight=known)
    loss_tracker(model).update_state(loss, sample_weight=whole)
    return model.get_metrics_result()
