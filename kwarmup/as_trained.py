"""A few updates of a model as its user trains it, with batches of one size: what a measurement of a step runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from kwarmup.batches import is_dataset
from kwarmup.errors import type_error, value_error
from kwarmup.length import number
from kwarmup.supply import Supply
from kwarmup.trial import layout


class AsTrained:
    """A compiled model and data, to be run with one batch size or another.

    Args:
        verb: the function that the user has called, for errors.
        model: compiled.
        data: x, y and sample_weight, as `Supply` takes them.
        seed: of the order of arrays.
    """

    def __init__(self, verb: str, model: Any, data: tuple[Any, Any, Any], seed: int | None):
        self.model = model
        self._verb, self._data, self._seed = verb, data, seed
        self._parts, self._replicas = layout(model)
        #: What a batch size divides by.
        self.multiple = self._parts * self._replicas
        #: Updates in one execution.
        self.stride = int(model.steps_per_execution)

    @property
    def examples(self) -> int | None:
        """How many examples there are: of arrays, since other data is begun anew whenever it ends."""
        x = self._data[0]
        if is_dataset(x) or callable(x) or isinstance(x, keras.utils.PyDataset):
            return None
        return len(keras.tree.flatten(x)[0])

    def sizes(self, batch_sizes: Sequence[int] | None, least: int, most: int, write: str) -> list[int]:
        """Return batch sizes as they were asked for, from small to large; without any, powers of two.

        Args:
            batch_sizes: what the user gave.
            least: the smallest of these.
            most: the largest.
            write: the line for the error.

        Raises:
            ValueError: if there are none, or one does not divide.
        """
        multiple = self.multiple
        if batch_sizes is None:
            powers, end = (
                [multiple * 2**k for k in range(most.bit_length())],
                min(most, self.examples or most),
            )
            return [size for size in powers if least <= size <= end] or [multiple]
        if isinstance(batch_sizes, str) or not isinstance(batch_sizes, Iterable):
            raise type_error("batch_sizes", batch_sizes, "a list of whole numbers", write)
        for size in batch_sizes:
            if not isinstance(number("batch_sizes", size, write), int) or size < 1 or size % multiple:
                expected = "whole numbers, 1 or more" if multiple == 1 else f"multiples of {multiple}"
                raise value_error("batch_sizes", size, expected, write)
            if self.examples is not None and size > self.examples:
                expected = f"at most the {self.examples:,} examples that there are"
                raise value_error("batch_sizes", size, expected, write)
        if not len(batch_sizes):
            raise value_error("batch_sizes", list(batch_sizes), "one batch size or more", write)
        return sorted(set(batch_sizes))

    def first(self) -> Any:
        """Return a few examples, to build the model with."""
        return self._supply(self.multiple, 1).first()

    def run(
        self, batch_size: int, executions: int, callbacks: Sequence[keras.callbacks.Callback] = ()
    ) -> None:
        """Train through `fit`, the input pipeline included.

        Args:
            batch_size: examples per update.
            executions: calls of the compiled function for a whole update, or several.
            callbacks: Keras's.
        """
        self.model.fit(
            self._supply(batch_size, executions).trial(0), epochs=1, shuffle=False, verbose=0,
            callbacks=list(callbacks), steps_per_epoch=self._parts * self.stride * executions,
        )  # fmt: skip

    def _supply(self, batch_size: int, executions: int) -> Supply:
        return Supply(
            self._verb, *self._data, batch_size=batch_size, parts=self._parts, replicas=self._replicas,
            count=self._parts * self.stride * executions, trials=1, seed=self._seed,
        )  # fmt: skip
