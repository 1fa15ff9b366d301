"""How much memory training holds at several batch sizes, measured where it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kwarmup import private
from kwarmup.as_trained import AsTrained
from kwarmup.batch_trials import BatchTrials
from kwarmup.device_memory import device_memory, told
from kwarmup.errors import value_error
from kwarmup.footprint import MemoryUse
from kwarmup.trial import check, progress
from kwarmup.untouched import untouched

_WRITE = "memory_use(model, x, y, batch_sizes=[16, 64, 256])"
_FIRST, _MOST = 8, 4096


def memory_use(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_sizes: Sequence[int] | None = None,
    seed: int | None = 0,
) -> MemoryUse:
    """Measure the memory at the peak of a few updates at several batch sizes: as `fit` trains, data and all.

    The smallest comes first, since what a larger one has left behind may hide what a smaller one takes. On an
    accelerator the device tells its peak; on a CPU the process's is read, to some megabytes, or to the byte
    where TensorFlow hands out the memory from a pool. A batch size that does not fit is noted, and no larger one is
    tried. Behind it the model is as it was, to the last bit.

    Args:
        model: compiled.
        x: arrays in any nesting, a `tf.data.Dataset` of single examples, a `PyDataset`, or a function that
            makes a generator of batches.
        y: targets, beside arrays.
        sample_weight: weights, beside arrays.
        batch_sizes: examples per update, over all replicas and accumulated micro-batches; `None` for powers of
            two from 8 to 4096, as far as the data goes, or such multiples of the replicas and micro-batches.
        seed: of the order of arrays.

    Returns:
        A `MemoryUse`: the peaks, and the line through them. After Ctrl-C, of the sizes that were finished.

    Raises:
        TypeError: if `x` is a generator, or an argument is of another type.
        ValueError: if the model is not compiled, an argument is out of range, no batch size fits, or neither the device
            nor the system tells what is held.

    Example:

    >>> import keras, numpy as np
    >>> import kwarmup as kw
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> found = kw.memory_use(model, np.ones((512, 4)), np.ones((512, 1)), batch_sizes=[8, 256])
    >>> found.batch_sizes, found.held > 0
    ((8, 256), True)
    """
    check(model, "memory_use")
    training = AsTrained("memory_use", model, (x, y, sample_weight), seed)
    first = training.first()
    sizes = training.sizes(batch_sizes, _FIRST, _MOST, _WRITE)
    private.build(model, first)
    device = told(device_memory(model))
    found: dict[int, int] = {}
    lost: list[int] = []
    interrupted = False
    try:
        with progress("memory_use", len(sizes)) as advance, untouched(model):
            trials = BatchTrials(training, device, device.total if device.counted else None)
            for done, size in enumerate(sizes):
                advance(done)
                trial = trials.try_out(size)
                if not trial.fits:
                    lost.append(size)
                    break
                if trial.peak is not None:
                    found[size] = trial.peak
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    if not found:
        raise value_error("batch_sizes", sizes[0], "a batch size that fits into the memory", _WRITE)
    return MemoryUse(tuple(found), tuple(found.values()), device.held, device.total, tuple(lost), interrupted)
