"""The SavedModel itself: its endpoints, and the documents that travel in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kwarmup.private import input_signature, saved_by
from kwarmup.saved_model.train_step import add_train_step

Specs = Sequence[Any]


def write(
    folder: Path,
    model: keras.Model,
    texts: Mapping[str, str],
    rate: Callable[[Any], Any] | None = None,
    raw: Any = None,
    preprocess: Callable[..., Any] | None = None,
    class_names: Sequence[str] | None = None,
    targets: Any = None,
) -> list[str]:
    """Write a model as a SavedModel, which needs neither Keras nor kwarmup where it is loaded.

    Args:
        folder: where to.
        model: a model that is built; compiled too, where there are `targets`.
        texts: the documents to go with it, by name.
        rate: the learning rate at a tensor of updates.
        raw: a batch of what `preprocess` takes.
        preprocess: makes the model's inputs of raw ones.
        class_names: a name for each of the model's outputs.
        targets: a batch of targets, where training is to go on from it.

    Returns:
        The names of the endpoints.

    Raises:
        OSError: if it cannot be written.
    """
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    names = ["serve"]
    if preprocess is None:
        signature = input_signature(model)
        serve = archive.track_and_add_endpoint("serve", model, signature)
    else:
        signature = [specs(raw, "inputs")]
        for part in (model, preprocess):
            if isinstance(part, keras.layers.Layer):
                archive.track(part)
        serve = archive.add_endpoint("serve", lambda inputs: model(preprocess(inputs)), signature)
    if class_names is not None:
        archive.add_endpoint("classify", _classify(serve, class_names))
        names.append("classify")
    if rate is not None:
        archive.add_endpoint("learning_rate", _of_any_shape(rate))
        names.append("learning_rate")
    if targets is not None:
        signature = [input_signature(model)[0], specs(targets, "targets")]
        add_train_step(archive, model, signature)
        names.append("train_step")
    with tempfile.TemporaryDirectory() as sources:
        for name, text in texts.items():
            source = Path(sources) / f"{name}.json"
            source.write_text(text, encoding="utf-8")
            setattr(saved_by(archive), name, tf.saved_model.Asset(str(source)))
        try:
            archive.write_out(str(folder), verbose=False)
        except tf.errors.OpError as error:  # by which TensorFlow says that a disk is full
            raise OSError(f"The SavedModel cannot be written: {error.message}") from error
    return names


def specs(batch: Any, name: str) -> Any:
    """Return the shapes and types of a batch, for batches of any size."""
    import tensorflow as tf

    parts = keras.tree.flatten(batch)
    # The parts of a signature are told apart by their names.
    named = [name] if len(parts) == 1 else [f"{name}_{index}" for index in range(len(parts))]
    found = [
        tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name=word)
        for tensor, word in zip(map(tf.convert_to_tensor, parts), named, strict=True)
    ]
    return keras.tree.pack_sequence_as(batch, found)


def _classify(serve: Any, class_names: Sequence[str]) -> Any:
    import tensorflow as tf

    names = list(class_names)

    @tf.function(input_signature=serve.input_signature, autograph=False)
    def classify(*inputs: Any) -> dict[str, Any]:
        outputs = serve(*inputs)
        return {
            "class_name": tf.gather(tf.constant(names), tf.argmax(outputs, -1)),
            "score": tf.reduce_max(outputs, -1),
        }

    return _traced(classify)


def _of_any_shape(rate: Callable[[Any], Any]) -> Any:
    import tensorflow as tf

    if keras.backend.backend() == "jax":
        from jax.experimental import jax2tf

        on_jax = jax2tf.convert(rate, polymorphic_shapes=["(n,)"])

        def rate(step: Any) -> Any:
            return on_jax(tf.cast(step, "int32"))  # JAX has no 64-bit integers unless asked.

    @tf.function(input_signature=[tf.TensorSpec(None, "int64", name="step")], autograph=False)
    def learning_rate(step: Any) -> Any:
        return tf.reshape(rate(tf.reshape(step, (-1,))), tf.shape(step))

    return _traced(learning_rate)


def _traced(function: Any) -> Any:
    function.get_concrete_function()
    return function
