"""Batches of changing size as a `tf.data.Dataset`. Only imported where TensorFlow is the backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kwarmup.clock import Clock
from kwarmup.sources import Arrays


def tensors(data: Any) -> Any:
    """Return arrays as tensors, once for all passes."""
    return keras.tree.map_structure(tf.convert_to_tensor, _in_floatx(data))


def _in_floatx(data: Any) -> Any:
    # As Keras does with arrays: float64 data for a float32 model would double the pipeline's work.
    def cast(array: np.ndarray) -> np.ndarray:
        return array.astype(keras.backend.floatx()) if array.dtype.kind == "f" else array

    return keras.tree.map_structure(cast, data)


def from_arrays(
    data: Any, source: Arrays, clock: Clock, first: int, last: int, skip: int, count: int
) -> tf.data.Dataset:
    """Return batches gathered from tensors; Python runs once a pass, to draw its order."""

    def passes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for epoch in range(first, last):
            yield source.order(epoch), np.cumsum(clock.micro_batches(epoch))

    def rows(order: tf.Tensor, ends: tf.Tensor) -> tf.data.Dataset:
        begins = tf.concat([[0], ends[:-1]], 0)
        return tf.data.Dataset.from_tensor_slices((begins, ends)).map(lambda begin, end: order[begin:end])

    spec = tf.TensorSpec([None], tf.int64)
    dataset = tf.data.Dataset.from_generator(passes, output_signature=(spec, spec)).flat_map(rows).skip(skip)
    dataset = dataset.map(
        lambda index: keras.tree.map_structure(lambda tensor: tf.gather(tensor, index), data),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _finish(dataset, count)


def from_dataset(
    dataset: tf.data.Dataset, clock: Clock, first: int, last: int, skip: int, count: int
) -> tf.data.Dataset:
    """Return the examples of a dataset, read anew in each pass, cut into batches."""

    def passes() -> Iterator[np.ndarray]:
        for epoch in range(first, last):
            yield clock.micro_batches(epoch)

    def one(sizes: tf.Tensor) -> tf.data.Dataset:
        # First into batches of the pass's largest size: `rebatch` cuts and joins whole batches cheaply.
        whole = dataset.take(tf.reduce_sum(sizes)).batch(tf.reduce_max(sizes))
        return whole.rebatch(sizes)

    spec = tf.TensorSpec([None], tf.int64)
    made = tf.data.Dataset.from_generator(passes, output_signature=spec).flat_map(one).skip(skip)
    return _finish(made, count)


def from_python(iterate: Callable[[], Iterator[Any]], count: int) -> tf.data.Dataset:
    """Return batches that Python yields; the first one says of what type they are."""
    batches = iterate()
    first = _in_floatx(next(batches))

    def again() -> Iterator[Any]:
        yield first
        for batch in batches:
            yield _in_floatx(batch)

    spec = keras.tree.map_structure(lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), first)
    return _finish(tf.data.Dataset.from_generator(again, output_signature=spec), count)


def _finish(dataset: tf.data.Dataset, count: int) -> tf.data.Dataset:
    # Data of unknown length costs Keras one iteration too many in each epoch.
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)
