"""Put a training step in place that takes a batch in micro-batches, and the model's own back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kwarmup.clock import Clock
from kwarmup.errors import Code, type_error, value_error
from kwarmup.micro_batches.share import check_losses

_WRITE = "plan.fit(model, x, y, max_device_batch=256)"
_WITHOUT = "plan.fit(model, x, y) without max_device_batch"


def check(max_device_batch: Any) -> None:
    """Is this a number of examples, or `None`?

    Raises:
        TypeError: if it is of another type.
        ValueError: if it is below 1.
    """
    if max_device_batch is None:
        return
    expected = "a whole number of examples, 1 or more"
    if isinstance(max_device_batch, bool) or not hasattr(max_device_batch, "__index__"):
        raise type_error("max_device_batch", max_device_batch, expected, _WRITE)
    if max_device_batch < 1:
        raise value_error("max_device_batch", max_device_batch, expected, _WRITE)


@contextlib.contextmanager
def within_the_step(model: keras.Model, clock: Clock | None, max_device_batch: int | None) -> Iterator[None]:
    """While inside, `fit` takes each batch in micro-batches of at most so many examples; one update a batch.

    The first micro-batch has what is left over, so that all others have one shape. Losses, gradients
    and metrics are those of the whole batch to float accuracy; what is normalised over a batch (BatchNorm)
    or compares its examples with each other sees one micro-batch at a time. The model is then as it was.

    Args:
        model: compiled.
        clock: says how large batches are; where none is larger, nothing is done. `None` if nobody knows yet.
        max_device_batch: the most examples whose activations are in memory at a time; `None` for any.

    Raises:
        ValueError: if the model's step or losses cannot be taken apart.
    """
    if max_device_batch is None or clock is not None and largest(clock) <= max_device_batch:
        yield
        return
    check_losses(model.loss)
    _check_model(model)
    before = model.train_function
    model.train_step = _of_the_backend()(model, int(max_device_batch))
    model.train_function = None  # so that `fit` makes one of the step above
    try:
        yield
    finally:
        del model.train_step
        model.train_function = before


def _of_the_backend() -> Callable[[keras.Model, int], Any]:
    # Each needs its own library.
    if keras.backend.backend() == "tensorflow":
        from kwarmup.micro_batches import on_tensorflow

        return on_tensorflow.train_step
    if keras.backend.backend() == "jax":
        from kwarmup.micro_batches import on_jax

        return on_jax.train_step
    from kwarmup.micro_batches import on_torch

    return on_torch.train_step


def largest(clock: Clock) -> int:
    """Return the examples of the largest batch that Keras is given in the run."""
    return max(segment.micro_batch for _, segment in clock.segments_between(0, None))


def _check_model(model: keras.Model) -> None:
    for name in ("train_step", "make_train_function"):
        if name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name):
            raise value_error(
                "max_device_batch",
                Code(f"a {type(model).__name__} with a {name} of its own"),
                f"a model whose {name} is that of keras.Model, to be taken in micro-batches",
                _WITHOUT,
            )
    replicas = getattr(getattr(model, "distribute_strategy", None), "num_replicas_in_sync", 1)
    if replicas > 1 or keras.distribution.distribution() is not None:
        raise value_error(
            "max_device_batch", Code("a model over several devices"), "a model on one device", _WITHOUT
        )
    if getattr(keras.config, "is_nnx_enabled", bool)():
        raise value_error(
            "max_device_batch", Code("Keras with KERAS_NNX_ENABLED"), "Keras without NNX", _WITHOUT
        )
    for weight in model.weights:
        # Models of float8 are built before they are trained.
        if getattr(weight, "overwrite_with_gradient", False):
            raise value_error(
                "max_device_batch",
                Code(f"{weight.path}, whose gradient takes its place"),
                "weights whose gradients can be summed (not float8)",
                _WITHOUT,
            )
