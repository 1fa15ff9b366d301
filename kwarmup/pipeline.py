"""Batches of changing size as a `tf.data.Dataset`. Only imported where TensorFlow is the backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kwarmup.clock import Clock
from kwarmup.distribute.shares import Piece, Shares, endless
from kwarmup.sources import Arrays, order


def in_floatx(data: Any) -> Any:
    # As Keras does with arrays: float64 data for a float32 model would double the pipeline's work.
    def cast(array: np.ndarray) -> np.ndarray:
        return array.astype(keras.backend.floatx()) if array.dtype.kind == "f" else array

    return keras.tree.map_structure(cast, data)


class FromArrays:
    """Batches gathered from tensors; Python runs once a pass, to draw its order, and where the size changes in it.

    The dataset is made once for all passes: tracing its functions takes longer than a short pass over the
    data. It yields the passes that `between` was last asked for; with `shares`, the pieces that local replicas
    take of their batches.
    """

    def __init__(self, source: Arrays, shares: Shares | None = None):
        data = keras.tree.map_structure(tf.convert_to_tensor, in_floatx(source.data))
        # TensorFlow keeps the generators of datasets as long as the process lives. This one must hold on to
        # neither the dataset nor the source, or their arrays would stay for good.
        asked: dict[str, Any] = {}
        self._asked, self._shares = asked, shares
        examples, seed = source.examples, source.seed

        def passes() -> Iterator[tuple[np.ndarray, ...]]:
            clock, skip = asked["clock"], asked["skip"]
            for epoch in range(asked["first"], asked["last"]):
                sizes = clock.micro_batches(epoch)
                ends = np.cumsum(sizes)
                begins, ends = (ends - sizes)[skip:], ends[skip:]
                skip = max(0, skip - len(sizes))
                numbers = order(examples, seed, epoch)
                known: Any = ()
                if shares is not None:
                    # Of the whole batch, for each of its pieces: how many rows it has, and its first.
                    known = np.repeat([ends - begins, numbers[begins]], shares.local, axis=1)
                    begins, ends = shares.cut(begins, ends)
                sizes = ends - begins
                # Batches of one size behind each other are the rows of a matrix: cutting it costs TensorFlow less
                # than a function that is called for each batch.
                changes = np.flatnonzero(np.diff(sizes)) + 1
                for first, last in itertools.pairwise([0, *changes, len(sizes)]) if len(sizes) else ():
                    rows = numbers[begins[first:last, None] + np.arange(sizes[first])]
                    yield *(one[first:last] for one in known), rows

        def gather(found: tuple[tf.Tensor, ...], arrays: Any) -> Any:
            *known, index = found
            rows = keras.tree.map_structure(lambda tensor: tf.gather(tensor, index), arrays)
            if shares is None:
                return rows
            whole, first = known
            mark = shares.mark(keras.tree.map_structure(lambda tensor: tensor[first : first + 1], arrays))
            return Piece(whole, mark, rows)

        spec = [tf.TensorSpec([None], tf.int64)] * (0 if shares is None else 2)
        spec.append(tf.TensorSpec([None, None], tf.int64))
        matrices = tf.data.Dataset.from_generator(passes, output_signature=tuple(spec))
        rows = matrices.flat_map(lambda *found: tf.data.Dataset.from_tensor_slices(found))
        # As a dataset of one element: what a function captures is copied whenever an iterator is made.
        everything = tf.data.Dataset.from_tensors(data).repeat()
        self._batches = tf.data.Dataset.zip(rows, everything).map(
            gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def between(self, clock: Clock, first: int, last: int, skip: int, count: int) -> tf.data.Dataset:
        """Return the `count` batches of the passes `first` to `last - 1`, without the first `skip` of them.

        It yields those of the next call as soon as there is one.
        """
        self._asked.update(clock=clock, first=first, last=last, skip=skip)
        return _finish(self._batches, count, self._shares)


def from_dataset(
    dataset: tf.data.Dataset,
    clock: Clock,
    first: int,
    last: int,
    skip: int,
    count: int,
    shares: Shares | None = None,
) -> tf.data.Dataset:
    """Return the examples of a dataset, read anew in each pass, cut into batches, or into pieces of them."""

    def passes() -> Iterator[np.ndarray]:
        for epoch in range(first, last):
            yield clock.micro_batches(epoch)

    def one(sizes: tf.Tensor) -> tf.data.Dataset:
        # First into batches of the pass's largest size: `rebatch` cuts and joins whole batches cheaply.
        whole = dataset.take(tf.reduce_sum(sizes)).batch(tf.reduce_max(sizes))
        return whole.rebatch(sizes)

    spec = tf.TensorSpec([None], tf.int64)
    made = tf.data.Dataset.from_generator(passes, output_signature=spec).flat_map(one).skip(skip)
    return _finish(made if shares is None else shares.of_batches(made), count, shares)


def from_python(
    iterate: Callable[[], Iterator[Any]], count: int, shares: Shares | None = None
) -> tf.data.Dataset:
    """Return batches that Python yields, or pieces of them; the first one says of what type they are."""
    batches = iterate()
    first = in_floatx(next(batches))
    begun = [itertools.chain([first], batches)]

    def again() -> Iterator[Any]:
        # The first time what is begun already; validation data is read again in each pass.
        for batch in begun.pop() if begun else iterate():
            yield in_floatx(batch)

    spec = keras.tree.map_structure(lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), first)
    made = tf.data.Dataset.from_generator(again, output_signature=spec)
    return _finish(made if shares is None else shares.of_batches(made), count, shares)


def _finish(dataset: tf.data.Dataset, count: int, shares: Shares | None) -> tf.data.Dataset:
    if shares is not None:
        return endless(dataset).prefetch(tf.data.AUTOTUNE)
    # Data of unknown length costs Keras one iteration too many in each epoch.
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)
