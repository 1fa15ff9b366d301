"""The squared norm of each example's own gradient, from one backward pass over a batch of them.

The gradient of a dense layer's kernel is, for one example, an outer product: of what went into the layer and of the
gradient of what came out. Its norm is the product of both norms, and neither needs the outer product itself. With
several positions in an example (a sequence, the places of a convolution) it is a sum of such products.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops


class Seen(NamedTuple):
    """What a layer did in a forward pass.

    Args:
        layer: the layer.
        inputs: what its weights were multiplied with, shape (examples, positions, features).
        outputs: what came of it, before the activation.
    """

    layer: keras.layers.Layer
    inputs: Any
    outputs: Any


class Watched:
    """Layers of a model that hold all of its trainable weights, and whose inputs and outputs can be recorded.

    Args:
        layers: of the kinds in `_INPUTS`, each called once in a forward pass, in that order.
        shapes: of their outputs.
    """

    def __init__(self, layers: list[keras.layers.Layer], shapes: list[Any] | None = None):
        self.layers, self.shapes = layers, shapes or []

    @contextlib.contextmanager
    def recording(self, taps: list[Any] | None = None) -> Iterator[list[Seen]]:
        """While inside, forward passes fill the list that this yields.

        Args:
            taps: arrays to add to the outputs, in the order in which layers are called, for JAX to differentiate by.
        """
        seen: list[Seen] = []

        def record(layer: Any, inputs: Any, outputs: Any) -> Any:
            if taps is not None and len(seen) < len(taps):
                outputs = outputs + ops.cast(taps[len(seen)], outputs.dtype)
            seen.append(Seen(layer, _INPUTS[type(layer)](layer, inputs), outputs))
            return outputs

        with contextlib.ExitStack() as behind:
            for layer in self.layers:
                behind.enter_context(_recorded(layer, record))
            yield seen

    @staticmethod
    def squares(seen: list[Seen], gradients: list[Any]) -> Any:
        """Return |g|^2 of each example, g being the gradient of its own loss, where the batch's is the mean of them.

        Args:
            seen: recorded in the forward pass.
            gradients: of the batch's loss, by the outputs in `seen`.
        """
        total: Any = 0.0
        for (layer, inputs, _), gradient in zip(seen, gradients, strict=True):
            examples, positions = inputs.shape[:2]
            by_output = ops.reshape(ops.cast(gradient, "float32"), (examples, positions, -1)) * examples
            total = total + _squares(layer, ops.cast(inputs, "float32"), by_output)
        return total


def watch(model: keras.Model, batch: Any) -> Watched | None:
    """Return the layers to record, or `None` where the norms do not follow from them.

    They do where all trainable weights belong to `Dense`, `Conv1D`, `Conv2D`, `LayerNormalization` or
    `BatchNormalization`, each called once and with the examples along the first axis, and nothing but the examples adds
    to the loss.

    Args:
        model: built and compiled.
        batch: some examples, as `fit` takes them.
    """
    layers = [layer for layer in _leaves(model) if layer.trainable_weights]
    if not all(type(layer) in _INPUTS and _usual(layer) for layer in layers):
        return None
    if sum(len(layer.trainable_weights) for layer in layers) != len(model.trainable_weights):
        return None
    watched = Watched(layers)
    x = keras.utils.unpack_x_y_sample_weight(batch)[0]
    examples = len(keras.tree.flatten(x)[0])
    with watched.recording() as seen:
        try:
            model(keras.tree.map_structure(ops.convert_to_tensor, x))
        except _Unusual:
            return None
    once = sorted(id(layer) for layer, _, _ in seen) == sorted(map(id, layers))
    if not once or any(one.outputs.shape[0] != examples for one in seen) or model.losses:
        return None
    return Watched([one.layer for one in seen], [tuple(one.outputs.shape) for one in seen])


class _Unusual(Exception):
    """A layer was called in a way that nobody thought of here."""


def _leaves(layer: Any) -> Iterator[Any]:
    """Yield the layers in a model, those within models in it too."""
    seen = set()
    for inner in layer.layers:
        for leaf in _leaves(inner) if hasattr(inner, "layers") else (inner,):
            if id(leaf) not in seen:
                seen.add(id(leaf))
                yield leaf


def _usual(layer: Any) -> bool:
    """Whether a layer is as its class has it: without adapters, groups, and with all of its weights in training."""
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return False
    if getattr(layer, "renorm", False) or getattr(layer, "rms_scaling", False):
        return False
    if getattr(layer, "groups", 1) != 1 or getattr(layer, "padding", "same") not in ("same", "valid"):
        return False
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return False
    own = [getattr(layer, name, None) for name in ("kernel", "bias", "gamma", "beta")]
    return len(layer.trainable_weights) == sum(weight is not None for weight in own)


@contextlib.contextmanager
def _recorded(layer: Any, record: Any) -> Iterator[None]:
    # Not by setattr, which would make what is put in for a while a part of what is saved of the layer.
    own, call, before = vars(layer), layer.call, dict(vars(layer))
    activation = getattr(layer, "activation", None)
    taken: list[Any] = []

    def watched_call(inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        taken.append(inputs)
        outputs = call(inputs, *arguments, **keywords)
        return outputs if activation is not None else record(layer, taken.pop(), outputs)

    own["call"] = watched_call
    if activation is not None:
        own["activation"] = lambda outputs: activation(record(layer, taken.pop(), outputs))
    try:
        yield
    finally:
        for name in ("call", "activation"):
            if name in before:
                own[name] = before[name]
            else:
                own.pop(name, None)


# What the weights of a layer are multiplied with


def _of_dense(layer: Any, inputs: Any) -> Any:
    if len(inputs.shape) < 2:
        raise _Unusual
    return ops.reshape(inputs, (inputs.shape[0], math.prod(inputs.shape[1:-1]), inputs.shape[-1]))


def _of_convolution(layer: Any, inputs: Any) -> Any:
    channels = inputs.shape[-1]
    features = math.prod(layer.kernel_size) * channels
    # A convolution that hands on what it sees, entry by entry.
    kernel = ops.reshape(ops.eye(features, dtype=inputs.dtype), (*layer.kernel_size, channels, features))
    return _of_dense(
        layer, ops.conv(inputs, kernel, layer.strides, layer.padding, "channels_last", layer.dilation_rate)
    )


def _of_layer_normalization(layer: Any, inputs: Any) -> Any:
    axes = _axes(layer, inputs)
    if axes != [len(inputs.shape) - 1]:
        raise _Unusual
    inputs = ops.cast(inputs, "float32")
    variance = ops.var(inputs, axis=-1, keepdims=True)
    found = (inputs - ops.mean(inputs, axis=-1, keepdims=True)) / ops.sqrt(variance + layer.epsilon)
    return _of_dense(layer, found)


def _of_batch_normalization(layer: Any, inputs: Any) -> Any:
    if _axes(layer, inputs) != [len(inputs.shape) - 1]:
        raise _Unusual
    # With the batch's own statistics examples depend on each other, and nobody asks for one by itself.
    inputs, variance = ops.cast(inputs, "float32"), ops.cast(layer.moving_variance, "float32")
    return _of_dense(
        layer, (inputs - ops.cast(layer.moving_mean, "float32")) / ops.sqrt(variance + layer.epsilon)
    )


def _axes(layer: Any, inputs: Any) -> list[int]:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return [axis % len(inputs.shape) for axis in axes]


_INPUTS = {
    keras.layers.Dense: _of_dense,
    keras.layers.Conv1D: _of_convolution,
    keras.layers.Conv2D: _of_convolution,
    keras.layers.LayerNormalization: _of_layer_normalization,
    keras.layers.BatchNormalization: _of_batch_normalization,
}


def _squares(layer: Any, inputs: Any, by_output: Any) -> Any:
    """|g|^2 of each example, over the weights of a layer."""
    positions, features, units = inputs.shape[1], inputs.shape[2], by_output.shape[2]
    if isinstance(layer, keras.layers.LayerNormalization | keras.layers.BatchNormalization):
        weights = [(layer.gamma, inputs * by_output), (layer.beta, by_output)]
        return sum(
            ops.sum(ops.square(ops.sum(found, axis=1)), axis=1)
            for weight, found in weights
            if weight is not None
        )
    if positions == 1:
        found = ops.sum(ops.square(inputs), axis=(1, 2)) * ops.sum(ops.square(by_output), axis=(1, 2))
    elif positions * (features + units) < features * units:
        # Cheaper by the products of positions with each other than by the sum over them.
        inner, outer = (
            ops.einsum("bsi,bti->bst", inputs, inputs),
            ops.einsum("bso,bto->bst", by_output, by_output),
        )
        found = ops.sum(inner * outer, axis=(1, 2))
    else:
        found = ops.sum(ops.square(ops.einsum("bti,bto->bio", inputs, by_output)), axis=(1, 2))
    if layer.use_bias:
        found = found + ops.sum(ops.square(ops.sum(by_output, axis=1)), axis=1)
    return found
