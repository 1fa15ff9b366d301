"""Data whose batch sizes follow a clock, in the form that `fit` of the backend at hand takes."""

from __future__ import annotations

import collections
import types
from collections.abc import Iterator
from typing import Any

import keras

from kwarmup.clock import Clock
from kwarmup.distribute.shares import Shares
from kwarmup.errors import Code, type_error, value_error
from kwarmup.sources import Arrays, Source, Stream, from_generator, from_py_dataset


class Batches:
    """The batches of a run: `between(first, last)` gives those of some passes to `fit`.

    Args:
        clock: says how many examples each batch has; the attribute may be set anew between two passes.
        x: arrays, or a nesting of arrays; a `tf.data.Dataset` of single examples; a `PyDataset`; a
            generator of batches, or a function that makes one for each pass.
        y: targets, with arrays only.
        sample_weight: weights, with arrays only.
        seed: shuffles arrays, differently in each pass; `None` leaves their order.

    Raises:
        TypeError: if `y` stands beside data that brings its own targets.
        ValueError: if the number of examples is not the clock's.
    """

    def __init__(
        self, clock: Clock, x: Any, y: Any = None, sample_weight: Any = None, seed: int | None = None
    ):
        self.clock = clock
        self._dataset: Any = None
        self._arrays: Any = None
        self._source: Source | None = None
        examples = clock.examples
        generator = (
            isinstance(x, types.GeneratorType) or callable(x) and not isinstance(x, keras.utils.PyDataset)
        )
        dataset = is_dataset(x)
        if (dataset or generator or isinstance(x, keras.utils.PyDataset)) and y is not None:
            raise type_error(
                "y",
                Code(f"a {type(y).__name__}"),
                f"None, since a {type(x).__name__} yields its own targets",
                "plan.fit(model, data)",
            )
        if dataset:
            _check_cardinality(x, examples)
            if keras.backend.backend() == "tensorflow":
                self._dataset = x
            else:
                self._source = Stream(
                    lambda epoch: x.batch(256).as_numpy_iterator(), examples, passed=lambda: iter(x)
                )
        elif isinstance(x, keras.utils.PyDataset):
            self._source = from_py_dataset(x, examples)
        elif generator:
            self._source = from_generator(x, examples)
        else:
            data = (x,) if y is None else (x, y) if sample_weight is None else (x, y, sample_weight)
            self._source = Arrays(data, examples, seed)

    def between(self, first: int, last: int, skip: int = 0, shares: Shares | None = None) -> Any:
        """Return the batches of the passes `first` to `last - 1`, without the first `skip` of them.

        A `tf.data.Dataset` on TensorFlow, a generator on other backends. With `shares`, which is for TensorFlow,
        the pieces that local replicas take of each.
        """
        if keras.backend.backend() != "tensorflow":
            return self._iterate(first, last, skip)
        count = self.clock.first_micro_batch(last) - self.clock.first_micro_batch(first) - skip
        from kwarmup import pipeline  # needs TensorFlow

        if self._dataset is not None:
            return pipeline.from_dataset(self._dataset, self.clock, first, last, skip, count, shares)
        if isinstance(self._source, Arrays):
            if self._arrays is None:
                self._arrays = pipeline.FromArrays(self._source, shares)
            return self._arrays.between(self.clock, first, last, skip, count)
        return pipeline.from_python(lambda: self._iterate(first, last, skip), count, shares)

    def pass_over(self, epochs: int) -> None:
        """Bring data that keeps a place of its own to where it stands behind `epochs` passes.

        A generator is read again, a dataset that shuffles draws its orders, a `PyDataset` hears
        `on_epoch_end`.
        """
        if self._dataset is not None:
            for _ in range(epochs):
                iter(self._dataset)
        elif isinstance(self._source, Stream):
            if self._source.endless:
                collections.deque(self._iterate(0, epochs, 0), maxlen=0)
            for _ in range(epochs):
                self._source.passed()

    def peek(self) -> Any:
        """Return a batch of the first pass without taking it away."""
        if self._dataset is not None:
            return next(iter(self._dataset.batch(1)))
        assert self._source is not None
        return self._source.peek()

    def _iterate(self, first: int, last: int, skip: int) -> Iterator[Any]:
        assert self._source is not None
        for epoch in range(first, last):
            sizes = self.clock.micro_batches(epoch)
            yield from self._source.batches(epoch, sizes, min(skip, len(sizes)))
            skip = max(0, skip - len(sizes))


def is_dataset(x: Any) -> bool:
    """Return whether something is a `tf.data.Dataset`."""
    # Asked by name, so that nothing is imported where TensorFlow is not installed.
    return any(f"{c.__module__}.{c.__name__}".endswith("dataset_ops.DatasetV2") for c in type(x).__mro__)


def _check_cardinality(dataset: Any, examples: int) -> None:
    known = int(dataset.cardinality())
    if known >= 0 and known != examples:
        raise value_error(
            "x",
            Code(f"a tf.data.Dataset of {known} elements"),
            f"{examples} single examples, as the plan says, not yet in batches",
            f"dataset.unbatch(), or plan.replace(examples={known})",
        )
