"""What each replica has counted by itself: the sum of metrics is kept with a model, and this beside it.

Sums of parts in another order differ in their last bits, so a training that goes on bit for bit needs the parts.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kwarmup.distribute import replicas

_NAME = "replicas"


def take(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the values of a model's metrics on all replicas, of all workers; nothing for a single device."""
    if not replicas.spread(model):
        return {}
    import tensorflow as tf

    strategy: Any = model.distribute_strategy

    def own() -> list[tf.Tensor]:
        return [tf.identity(tf.convert_to_tensor(v.value))[None] for v in model.metrics_variables]

    return {
        f"{_NAME}/{index}": strategy.gather(values, axis=0).numpy()
        for index, values in enumerate(strategy.run(own))
    }


def put(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Give each replica what it had counted; where there were others, the sum is what it is."""
    if not replicas.spread(model):
        return
    import tensorflow as tf

    strategy: Any = model.distribute_strategy
    shares = replicas.shares(strategy)
    variables = list(model.metrics_variables)
    kept = [arrays.get(f"{_NAME}/{index}") for index in range(len(variables))]
    if any(rows is None or len(rows) != shares.replicas for rows in kept):
        return

    def own(number: tf.Tensor) -> None:
        for variable, rows in zip(variables, kept, strict=True):
            variable.assign(tf.constant(rows)[number])

    numbers = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group)
    )
    strategy.run(own, args=(numbers,))
