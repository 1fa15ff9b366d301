"""A training step that also tells how the gradients of parts of its batch scatter.

The model's own training step runs, on parts of the batch or beside them, while the optimizer's `apply` is
listened to: that works for every loss, metric and precision, and for training steps of one's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from kwarmup.errors import Code, value_error

#: Where a step puts its figures among the logs: mean |g|^2 of the parts, |g|^2 of their mean, the
#: examples, and the squared distance of that mean from the batch's own gradient, relative.
FIGURES = "kwarmup_noise"
#: Measured steps whose parts must give the batch's own gradient before it is made from them.
TRIALS = 3
#: The squared relative distance below which two gradients in single precision are the same.
SAME = 1e-6


def measuring(
    model: keras.Model, parts: int, split: bool, before: Callable[..., None] | None = None
) -> Callable[..., Any]:
    """Return a `train_step` that does what the model's own does, and measures.

    Args:
        model: built and compiled.
        parts: how many parts a batch is cut into, as even as can be.
        split: train on the parts: the optimizer gets their mean, which is the gradient of the batch where
            that is a mean over examples. It costs little. Otherwise the parts are measured beside the
            step, which stays exactly as it is: a gradient more, and what layers and metrics did is undone.
        before: what to do with the figures just before the update, whose learning rate may follow from them.
    """
    train, optimizer = model.train_step, model.optimizer
    stateless = keras.backend.backend() == "jax"
    door = "stateless_apply" if stateless else "apply"

    def run(state: list[Any], data: Any, apply: Callable[..., Any]) -> tuple[Any, list[Any]]:
        with replaced(optimizer, door, apply):
            found = train(*state, data)
        return (found[0], [found[1]]) if stateless else (found, state)

    def step(*arguments: Any) -> Any:
        *state, data = arguments
        pieces, sizes = _cut(data, parts)
        caught: list[list[Any]] = []
        figures: list[Any] = []
        apply = getattr(optimizer, door)

        def catch(*given: Any, **named: Any) -> Any:
            caught.append(_dense(given[stateless]))
            # As `stateless_apply` does: first the weights, then its own variables.
            return (given[2], given[0]) if stateless else None

        def catch_and_apply(*given: Any, **named: Any) -> Any:
            caught.append(_dense(given[stateless]))
            if len(caught) == parts + (not split):
                squares, square, away = _figures(caught[:parts], sizes, None if split else caught[-1])
                figures.extend([squares / scale**2, square / scale**2, sum(sizes), away])
                if before is not None:
                    before(*figures)
                if split:
                    given = (*given[:stateless], _mean(caught, sizes), *given[stateless + 1 :])
            return apply(*given, **named)

        # Half precision scales the loss, and an update may change by how much.
        scale = ops.cast(_loss_scale(optimizer, state), "float32")
        begun, undo = state, _keep(model) if not (split or stateless) else None
        for piece in pieces[:-1] if split else pieces:
            _, state = run(state, piece, catch)
        if undo is not None:
            undo()
        logs, state = run(state, pieces[-1], catch_and_apply) if split else run(begun, data, catch_and_apply)
        if len(caught) != parts + (not split):
            raise _other_times(model)
        logs = {**logs, FIGURES: ops.stack(figures)}
        return (logs, *state) if stateless else logs

    return step


def examples_in(data: Any) -> Any:
    """Return how many examples a batch holds; in a compiled step, it may be known only when it runs."""
    return ops.shape(next(leaf for leaf in keras.tree.flatten(data) if leaf is not None))[0]


def function_of(model: keras.Model, train_step: Callable[..., Any]) -> Any:
    """Return what `fit` would run for another training step: compiled, and several an execution, as the model's own."""
    trainer: Any = model
    plain = trainer.train_function
    with replaced(model, "train_step", train_step):
        trainer.make_train_function(force=True)
    function, trainer.train_function = trainer.train_function, plain
    return function


