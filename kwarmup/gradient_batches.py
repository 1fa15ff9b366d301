"""Data in micro-batches of one size, for measurements: drawn from arrays, or cut from batches as they come."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from kwarmup.errors import Code, type_error, value_error

#: Examples in a micro-batch where none are asked for.
_SIZE = 32


class MicroBatches:
    """Micro-batches of one size, tuples of numpy arrays.

    Args:
        x: arrays in any nesting, or batches: a `tf.data.Dataset`, a `PyDataset`, a generator.
        y: targets, with arrays only.
        sample_weight: weights, with arrays only.
        size: examples in a micro-batch; `None` for 32, or fewer where the arrays would not give `most`.
        least: micro-batches without which nothing can be measured.
        most: micro-batches that small data is cut into.
        seed: draws the order of arrays.

    Raises:
        TypeError: if `y` or `sample_weight` stands beside batches.
        ValueError: if arrays differ in length, or give fewer than `least` micro-batches.
    """

    def __init__(
        self, x: Any, y: Any, sample_weight: Any, size: int | None, least: int, most: int, seed: int
    ):
        self.in_memory = all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(x))
        self._seed, self._least, self._most = seed, least, most
        if self.in_memory:
            data = (x, y) if sample_weight is None else (x, y, sample_weight)
            self._arrays = keras.tree.map_structure(np.asarray, data if y is not None else (x,))
            lengths = {len(array) if array.ndim else 0 for array in keras.tree.flatten(self._arrays)}
            if len(lengths) != 1:
                raise value_error(
                    "x",
                    Code(f"arrays of {' and '.join(map(str, sorted(lengths)))} examples"),
                    "as many examples in each array",
                    "noise_scale(model, x[:n], y[:n])",
                )
            self.examples = lengths.pop()
            self.size = size or min(_SIZE, max(1, self.examples // most))
            if self.examples < least * self.size:
                raise self.too_few()
            self.first = self._rows(np.arange(self.size))
        else:
            if y is not None and isinstance(x, list | tuple):
                raise type_error(
                    "x",
                    Code(f"a {type(x).__name__}"),
                    "arrays",
                    "noise_scale(model, np.asarray(x), np.asarray(y))",
                )
            if y is not None or sample_weight is not None:
                raise type_error(
                    "y" if y is not None else "sample_weight",
                    Code(f"an argument beside a {type(x).__name__}"),
                    "None, since batches bring their own targets and weights",
                    "noise_scale(model, data)",
                )
            self.examples, self.size = 0, size or _SIZE
            self._stream = self._cut(_batches(x))
            first = next(self._stream, None)
            if first is None:
                raise self.too_few()
            self.first = first
            self._stream = itertools.chain([first], self._stream)

    def too_few(self) -> ValueError:
        """An error that says how many examples there were."""
        return value_error(
            "x",
            Code(f"{self.examples} examples in micro-batches of {self.size}"),
            f"{self._least} micro-batches or more",
            f"micro_batch_size={max(1, self.examples // self._most)}",
        )

    def without_replacement(self) -> Iterator[Any]:
        """Yield the micro-batches of one pass: arrays in random order, batches as they come."""
        if not self.in_memory:
            yield from self._stream
            return
        order = np.random.default_rng(self._seed).permutation(self.examples)
        for begin in range(0, self.examples - self.size + 1, self.size):
            yield self._rows(order[begin : begin + self.size])

    def independent(self) -> Iterator[Any]:
        """Yield micro-batches that know nothing of each other: drawn with replacement, or as they come."""
        if not self.in_memory:
            yield from self._stream
            return
        draw = np.random.default_rng(self._seed)
        while True:
            yield self._rows(draw.integers(0, self.examples, self.size))

    def _rows(self, rows: np.ndarray) -> Any:
        return keras.tree.map_structure(lambda array: array[rows], self._arrays)

    def _cut(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Cut batches anew; `examples` counts all that have come."""
        left: Any = None
        for batch in batches:
            batch = batch if isinstance(batch, tuple) else (batch,)
            batch = keras.tree.map_structure(_array, batch)
            self.examples += len(keras.tree.flatten(batch)[0])
            if left is not None:
                batch = keras.tree.map_structure(lambda *parts: np.concatenate(parts), left, batch)
            length = len(keras.tree.flatten(batch)[0])
            whole = length - length % self.size
            for begin in range(0, whole, self.size):
                rows = slice(begin, begin + self.size)
                yield keras.tree.map_structure(lambda array, rows=rows: array[rows], batch)
            left = keras.tree.map_structure(lambda array, whole=whole: array[whole:], batch)


def _array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else ops.convert_to_numpy(value)


def _batches(x: Any) -> Iterable[Any]:
    if isinstance(x, keras.utils.PyDataset):
        return (x[index] for index in range(len(x)))
    if not isinstance(x, Iterable):
        raise type_error("x", x, "arrays, or batches of them", "noise_scale(model, x, y)")
    return x
