"""Train a model for a while, to see what it does: again and again from the same weights, losses batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from kwarmup import private, state
from kwarmup.distribute import replicas
from kwarmup.errors import Code, value_error

#: Micro-batches in one call of the compiled function, and between two looks at the losses.
STRIDE = 10

#: One entry for each micro-batch: how many updates came before it, and its loss.
Measured = list[tuple[int, float]]


class Trial:
    """A compiled model with a fresh optimizer like its own, at another learning rate. Use it inside `untouched`.

    Args:
        model: built and compiled.
        learning_rate: a number or a schedule.
        stride: micro-batches in one call of the compiled function; what is run is a multiple of it.
    """

    def __init__(self, model: keras.Model, learning_rate: Any, stride: int = STRIDE):
        trainer: Any = model
        self.model = trainer
        _, count = layout(model)
        with replicas.scope(model):
            optimizer: Any = private.optimizer_like(trainer.optimizer, learning_rate)
            optimizer.build(model.trainable_variables)
        self.optimizer = optimizer
        model.reset_metrics()
        tensorflow = keras.backend.backend() == "tensorflow"
        # Not by setattr, which would make what is put in for a while a part of what is saved of the model.
        own = vars(trainer)
        own["optimizer"], own["train_function"] = optimizer, None
        own["train_step"] = _step(trainer, optimizer)
        # An iterator over several replicas cannot be read inside a loop in the graph.
        own["steps_per_execution"] = stride if tensorflow and count == 1 else 1
        if tensorflow:
            from kwarmup.execution import execution

            own["train_function"] = execution(model, trainer.steps_per_execution)
        weights, rolled = list(model.weights), {id(variable) for variable in model.weights}
        self._groups = {"model": weights, "optimizer": list(optimizer.variables)}
        self._dice = {"model": [variable for variable in model.variables if id(variable) not in rolled]}
        self._start, self._unrolled = _copy(self._groups), _copy(self._dice)
        self._roll_back = _torch_dice() if keras.backend.backend() == "torch" else lambda: None

    def rewind(self) -> None:
        """Go back to the weights, statistics and slots of the beginning; dropout goes on drawing."""
        state.put(self._groups, self._start)

    def same_dice(self) -> None:
        """Let dropout and all that draws in the model draw what it drew at the beginning."""
        state.put(self._dice, self._unrolled)
        self._roll_back()

    def run(self, batches: Any, count: int, measured: Measured, stop: Callable[[Measured], bool]) -> None:
        """Train on `count` micro-batches, and put what each measures into `measured` while it goes on.

        Args:
            batches: what `Supply.trial` returns.
            count: how many of them.
            measured: a list to fill; after an exception it holds what came before.
            stop: asked now and then whether that is enough.
        """
        watch = _Watch(measured, stop)
        self.model.fit(batches, epochs=1, steps_per_epoch=count, shuffle=False, verbose=0, callbacks=[watch])


def losses(measured: Measured, parts: int) -> np.ndarray:
    """Return the loss of each whole update: the mean over its micro-batches.

    Where a loss scale was too large, an update was tried again with other batches; these count as one.

    >>> losses([(0, 4.0), (0, 2.0), (1, 1.0), (1, 2.0), (2, 9.0)], parts=2).tolist()
    [3.0, 1.5]
    """
    if not measured:
        return np.empty(0)
    updates, values = np.array([update for update, _ in measured]), np.array([loss for _, loss in measured])
    counts = np.bincount(updates)
    whole = len(counts) - (counts[-1] < parts)
    return (np.bincount(updates, values) / counts)[:whole]


def _torch_dice() -> Callable[[], object]:
    """Return what puts torch's own generator back to where it is, from which Keras's dropout draws there."""
    import torch

    before = torch.get_rng_state()
    return lambda: torch.set_rng_state(before)


def _copy(groups: dict[str, list[Any]]) -> state.Arrays:
    # torch hands out the memory of the variable itself.
    return {name: np.array(value) for name, value in state.take(groups).items()}


class _Watch(keras.callbacks.Callback):
    def __init__(self, measured: Measured, stop: Callable[[Measured], bool]):
        super().__init__()
        self.measured, self.stop = measured, stop

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        before = len(self.measured) // STRIDE
        updates, values = np.ravel(logs["update"]).astype("int64"), np.ravel(logs["loss"]).astype("float64")
        self.measured.extend(zip(updates.tolist(), values.tolist(), strict=True))
        if len(self.measured) // STRIDE > before and self.stop(self.measured):
            self.model.stop_training = True


def _step(model: Any, optimizer: Any) -> Callable[..., Any]:
    """Return the model's training step, reporting the loss of this batch alone, not a running mean."""
    train_step = model.train_step

    def step(data: Any) -> dict[str, Any]:
        update = ops.cast(optimizer.iterations, "int32") + 0  # torch would count on in it
        for metric in model.metrics:
            if metric.name == "loss":
                metric.reset_state()
        return {"loss": _loss(train_step(data)), "update": update}

    def stateless_step(variables: Any, data: Any) -> Any:
        with keras.StatelessScope(state_mapping=zip(optimizer.variables, variables[2], strict=True)):
            update = ops.cast(optimizer.iterations, "int32") + 0  # torch would count on in it
        logs, variables = train_step((*variables[:3], empty), data)
        return {"loss": _loss(logs), "update": update}, variables

    if keras.backend.backend() != "jax":
        return step
    # As numbers of the step: the arrays themselves are given away when the first one begins.
    empty = [np.array(ops.convert_to_numpy(variable)) for variable in model.metrics_variables]
    return stateless_step


def _loss(logs: dict[str, Any]) -> Any:
    if "loss" not in logs:
        raise value_error(
            "model",
            Code(f"a training step that reports {', '.join(sorted(logs)) or 'nothing'}"),
            "one that reports its loss",
            'return {"loss": loss, ...} at the end of train_step',
        )
    return logs["loss"]


def check(model: keras.Model, verb: str) -> None:
    """Raise a `ValueError` where a model is not compiled.

    Args:
        model: what the user gave.
        verb: the function that was called, for the message.
    """
    if not isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer):
        name = getattr(model, "name", model)
        raise value_error("model", name, "a compiled model", f"model.compile(...), then {verb}(model, x, y)")


def layout(model: keras.Model) -> tuple[int, int]:
    """Return the micro-batches per update of a compiled model's optimizer, and its replicas.

    Raises:
        ValueError: if the model is spread over several workers, or accumulates gradients over several replicas.
    """
    check_workers(model)
    optimizer: Any = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    parts, count = inner.gradient_accumulation_steps or 1, replicas.count(model)
    if parts > 1 and replicas.spread(model):
        raise value_error(
            "gradient_accumulation_steps",
            Code(f"{parts} in the optimizer of {model.name}, spread over {count} replicas"),
            "None where a model is measured over replicas, since Keras's own step cannot do both, as plan.fit can",
            "the same model compiled without it: an update with the same batch is the same",
        )
    return parts, count


def check_workers(model: keras.Model) -> None:
    """Raise a `ValueError` where other processes have a part in a model."""
    if replicas.several_workers(model):
        raise value_error(
            "model",
            Code(f"{model.name}, spread over several workers"),
            "a model of one process, on one device or several: all workers would measure the same",
            "a model that is made outside of strategy.scope(), or in a process without TF_CONFIG",
        )


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """While inside, show a bar on standard error if that is a terminal; yields a function that moves it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
