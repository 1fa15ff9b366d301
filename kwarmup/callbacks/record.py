"""Put the learning rate that was really used into Keras's logs, and the batch size where it moves."""

from __future__ import annotations

from typing import Any, final

import keras

from kwarmup import applied
from kwarmup.errors import value_error


@final
class Record(keras.callbacks.Callback):
    """Adds `learning_rate`, the one of the last update, to the logs that all later callbacks see.

    Put it before the callbacks that read logs: `callbacks=[Record(), CSVLogger(...), TensorBoard(...)]`.
    Keras's own History always comes last. `optimizer.learning_rate` is the rate of the *next* update;
    this is the one that was applied, also under `steps_per_execution` (the last update of the
    execution), gradient accumulation and mixed precision, for any optimizer and schedule.

    Where the schedule is that of a plan whose batch size moves, `batch_size` stands beside it: the size
    that the plan has for the same update. The last batch of a pass may hold fewer examples.

    Args:
        every: `"epoch"` adds it to each epoch's logs, `"batch"` to each batch's logs too.

    Raises:
        ValueError: if `every` is neither.

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import Record, Schedule, warmup
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(Schedule(warmup(steps=8))), "mse")
    >>> x = np.ones((4, 1))
    >>> history = model.fit(x, x, batch_size=1, epochs=2, verbose=0, callbacks=[Record()])
    >>> history.history["learning_rate"]  # of update 3 and update 7
    [0.375, 0.875]

    >>> from kwarmup import Plan, hold
    >>> grow = hold(epochs=1) >> hold(2)
    >>> plan = Plan(learning_rate=0.1, batch_size=1 * grow, examples=4, epochs=2)
    >>> model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    >>> plan.fit(model, x, x, verbose=0, callbacks=[Record()]).history["batch_size"]
    [1, 2]
    """

    def __init__(self, every: str = "epoch"):
        super().__init__()
        if every not in ("epoch", "batch"):
            raise value_error("every", every, '"epoch" or "batch"', 'Record(every="batch")')
        self.every = every

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.every == "batch":
            self._put(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._put(logs)

    def _put(self, logs: dict[str, Any] | None) -> None:
        if logs is None:
            return
        optimizer = self.model.optimizer
        logs["learning_rate"] = applied.learning_rate(optimizer)
        batch_size = applied.batch_size(optimizer)
        if batch_size is not None:
            logs["batch_size"] = batch_size
