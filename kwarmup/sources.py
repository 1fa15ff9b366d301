"""Where examples come from: arrays in memory, or a stream of batches that is read once a pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import keras
import numpy as np

from kwarmup.errors import Code, type_error, value_error


class Source(Protocol):
    """Gives the examples of each pass, cut into batches of the sizes it is asked for."""

    def batches(self, epoch: int, sizes: np.ndarray, skip: int) -> Iterator[Any]:
        """Return the batches of pass `epoch`, without the first `skip` of them."""
        ...

    def peek(self) -> Any:
        """Return a batch of the first pass, which is then still to come."""
        ...


class Arrays:
    """Arrays of one length, in any nesting; shuffled anew in each pass.

    Args:
        data: a structure of arrays with the examples along the first axis.
        examples: how many examples the clock counts.
        seed: `None` for the order as it is. Otherwise the order of a pass depends on this number and
            the pass alone, on every backend, so that a pass can be begun anywhere.

    Raises:
        ValueError: if an array has another number of examples.
    """

    def __init__(self, data: Any, examples: int, seed: int | None):
        self.data = keras.tree.map_structure(np.asarray, data)
        self.examples, self.seed = examples, seed
        for array in keras.tree.flatten(self.data):
            if array.ndim == 0:
                write = "plan.fit(model, np.asarray(x), np.asarray(y))"
                raise type_error("x", Code("a list of numbers"), "arrays", write)
            if len(array) != examples:
                raise value_error(
                    "x",
                    Code(f"an array of shape {array.shape}"),
                    f"{examples} examples along the first axis, as the plan says",
                    f"plan.replace(examples={len(array)})",
                )

    def order(self, epoch: int) -> np.ndarray:
        """Return the examples' numbers in the order of pass `epoch`."""
        return order(self.examples, self.seed, epoch)

    def batches(self, epoch: int, sizes: np.ndarray, skip: int) -> Iterator[Any]:
        order = self.order(epoch)
        ends = np.cumsum(sizes)
        for begin, end in zip((ends - sizes)[skip:], ends[skip:], strict=True):
            rows = order[begin:end]
            yield keras.tree.map_structure(lambda array, rows=rows: array[rows], self.data)

    def peek(self) -> Any:
        return keras.tree.map_structure(lambda array: array[:1], self.data)


def order(examples: int, seed: int | None, epoch: int) -> np.ndarray:
    """Return the numbers of all examples in the order of pass `epoch`.

    Args:
        examples: how many there are.
        seed: see `Arrays`.
        epoch: the number of the pass, from 0.
    """
    if seed is None:
        return np.arange(examples)
    return np.random.default_rng([seed, epoch]).permutation(examples)


class Stream:
    """Batches of any sizes, cut anew into the sizes asked for.

    Args:
        begin: `begin(epoch)` returns an iterable over the batches of a pass, structures of arrays.
        examples: how many examples the clock counts in a pass.
        endless: whether what is left behind a pass belongs to the next one.
        ended: called when a pass is read.
        passed: called for a pass that is not read, since an earlier process has done it.
    """

    def __init__(
        self,
        begin: Callable[[int], Iterable[Any]],
        examples: int,
        endless: bool = False,
        ended: Callable[[], object] = lambda: None,
        passed: Callable[[], object] = lambda: None,
    ):
        self.begin, self.examples, self.endless, self.ended, self.passed = (
            begin,
            examples,
            endless,
            ended,
            passed,
        )
        self._left: Any = None

    def batches(self, epoch: int, sizes: np.ndarray, skip: int) -> Iterator[Any]:
        chunks = iter(self.begin(epoch))
        left, self._left = self._left, None
        for number, size in enumerate(sizes):
            parts, missing = [], int(size)
            while missing:
                chunk = left if left is not None else next(chunks, None)
                if chunk is None:
                    raise self._ran_out(epoch, int(sizes[:number].sum()) + int(size) - missing)
                chunk, left = _split(chunk, missing)
                parts.append(chunk)
                missing -= _length(chunk)
            if number + 1 == len(sizes):
                # Asked before the last batch is handed out: nobody comes back for more behind it.
                self._end_pass(epoch, left, chunks, whole=int(sizes.sum()) == self.examples)
            if number >= skip:
                yield _join(parts)

    def peek(self) -> Any:
        chunk = self._left if self._left is not None else next(iter(self.begin(0)))
        if self.endless:
            self._left = chunk
        return chunk

    def _end_pass(self, epoch: int, left: Any, chunks: Iterator[Any], whole: bool) -> None:
        self.ended()
        if self.endless:
            self._left = left
        elif whole and (left is not None or next(chunks, None) is not None):
            raise value_error(
                "x",
                Code(f"more than {self.examples} examples in pass {epoch}"),
                f"{self.examples} examples a pass, as the plan says",
                "plan.replace(examples=...) with the number that a pass really has",
            )

    def _ran_out(self, epoch: int, seen: int) -> ValueError:
        return value_error(
            "x",
            Code(f"{seen} examples in pass {epoch}"),
            f"{self.examples} examples a pass, as the plan says",
            f"plan.replace(examples={seen})",
        )


def _length(chunk: Any) -> int:
    return len(keras.tree.flatten(chunk)[0])


def _split(chunk: Any, count: int) -> tuple[Any, Any]:
    chunk = keras.tree.map_structure(np.asarray, chunk)
    if _length(chunk) <= count:
        return chunk, None
    first = keras.tree.map_structure(lambda array: array[:count], chunk)
    return first, keras.tree.map_structure(lambda array: array[count:], chunk)


def _join(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def from_py_dataset(dataset: keras.utils.PyDataset, examples: int) -> Stream:
    """Return the batches of a `PyDataset` in order; its `on_epoch_end` runs behind each pass."""

    def begin(epoch: int) -> Iterator[Any]:
        for index in range(len(dataset)):
            yield dataset[index]

    return Stream(begin, examples, ended=dataset.on_epoch_end, passed=dataset.on_epoch_end)


def from_generator(generator: Any, examples: int) -> Stream:
    """Return the batches of a generator, which goes on over all passes, or of a function that makes one a pass."""
    if callable(generator):
        return Stream(lambda epoch: generator(), examples)
    shared = iter(generator)
    # A generator has one long breath: a pass takes what it needs and leaves the rest to the next.
    return Stream(lambda epoch: itertools.chain(shared), examples, endless=True)
