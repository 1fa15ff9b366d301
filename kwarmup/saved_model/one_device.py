"""A SavedModel is for one device: what a distribution strategy has spread is brought together for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras

from kwarmup import private, state


def outside_of_scopes(work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Call a function where no distribution strategy is in force."""
    with ThreadPoolExecutor(1) as thread:  # a strategy's scope belongs to the thread that entered it
        return thread.submit(work, *arguments, **more).result()


def outputs(model: keras.Model, batch: Any) -> Any:
    """Return a model's outputs for a batch, as one device has them.

    Under a strategy each replica predicts with moving averages of its own; what is saved are the first one's.
    """
    if not _distributed(model):
        return model.predict(batch, verbose=0)
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(tensors, training=False))


def trainable(model: keras.Model, file: Path, batch: Any) -> keras.Model:
    """Return a compiled model that can train on one device: itself, or a copy where a strategy distributes it.

    Traced on one device, an update of a distributed variable changes it in another way than on all of them.

    Args:
        model: compiled, its optimizer built.
        file: where it was saved.
        batch: inputs and targets.
    """
    if not _distributed(model):
        return model
    copy = outside_of_scopes(keras.models.load_model, file)
    outside_of_scopes(private.build, copy, batch)
    state.put(state.variables(copy), state.take(state.variables(model)))  # a file lacks random generators
    return copy


def _distributed(model: keras.Model) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    # Seen from outside of all scopes, a model without a strategy has TensorFlow's default one.
    trainer: Any = model
    return outside_of_scopes(lambda: trainer.distribute_strategy is not tf.distribute.get_strategy())
