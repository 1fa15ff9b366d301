"""How fast a model trains at each batch size, measured on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kwarmup import private
from kwarmup.as_trained import AsTrained
from kwarmup.errors import value_error
from kwarmup.length import number
from kwarmup.memory import is_out_of_memory
from kwarmup.speed import Throughput
from kwarmup.trial import check, progress
from kwarmup.untouched import untouched

_WRITE = "throughput(model, x, y, batch_sizes=[16, 64, 256])"
#: Seconds of one measurement, and the fewest executions in it.
_SECONDS, _LEAST = 0.25, 3
_FIRST, _MOST = 8, 4096


def throughput(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_sizes: Sequence[int] | None = None,
    repeats: int = 5,
    seed: int | None = 0,
) -> Throughput:
    """Measure the seconds of an update at several batch sizes: as `fit` trains, data and all.

    Each batch size is compiled and run once before it counts. Then each repeat measures all of them, in an order
    of its own, for a quarter of a second or three executions. Behind it the model is as it was, to the last bit.
    A batch size that does not fit into the memory is noted, and no larger one is tried.

    Args:
        model: compiled; what is timed is the step that it was compiled for.
        x: arrays in any nesting, a `tf.data.Dataset` of single examples, a `PyDataset`, or a function that
            makes a generator of batches.
        y: targets, beside arrays.
        sample_weight: weights, beside arrays.
        batch_sizes: examples per update, over all replicas and accumulated micro-batches; `None` for powers of
            two from 8 to 4096, as far as the data goes, or such multiples of the replicas and micro-batches.
        repeats: rounds that count.
        seed: of the order of arrays.

    Returns:
        A `Throughput`: the times, `examples_per_second`, the line through them, and the knee. After Ctrl-C, of
        the rounds that were finished.

    Raises:
        TypeError: if `x` is a generator, or an argument is of another type.
        ValueError: if the model is not compiled, an argument is out of range, or no batch size fits.

    Example:

    >>> import keras, numpy as np
    >>> import kwarmup as kw
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> found = kw.throughput(model, np.ones((512, 4)), np.ones((512, 1)), batch_sizes=[8, 256], repeats=2)
    >>> found.batch_sizes, found.examples_per_second(256).median > 0
    ((8, 256), True)
    """
    check(model, "throughput")
    if not isinstance(number("repeats", repeats, _WRITE), int) or repeats < 1:
        raise value_error("repeats", repeats, "a whole number, 1 or more", _WRITE)
    training = AsTrained("throughput", model, (x, y, sample_weight), seed)
    first = training.first()
    sizes, session = training.sizes(batch_sizes, _FIRST, _MOST, _WRITE), _Session(training)
    private.build(model, first)
    rows: list[dict[int, float]] = []
    interrupted = False
    try:
        with progress("throughput", (repeats + 1) * len(sizes)) as advance, untouched(model):
            done = 0
            for size in sizes:
                if not session.try_out(size):
                    break
                advance(done := done + 1)
            random = np.random.default_rng(0)
            for _ in range(repeats):
                row: dict[int, float] = {}
                for size in random.permutation(list(session.counts)).tolist():
                    row[size] = session.seconds(size)
                    advance(done := done + 1)
                rows.append(row)
    except KeyboardInterrupt:
        if not rows:
            raise
        interrupted = True
    measured = sorted(session.counts)
    return Throughput(
        tuple(measured),
        tuple(tuple(row[size] for size in measured) for row in rows),
        tuple(session.compile_seconds[size] for size in measured),
        tuple(session.out_of_memory),
        interrupted,
    )


class _Session:
    def __init__(self, training: AsTrained):
        self.training = training
        self.counts: dict[int, int] = {}  # executions in a measurement
        self.compile_seconds: dict[int, float] = {}
        self.out_of_memory: list[int] = []

    def try_out(self, size: int) -> bool:
        """Compile for a batch size, and see how many executions are a measurement; return whether it fits."""
        try:
            laps = self._run(size, _LEAST)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not self.counts:
                raise value_error(
                    "batch_sizes", size, "a batch size that fits into the memory", _WRITE
                ) from error
            self.out_of_memory.append(size)
            return False
        usual = float(np.median(laps[1:]))
        self.compile_seconds[size] = max(0.0, laps[0] - usual)
        self.counts[size] = max(_LEAST, min(1_000, math.ceil(_SECONDS / usual)))
        return True

    def seconds(self, size: int) -> float:
        """Measure the seconds of an update."""
        count = self.counts[size]
        laps = self._run(size, count + 1)
        return sum(laps[1:]) / (count * self.training.stride)

    def _run(self, size: int, executions: int) -> list[float]:
        """Seconds of each execution; the device is waited for behind the first and the last."""
        watch = _Watch()
        self.training.run(size, executions, [watch])
        per = len(watch.laps) // executions  # under accumulation an update has several batches
        return [sum(watch.laps[i * per : (i + 1) * per]) for i in range(executions)]


class _Watch(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.laps: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._before = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.laps or batch + 1 >= self.params["steps"]:
            keras.ops.convert_to_numpy(self.model.optimizer.iterations)
        now = time.perf_counter()
        self.laps.append(now - self._before)
        self._before = now
