"""The gradient of a model's loss on a batch: the one place where each backend differentiates in its own way."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kwarmup.per_example import Seen, Watched

#: Two gradients in single precision that differ by more of their length are different ones.
_SAME = 1e-3


def function(model: keras.Model, training: bool) -> Callable[[Any], np.ndarray]:
    """Return a compiled function from a batch to the gradient of the loss there, one flat float32 array.

    It is the gradient that moves the weights: of the compiled loss with its sample weights, and of whatever
    is added to it (`add_loss`, regularisers; the weight decay of an optimizer is no part of the loss). The
    model's own variables may change: call it within `untouched`.

    Args:
        model: built and compiled.
        training: whether layers act as in training: dropout draws, batch normalisation uses the batch.
    """
    differentiate, scale = _differentiate(model, training)

    def gradient(batch: Any) -> np.ndarray:
        return ops.convert_to_numpy(differentiate(keras.tree.map_structure(_tensor, batch))) / np.float32(
            scale
        )

    return gradient


def with_squares(
    model: keras.Model, training: bool, watched: Watched
) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
    """Return a compiled function from a batch to its gradient, as `function` has it, and |g|^2 of each example.

    Args:
        model: built and compiled.
        training: as in `function`.
        watched: of `per_example.watch`.
    """
    differentiate, scale = _differentiate(model, training, watched)

    def gradient(batch: Any) -> tuple[np.ndarray, np.ndarray]:
        flat, squares = differentiate(keras.tree.map_structure(_tensor, batch))
        return ops.convert_to_numpy(flat) / np.float32(scale), ops.convert_to_numpy(squares)

    return gradient


def is_mean_of_examples(of_batch: Callable[[Any], np.ndarray], batch: Any) -> bool:
    """Whether the gradient of a batch is the mean over its examples, each by itself and without chance.

    Dropout, batch normalisation and a loss that compares examples make it another one. Halves of the
    batch, each twice, have its shape, so that nothing is compiled anew.
    """
    size = len(keras.tree.flatten(batch)[0])
    first, last = np.arange(size // 2), np.arange(size - size % 2, size)

    def at(*rows: np.ndarray) -> np.ndarray:
        chosen = np.concatenate(rows)
        return of_batch(keras.tree.map_structure(lambda array: array[chosen], batch))

    # Where the size is odd, both hold the last one: once each, as the whole does.
    mean = (at(first, first, last) + at(first + size // 2, first + size // 2, last)) / 2
    whole = of_batch(batch)
    return bool(np.linalg.norm(mean - whole) <= _SAME * np.linalg.norm(whole))


def _differentiate(
    model: keras.Model, training: bool, watched: Watched | None = None
) -> tuple[Callable[[Any], Any], float]:
    """The compiled function of the backend, and what the loss is scaled by in it."""
    optimizer: Any = model.optimizer
    # Half precision needs the scale that the optimizer gives the loss, or small gradients vanish.
    scale = float(ops.convert_to_numpy(optimizer.scale_loss(1.0)))
    return _BACKENDS[keras.backend.backend()](model, training, scale, watched), scale


def _tensor(array: Any) -> Any:
    array = np.asarray(array)
    return ops.convert_to_tensor(array.astype(keras.backend.floatx()) if array.dtype.kind == "f" else array)


def _forward(model: keras.Model, training: bool) -> Callable[..., Any]:
    """Return a function of x, y and sample weights that gives the loss."""
    mode = {"training": training} if "training" in inspect.signature(model.call).parameters else {}

    def loss(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        return model.compute_loss(x=x, y=y, y_pred=model(x, **mode), sample_weight=sample_weight)

    return loss


def _tensorflow(
    model: keras.Model, training: bool, scale: float, watched: Watched | None = None
) -> Callable[[Any], Any]:
    import tensorflow as tf

    loss = _forward(model, training)

    def flat(gradients: Any) -> Any:
        # An embedding's gradient is a list of rows, which adds up where it is made a tensor.
        return tf.concat(
            [tf.reshape(tf.cast(tf.convert_to_tensor(g), "float32"), [-1]) for g in gradients], 0
        )

    @tf.function(reduce_retracing=watched is None)
    def differentiate(batch: Any) -> Any:
        weights = [variable.value for variable in model.trainable_variables]
        if watched is None:
            with tf.GradientTape() as tape:
                scaled = loss(*batch) * scale
            return flat(tape.gradient(scaled, weights, unconnected_gradients="zero"))
        with watched.recording() as seen, tf.GradientTape() as tape:
            scaled = loss(*batch) * scale
        wanted = [weights, [one.outputs for one in seen]]
        gradients, by_outputs = tape.gradient(scaled, wanted, unconnected_gradients="zero")
        return flat(gradients), watched.squares(seen, [tf.cast(g, "float32") / scale for g in by_outputs])

    return differentiate


def _jax(
    model: keras.Model, training: bool, scale: float, watched: Watched | None = None
) -> Callable[[Any], Any]:
    import jax
    import jax.numpy as jnp

    trainer: Any = model

    def loss(weights: Any, taps: Any, non_trainable: Any, metrics: Any, optimizer: Any, batch: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        recording: Any = watched.recording(taps) if watched else contextlib.nullcontext([])
        with recording as seen:
            scaled, (_, _, non_trainable, _) = trainer.compute_loss_and_updates(
                weights, non_trainable, metrics, x, y, sample_weight, training, optimizer
            )
        # In training mode Keras has scaled it already.
        return scaled if training else scaled * scale, (non_trainable, [one.inputs for one in seen])

    @jax.jit
    def differentiate(weights: Any, *others_and_batch: Any) -> Any:
        # What is added to the outputs of layers, to differentiate by: arrays inside cannot be named to JAX.
        taps = [jnp.zeros(shape) for shape in watched.shapes] if watched else []
        (gradients, by_outputs), (non_trainable, inputs) = jax.grad(loss, argnums=(0, 1), has_aux=True)(
            weights, taps, *others_and_batch
        )
        flat = jnp.concatenate([g.astype("float32").reshape(-1) for g in gradients])
        if watched is None:
            return flat, non_trainable
        seen = [Seen(*one, None) for one in zip(watched.layers, inputs, strict=True)]
        return (flat, watched.squares(seen, [g / scale for g in by_outputs])), non_trainable

    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.metrics_variables,
        model.optimizer.variables,
    )
    state = [[variable.value for variable in group] for group in groups]

    def run(batch: Any) -> Any:
        # What layers do to their own variables (statistics, seeds) goes on from batch to batch.
        flat, state[1] = differentiate(*state, batch)
        return flat

    return run


def _torch(
    model: keras.Model, training: bool, scale: float, watched: Watched | None = None
) -> Callable[[Any], Any]:
    import torch

    loss = _forward(model, training)

    def differentiate(batch: Any) -> Any:
        weights = [variable.value for variable in model.trainable_variables]
        recording: Any = watched.recording() if watched else contextlib.nullcontext([])
        with recording as seen:
            scaled = loss(*batch) * scale
        wanted = [*weights, *(one.outputs for one in seen)]
        found = torch.autograd.grad(scaled, wanted, allow_unused=True)
        filled = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]
        gradients, by_outputs = filled[: len(weights)], filled[len(weights) :]
        flat = torch.cat([gradient.float().reshape(-1) for gradient in gradients])
        if watched is None:
            return flat
        with torch.no_grad():
            return flat, watched.squares(seen, [g.float() / scale for g in by_outputs])

    return differentiate


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
