"""Batches of one size from arrays, as a `tf.data.Dataset`. Only imported where TensorFlow is the backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kwarmup.pipeline import in_floatx
from kwarmup.sources import Arrays


class EqualBatches:
    """As `pipeline.FromArrays`, where no size changes: no Python runs, and little is traced, which takes longest.

    Args:
        source: the arrays and the order of each pass.
        batch_size: examples per batch; what is left of a pass is dropped.
    """

    def __init__(self, source: Arrays, batch_size: int):
        self._source, self._size = source, batch_size
        data = keras.tree.map_structure(tf.convert_to_tensor, in_floatx(source.data))
        # As a dataset of one element: what a function captures is copied whenever an iterator is made.
        self._everything = tf.data.Dataset.from_tensors(data).repeat()

    def between(self, first: int, last: int) -> tf.data.Dataset:
        """Return the batches of the passes `first` to `last - 1`."""
        whole = self._source.examples // self._size * self._size
        orders = [self._source.order(epoch)[:whole] for epoch in range(first, last)]
        rows = tf.data.Dataset.from_tensor_slices(np.reshape(orders, (-1, self._size)))

        @tf.autograph.experimental.do_not_convert
        def gather(index: tf.Tensor, arrays: Any) -> Any:
            return keras.tree.map_structure(lambda tensor: tf.gather(tensor, index), arrays)

        pairs = tf.data.Dataset.zip(rows, self._everything)
        batches = pairs.map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)
