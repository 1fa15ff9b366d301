"""Say clearly that another worker is gone, where TensorFlow says that some connection was reset."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from kwarmup import applied

_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


class WorkerLost(RuntimeError):
    """Another worker is gone, and this one cannot go on without it: what they share is broken for good.

    All workers are to be started again, and go on from the last checkpoint; `kwarmup launch --max-restarts` does so.

    Example:

    >>> from kwarmup.distribute import WorkerLost
    >>> issubclass(WorkerLost, RuntimeError)
    True
    """


@contextlib.contextmanager
def lost_worker(model: Any) -> Iterator[None]:
    """While inside, what TensorFlow raises where a worker does not answer any more is a `WorkerLost`."""
    try:
        yield
    except _ERRORS as error:
        if not isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        try:
            where = f" behind update {applied.updates(model.optimizer):,}"
        except Exception:  # the variables may be of no use either
            where = ""
        raise WorkerLost(
            f"Another worker was lost{where}: {str(error).strip().splitlines()[0][:300]}\n"
            "Start all workers again; with the same checkpoint_dir they go on from the last checkpoint.\n"
            "Write: kwarmup launch --workers N --max-restarts 3 -- python train.py"
        ) from error
