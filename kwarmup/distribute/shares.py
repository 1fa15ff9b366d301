"""Which rows of a batch each replica takes, so that together they take each of them once."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

#: A mark of a batch is a whole number below this: sums over thousands of replicas are exact in single precision.
_MARKS = 1024


class Piece(NamedTuple):
    """What a replica has of a batch, and what it must know of the whole one.

    Nobody has to be asked for it: each worker cuts its pieces out of the batch itself.

    Attributes:
        whole: how many examples the batch has, all replicas together.
        mark: a number that is the same where workers have cut the same batch; 0 for a single worker.
        data: this replica's rows, as `fit` takes them.
    """

    whole: Any
    mark: Any
    data: Any


class Shares(NamedTuple):
    """The replicas of one process among all that share each batch.

    Args:
        replicas: how many share a batch, in all processes.
        first: the number of this process's first replica.
        local: how many replicas this process has.
    """

    replicas: int
    first: int
    local: int

    def cut(self, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the rows of each local replica begin and end, batch by batch.

        Sizes differ by one at most. A batch with fewer rows than replicas leaves some without any.

        >>> Shares(replicas=2, first=0, local=2).cut(np.array([0, 8]), np.array([8, 11]))
        (array([0, 4, 8, 9]), array([ 4,  8,  9, 11]))
        >>> Shares(replicas=2, first=1, local=1).cut(np.array([0, 8]), np.array([8, 11]))
        (array([4, 9]), array([ 8, 11]))
        """
        numbers = np.arange(self.first, self.first + self.local + 1)
        edges = np.asarray(begins)[:, None] + (np.subtract(ends, begins)[:, None] * numbers) // self.replicas
        return edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)

    @property
    def several_workers(self) -> bool:
        """Whether other processes have replicas too."""
        return self.local < self.replicas

    def of_batches(self, dataset: Any) -> Any:
        """Return a `tf.data.Dataset` of this process's pieces of each batch, one replica's behind the other's."""
        import tensorflow as tf  # only there where it is the backend

        numbers = tf.range(self.first, self.first + self.local + 1, dtype=tf.int64)

        def pieces(*batch: Any) -> Any:
            data = batch if len(batch) > 1 else batch[0]
            whole = tf.shape(keras.tree.flatten(data)[0], tf.int64)[0]
            mark = self.mark(keras.tree.map_structure(lambda leaf: leaf[:1], data))
            edges = whole * numbers // self.replicas
            rows = tf.data.Dataset.from_tensor_slices((edges[:-1], edges[1:]))
            return rows.map(
                lambda begin, end: Piece(
                    whole, mark, keras.tree.map_structure(lambda leaf: leaf[begin:end], data)
                )
            )

        return dataset.flat_map(pieces)

    def mark(self, rows: Any) -> Any:
        """Return the mark of a batch, made from some of its rows."""
        import tensorflow as tf

        if not self.several_workers:
            return tf.constant(0, tf.int64)
        written = [tf.io.serialize_tensor(leaf) for leaf in keras.tree.flatten(rows)]
        return tf.strings.to_hash_bucket_fast(tf.strings.join(written), _MARKS)


def endless(dataset: Any) -> Any:
    """Return a dataset without an end: behind its own elements come some without rows, which nobody asks for.

    The number of steps is known from elsewhere. Of a dataset with an end, replicas ask each other before each step
    whether there is more, over the network too.
    """
    import tensorflow as tf

    def nothing(spec: Any) -> Any:
        return tf.zeros([size or 0 for size in spec.shape], spec.dtype)

    none = tf.nest.map_structure(nothing, dataset.element_spec)
    return dataset.concatenate(tf.data.Dataset.from_tensors(none).repeat())
