"""Several training steps as one call that returns each step's loss. Only imported where TensorFlow is the backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def execution(model: keras.Model, count: int) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Return a function for `model.train_function`: it takes `count` batches from an iterator.

    Keras's own returns what the last step reports, and no more. Here `loss` and `update` are vectors, one
    number a step; numbers where `count` is 1.

    Args:
        model: compiled; its `train_step` reports the loss of the batch, and how many updates came before.
        count: steps in one call.
    """
    trainer: Any = model
    strategy = trainer.distribute_strategy

    def one(data: Any) -> tuple[tf.Tensor, tf.Tensor]:
        logs = strategy.run(trainer.train_step, args=(data,))
        loss = strategy.reduce(tf.distribute.ReduceOp.MEAN, logs["loss"], axis=None)
        # The same on all replicas.
        update = strategy.experimental_local_results(logs["update"])[0]
        return tf.cast(loss, tf.float32), tf.cast(update, tf.int64)

    # A trace costs more than the steps of a small network: there is one, without AutoGraph, which Keras does not
    # let look at a training step either. XLA alone needs a function within.
    if model.jit_compile and not model.run_eagerly:
        one = tf.function(one, reduce_retracing=True, jit_compile=True, autograph=False)

    def several(iterator: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if count == 1:
            return one(iterator.get_next())

        def body(done: Any, losses: Any, updates: Any) -> tuple[Any, Any, Any]:
            loss, update = one(iterator.get_next())
            return done + 1, losses.write(done, loss), updates.write(done, update)

        rows = [tf.TensorArray(kind, count) for kind in (tf.float32, tf.int64)]
        _, *rows = tf.while_loop(lambda done, *_: done < count, body, (0, *rows), parallel_iterations=1)
        return rows[0].stack(), rows[1].stack()

    if not model.run_eagerly:
        several = tf.function(several, reduce_retracing=True, autograph=False)

    def function(iterator: Any) -> dict[str, tf.Tensor]:
        loss, update = several(iterator)
        return {"loss": loss, "update": update}

    return function