def run_next(
    model: keras.Model,
    train_step: Callable[..., Any],
    function: Any,
    behind: Callable[[dict[str, Any]], None],
) -> None:
    """Let the next execution be of another training step: it puts the model's own back, whatever happens in it.

    Args:
        model: in training.
        train_step: the step.
        function: made of it by `function_of`.
        behind: is given the execution's logs.
    """
    trainer: Any = model
    plain = trainer.train_function

    def once(*arguments: Any) -> Any:
        trainer.train_function = plain
        with replaced(model, "train_step", train_step):  # on torch a function looks it up as it runs
            found = function(*arguments)
        behind(found[0] if isinstance(found, tuple) else found)
        return found

    trainer.train_function = once


@contextlib.contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """While inside, an attribute of this one object is another."""
    before = vars(thing).get(name, replaced)
    vars(thing)[name] = value
    try:
        yield
    finally:
        if before is replaced:
            del vars(thing)[name]
        else:
            vars(thing)[name] = before


def _cut(data: Any, parts: int) -> tuple[list[Any], list[Any]]:
    """Cut a batch into pieces, with the share that each has of the examples.

    Where there are fewer examples than parts, a piece without any holds one again, and its share is 0.
    """
    count = examples_in(data)
    ends = [index * count // parts for index in range(parts + 1)]
    pieces = []
    for begin, end in zip(ends, ends[1:], strict=False):
        if isinstance(count, int):
            begin = min(begin, count - 1)
            end = max(end, begin + 1)
        else:
            begin = ops.minimum(begin, count - 1)
            end = ops.maximum(end, begin + 1)
        pieces.append(_rows(data, begin, end))
    sizes = [ops.cast(end - begin, "float32") for begin, end in zip(ends, ends[1:], strict=False)]
    return pieces, sizes


def _rows(data: Any, begin: Any, end: Any) -> Any:
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[begin:end], data)


def _keep(model: keras.Model) -> Callable[[], None]:
    """Return what gives statistics, random generators and metrics the values back that they have now."""
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    values = [ops.copy(variable.value) for variable in variables]

    def undo() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return undo


def _dense(gradients: Any) -> list[Any]:
    # An embedding's gradient on TensorFlow is a list of rows, which adds up where it is made a tensor.
    return [None if gradient is None else ops.convert_to_tensor(gradient) for gradient in gradients]


def _mean(parts: list[list[Any]], sizes: list[Any]) -> list[Any]:
    """The mean of gradients over parts of these sizes: that of the whole batch."""
    shares = [size / sum(sizes) for size in sizes]
    return [
        None
        if gradients[0] is None
        else sum(
            gradient * ops.cast(share, gradient.dtype)
            for gradient, share in zip(gradients, shares, strict=True)
        )
        for gradients in zip(*parts, strict=True)
    ]


def _figures(parts: list[list[Any]], sizes: list[Any], whole: list[Any] | None) -> list[Any]:
    mean, count = _mean(parts, sizes), sum(sizes)
    squares = sum(_square(part) * size / count for part, size in zip(parts, sizes, strict=True))
    away = ops.zeros(())
    if whole is not None:
        difference = [None if a is None else a - b for a, b in zip(mean, whole, strict=True)]
        away = _square(difference) / _square(whole)
    return [squares, _square(mean), away]


def _loss_scale(optimizer: Any, state: list[Any]) -> Any:
    if not state:
        return optimizer.scale_loss(1.0)
    # On JAX variables have no values of their own while a model trains.
    with keras.StatelessScope(state_mapping=list(zip(optimizer.variables, state[0][2], strict=True))):
        return optimizer.scale_loss(1.0)


def _square(gradient: list[Any]) -> Any:
    return sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradient if g is not None)


def _other_times(model: keras.Model) -> ValueError:
    return value_error(
        "model",
        Code(f"{type(model).__name__}, whose train_step does not apply gradients once"),
        "a training step with one update",
        "model.fit(x, y) without NoiseScaleMonitor",
    )
