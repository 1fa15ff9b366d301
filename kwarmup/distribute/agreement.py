"""What all workers must have in common before they train together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from kwarmup.distribute import replicas
from kwarmup.errors import Code, value_error


def same_place(model: keras.Model, folder: Path, found: Any) -> None:
    """Compare where the workers of a training would go on.

    Args:
        model: compiled in a strategy's scope.
        folder: where this worker has looked for a checkpoint.
        found: the checkpoint; `None` for none.

    Raises:
        ValueError: in all workers, if they have not found the same.
    """
    place = -1 if found is None else int(found.facts["place"][0])
    least, most = everywhere(model, place)
    if least != most:
        here = "no checkpoint" if place < 0 else f"one behind {place:,} batches"
        raise value_error(
            "checkpoint_dir",
            Code(f"{folder}, with {here} for this worker and something else for another"),
            "a folder that all workers see",
            'checkpoint_dir="/shared/runs/a", on a file system that all machines have',
        )


def everywhere(model: keras.Model, number: int) -> tuple[int, int]:
    """Return the least and the largest of a number that each worker has of its own."""
    strategy: Any = getattr(model, "distribute_strategy", None)
    if strategy is None or not replicas.spread(model):
        return number, number
    if len(strategy.extended.worker_devices) == strategy.num_replicas_in_sync:
        return number, number
    import tensorflow as tf

    with tf.device(strategy.extended.worker_devices[0]):
        # An all-gather knows only sums: each worker writes to a place of its own.
        mine = tf.one_hot(replicas.shares(strategy).first, strategy.num_replicas_in_sync, dtype=tf.int64)
        mine = tf.identity(mine * (number + 1))

    def total(values: Any) -> Any:
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(values))

    local = len(strategy.extended.worker_devices)
    found = strategy.experimental_local_results(strategy.run(total, args=(mine,)))[0].numpy()
    numbers = found[::local] // local - 1
    return int(numbers.min()), int(numbers.max())
