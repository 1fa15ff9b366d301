"""Measure with somebody's model and leave no trace: whatever is done to it inside is undone behind it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from kwarmup import private, state
from kwarmup.errors import Code, value_error

Undo = Callable[[], object]


@contextlib.contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """While inside, do with the model what you like; behind it all is as before, to the last bit.

    That is its variables with the states of its random generators, the optimizer's slots and counters, the
    metrics, the attributes of model and optimizer (compiled functions, `stop_training`, `history`), torch's
    train mode, and the random numbers that Python, numpy, Keras, TensorFlow and torch would draw next. It
    holds behind exceptions too, Ctrl-C among them.

    Args:
        model: built and compiled, its optimizer too; `private.build` makes what is missing.

    Raises:
        ValueError: if the model or its optimizer has no variables yet.

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup.untouched import untouched
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> model.compile("sgd", "mse")
    >>> model.optimizer.build(model.trainable_variables)
    >>> with untouched(model):
    ...     history = model.fit(np.ones((4, 1)), np.zeros((4, 1)), verbose=0)
    >>> float(model.layers[0].kernel[0, 0]), int(model.optimizer.iterations)
    (1.0, 0)
    """
    optimizer: Any = getattr(model, "optimizer", None)
    if not model.built or not getattr(optimizer, "built", False):
        raise value_error(
            "model",
            Code(
                f"{model.name}, without the variables of {'its optimizer' if model.built else 'its layers'}"
            ),
            "a model that is built and compiled",
            "private.build(model, batch), behind model.compile(...)",
        )
    with contextlib.ExitStack() as behind:
        # The last is done first: variables are put back once the optimizer is the model's own again.
        for undo in (*_random_numbers(), *_modes(model), *_variables(model), *_attributes(model, optimizer)):
            behind.callback(undo)
        yield


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """While inside, draw what you like; behind it Python, numpy, Keras, TensorFlow and torch draw on as before."""
    with contextlib.ExitStack() as behind:
        for undo in (*_random_numbers(), *_shared_generator()):
            behind.callback(undo)
        yield


def _shared_generator() -> Iterator[Undo]:
    shared = private.shared_seed_generator()
    if shared is not None:
        before = state.take({"random": [shared.state]})
        # A copy: torch hands out the memory of the variable itself.
        arrays = {name: np.array(array) for name, array in before.items()}
        yield lambda: state.put({"random": [shared.state]}, arrays)


def _attributes(model: keras.Model, optimizer: Any) -> Iterator[Undo]:
    inner = getattr(optimizer, "inner_optimizer", None)
    for thing in (model, optimizer, *([inner] if inner is not None else [])):
        seen: set[int] = set()
        yield from _contents(vars(thing), seen)
        yield from _contents(private.tracked(thing), seen)


def _contents(thing: Any, seen: set[int]) -> Iterator[Undo]:
    """Yield what puts the contents of lists, dicts and sets back, within tuples and each other too.

    A schedule in place of a learning rate takes a variable out of the optimizer's list, and a metric that
    is made stays in the model's. The methods of the plain types are used, since those of Keras's and
    TensorFlow's own lists track what is put into them.
    """
    kind: Any = next((kind for kind in (list, dict, set, tuple) if issubclass(type(thing), kind)), None)
    if kind is None or id(thing) in seen:
        return
    seen.add(id(thing))
    before = kind(thing)
    if kind is list:
        yield lambda: list.__setitem__(thing, slice(None), before)
    elif kind is not tuple:
        yield lambda: (kind.clear(thing), kind.update(thing, before))
    for inner in before.values() if kind is dict else before:
        yield from _contents(inner, seen)
    if hasattr(thing, "__dict__"):
        yield from _contents(vars(thing), seen)


def _variables(model: keras.Model) -> Iterator[Undo]:
    groups = state.variables(model)
    shared = private.shared_seed_generator()
    groups["random"] = [] if shared is None else [shared.state]
    # A copy: torch hands out the memory of the variable itself, and JAX may give it to another array.
    arrays = {name: np.array(array) for name, array in state.take(groups).items()}
    yield lambda: state.put(groups, arrays)


def _modes(model: keras.Model) -> Iterator[Undo]:
    if keras.backend.backend() != "torch":
        return
    modes = [(module, module.training) for module in _modules(model)]

    def undo() -> None:
        for module, training in modes:
            module.training = training

    yield undo


def _modules(layer: Any) -> Iterator[Any]:
    for module in layer.modules():
        yield module
        # Keras keeps the layers of a model in a list, into which torch does not look.
        for inner in getattr(module, "layers", ()):
            yield from _modules(inner)


def _random_numbers() -> Iterator[Undo]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    yield lambda: random.setstate(of_python)
    yield lambda: np.random.set_state(of_numpy)
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        of_torch = torch.get_rng_state()
        yield lambda: torch.set_rng_state(of_torch)
    if backend == "tensorflow" and (seeds := private.tensorflow_seeds()) is not None:
        of_tensorflow = seeds.getstate()
        yield lambda: seeds.setstate(of_tensorflow)
