"""The largest batch size that fits into memory, tried on the model itself."""

from __future__ import annotations

import math
from typing import Any

import keras

from kwarmup import private
from kwarmup.as_trained import AsTrained
from kwarmup.batch_trials import BatchTrials
from kwarmup.capacity import BatchTrial, find_largest
from kwarmup.device_memory import device_memory, told
from kwarmup.errors import Code, value_error
from kwarmup.length import number
from kwarmup.max_batch import MaxBatchSize
from kwarmup.trial import check, progress
from kwarmup.untouched import untouched

_WRITE = "max_batch_size(model, x, y, limit=4096)"
#: Where data has no length.
_MOST = 2**16


def max_batch_size(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    limit: int | None = None,
    memory: int | None = None,
    seed: int | None = 0,
) -> MaxBatchSize:
    """Find the largest batch size that trains within memory, by training with some: as `fit` does, data and all.

    On an accelerator a size fits if no allocation fails; the result is exact, since the next larger one was seen
    to fail. On a CPU a failed allocation mostly ends the process. There a size fits if the process, whose
    peak is measured on Linux, holds no more than `memory`; sizes that are expected to hold more are not tried,
    and about 2 % are left aside for chance. What the process keeps of larger steps before is counted where nobody
    tells it apart, so that a fresh process may find more. Behind it the model is as it was, to the last bit.

    Args:
        model: compiled.
        x: arrays in any nesting, a `tf.data.Dataset` of single examples, a `PyDataset`, or a function that
            makes a generator of batches.
        y: targets, beside arrays.
        sample_weight: weights, beside arrays.
        limit: the largest batch size to try; `None` for all examples of arrays, and 65,536 of other data.
        memory: bytes that may be held at the peak: by the process on a CPU, by each device on accelerators.
            `None` for all that a device has, and on a CPU for what the process holds and 90 % of what is free.
        seed: of the order of arrays.

    Returns:
        A `MaxBatchSize`: the value, which was tried, and all trials. After Ctrl-C, the largest until then.

    Raises:
        TypeError: if `x` is a generator, or an argument is of another type.
        ValueError: if the model is not compiled, an argument is out of range, the smallest batch does not fit, or
            a CPU's system does not tell what the process holds.

    Example:

    >>> import keras, numpy as np
    >>> import kwarmup as kw
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> kw.max_batch_size(model, np.ones((512, 4)), np.ones((512, 1)))
    <MaxBatchSize: 512; the largest that was to be tried; 6 tried>
    """
    check(model, "max_batch_size")
    training = AsTrained("max_batch_size", model, (x, y, sample_weight), seed)
    first = training.first()
    most = _limit(limit, training)
    if memory is not None and (not isinstance(number("memory", memory, _WRITE), int) or memory < 1):
        raise value_error("memory", memory, "a whole number of bytes, 1 or more", _with_memory(8 * 2**30))
    private.build(model, first)
    device = told(device_memory(model))
    counted = memory is not None or device.counted
    total = device.total if memory is None else int(memory)
    trials: list[BatchTrial] = []
    interrupted = False
    try:
        with progress("max_batch_size", _about(most)) as advance, untouched(model):
            sizes = BatchTrials(training, device, total if counted else None)

            def try_out(batch_size: int) -> BatchTrial:
                advance(len(trials))
                return sizes.try_out(batch_size)

            find_largest(
                try_out, trials, multiple=training.multiple, limit=most, base=device.held, memory=total,
                counted=counted,
            )  # fmt: skip
    except KeyboardInterrupt:
        if not any(trial.fits for trial in trials):
            raise
        interrupted = True
    value = max((trial.batch_size for trial in trials if trial.fits), default=None)
    if value is None:
        raise _nothing_fits(trials[0], total if counted else None)
    return MaxBatchSize(value, tuple(trials), most, total, counted, interrupted)


def _limit(limit: int | None, training: AsTrained) -> int:
    examples, multiple = training.examples, training.multiple
    if limit is None:
        return (examples or _MOST) // multiple * multiple
    if not isinstance(number("limit", limit, _WRITE), int) or limit < multiple:
        raise value_error("limit", limit, f"a whole number, {multiple} or more", _WRITE)
    if examples is not None and limit > examples:
        write = f"max_batch_size(model, x, y, limit={examples})"
        raise value_error("limit", limit, f"at most the {examples:,} examples that there are", write)
    return limit // multiple * multiple


def _about(limit: int) -> int:
    """About how many trials there will be: sizes grow fourfold, and then come closer."""
    return 3 + math.ceil(math.log(limit, 4))


def _nothing_fits(trial: BatchTrial, memory: int | None) -> ValueError:
    if trial.peak is not None and memory is not None:
        expected = f"more than the {trial.peak:,} bytes that a batch of {trial.batch_size} takes"
        return value_error("memory", memory, expected, _with_memory(2 * trial.peak))
    return value_error(
        "model", Code(f"one that runs out of memory with a batch of {trial.batch_size}"),
        "a model that can be trained with the smallest batch",
        "a smaller model, or a device with more memory",
    )  # fmt: skip


def _with_memory(memory: int) -> str:
    return f"max_batch_size(model, x, y, memory={memory})"
