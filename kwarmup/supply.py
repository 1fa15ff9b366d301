"""As many batches of one size as a trial asks for, from whatever a user trains on."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from kwarmup.batches import Batches, is_dataset
from kwarmup.clock import Clock
from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import number
from kwarmup.sources import Arrays


class Supply:
    """Batches for trials: each has its own, and none is shorter than the others.

    Args:
        verb: the function that the user has called, for errors.
        x: arrays, of which each pass has an order of its own; a `tf.data.Dataset` of single examples, a
            `PyDataset` or a function that makes a generator of batches, which are begun anew in each trial
            and whenever they end.
        y: targets, beside arrays.
        sample_weight: weights, beside arrays.
        batch_size: examples per update.
        parts: micro-batches per update.
        replicas: devices that share each of them.
        count: micro-batches in a trial.
        trials: how many trials there are.
        seed: of the order of arrays; `None` leaves it.
        of: what the function takes in front of the data, for errors.

    Raises:
        TypeError: if `x` is a generator, which cannot be begun anew.
        ValueError: if there are fewer examples than the batch size.
    """

    def __init__(
        self,
        verb: str,
        x: Any,
        y: Any,
        sample_weight: Any,
        *,
        batch_size: int,
        parts: int,
        replicas: int,
        count: int,
        trials: int,
        seed: int | None,
        of: str = "model",
    ):
        sizes: dict[str, Any] = {
            "batch_size": batch_size, "gradient_accumulation_steps": parts, "replicas": replicas,
            "drop_remainder": True,
        }  # fmt: skip
        write = f"{verb}({of}, x, y, batch_size=32)"
        if not isinstance(number("batch_size", batch_size, write), int) or batch_size < 1:
            raise value_error("batch_size", batch_size, "a whole number, 1 or more", write)
        Clock(examples=batch_size, epochs=1, **sizes)  # says so where it does not divide
        examples = count * batch_size // parts
        self.passes, arrays = 1, False
        if isinstance(x, types.GeneratorType):
            write = f"{verb}({of}, make_batches), with a function that returns a new generator"
            raise type_error("x", Code("a generator"), "data that can be begun anew", write)
        if isinstance(x, keras.utils.PyDataset):
            x = _over_and_over(lambda data=x: (data[i] for i in range(len(data))), examples)  # type: ignore[misc]
        elif is_dataset(x):
            x = x.repeat()
        elif callable(x):
            x = _over_and_over(x, examples)
        else:
            arrays = True
            examples = _count((x, y, sample_weight), f"{verb}({of}, x[:n], y[:n])")
            if batch_size > examples:
                raise value_error(
                    "batch_size", batch_size, f"at most the {examples:,} examples that there are",
                    f"{verb}({of}, x, y, batch_size={examples})",
                )  # fmt: skip
            self.passes = -(-count // (examples // (batch_size // parts)))
        self.parts, self._sizes, self._equal = parts, sizes, None
        self._batches = Batches(
            Clock(examples=examples, epochs=self.passes * trials, **sizes), x, y, sample_weight, seed
        )
        if arrays and keras.backend.backend() == "tensorflow":
            from kwarmup.equal_batches import EqualBatches

            data = tuple(part for part in (x, y, sample_weight) if part is not None)
            self._equal = EqualBatches(Arrays(data, examples, seed), batch_size // parts)

    def first(self) -> Any:
        """Return a few examples, to build a model with."""
        return self._batches.peek()

    def trial(self, number: int) -> Any:
        """Return the batches of a trial, for `fit`."""
        if self._equal is not None:
            return self._equal.between(number * self.passes, (number + 1) * self.passes)
        return self._batches.between(number * self.passes, (number + 1) * self.passes)

    def update(self, number: int) -> Callable[[], Any]:
        """Return a function that gives the batches of a trial's first update, the same ones each time."""
        batches = itertools.islice(iter(self.trial(number)), self.parts)
        arrays = [keras.tree.map_structure(ops.convert_to_numpy, batch) for batch in batches]
        data = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *arrays)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        clock = Clock(examples=len(keras.tree.flatten(x)[0]), epochs=1, **self._sizes)
        again = Batches(clock, x, y, sample_weight)
        if keras.backend.backend() != "tensorflow":
            return lambda: again.between(0, 1)  # a generator, which lasts once
        dataset = again.between(0, 1)
        return lambda: dataset


def _over_and_over(begin: Callable[[], Any], examples: int) -> Callable[[], Iterator[Any]]:
    def batches() -> Iterator[Any]:
        left = examples
        while left:
            before = left
            for batch in begin():
                batch = keras.tree.map_structure(lambda array, most=left: array[:most], batch)
                left -= len(keras.tree.flatten(batch)[0])
                yield batch
                if not left:
                    break
            if left == before:
                raise value_error(
                    "x", Code("no batch"), "one batch or more", "x that yields (inputs, targets)"
                )

    return batches


def _count(data: Any, write: str) -> int:
    """Return how many examples arrays hold, each as many."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    if any(not np.shape(leaf) for leaf in leaves):
        raise type_error(
            "x",
            Code("a list of numbers"),
            "arrays",
            write.replace("x[:n], y[:n]", "np.asarray(x), np.asarray(y)"),
        )
    lengths = sorted({len(leaf) for leaf in leaves})
    if len(lengths) > 1:
        received = Code(f"arrays of {' and '.join(map(str, lengths))} examples")
        raise value_error("x", received, "as many examples in each array", write)
    if not lengths[0]:
        raise value_error("x", Code("no examples"), "one example or more", write.replace("[:n]", ""))
    return lengths[0]
