"""What `Plan.fit` asks: one device, or the replicas of the strategy that the model was made in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kwarmup.clock import Clock
from kwarmup.distribute import replicas


class OneDevice:
    """A model that trains as it is; the part of `Spread` that `Plan.fit` knows."""

    chief, several_workers, asked_anywhere = True, False, False

    def __init__(self, arguments: dict[str, Any]):
        self.arguments = arguments

    def batches(self, between: Callable[..., Any], *where: int) -> Any:
        """Return what `fit` takes: the batches between two places, as `Batches.between` makes them."""
        return between(*where)

    def end_together(self, keeper: Any) -> None:
        """Do nothing: there is nobody else."""


@contextlib.contextmanager
def over(model: keras.Model, clock: Clock | None, arguments: dict[str, Any]) -> Iterator[Any]:
    """While inside, `fit` runs over the replicas of a model's strategy, if there are several.

    Args:
        model: compiled; built, if it is spread over replicas.
        clock: says how small batches are; `None` if nobody knows yet.
        arguments: for `fit`; what is yielded has in `arguments` what is to be given in their place.
    """
    if not replicas.spread(model):
        yield OneDevice(arguments)
        return
    from kwarmup.distribute.spread import over_replicas  # needs TensorFlow

    few = clock is None or smallest(clock) < replicas.count(model)
    with over_replicas(model, few) as spread:
        spread.take(arguments)
        yield spread


#: The models that train over replicas now.
_SPREAD: dict[int, Any] = {}


@contextlib.contextmanager
def known(spread: Any) -> Iterator[None]:
    """While inside, `current` finds what a model is spread by."""
    _SPREAD[id(spread.model)] = spread
    try:
        yield
    finally:
        del _SPREAD[id(spread.model)]


def current(model: keras.Model) -> Any:
    """Return the `Spread` of a model whose `fit` runs over replicas at the moment, else `None`."""
    return _SPREAD.get(id(model))


def smallest(clock: Clock) -> int:
    """Return the examples of the smallest batch that Keras is given in the run.

    >>> smallest(Clock(examples=100, epochs=3, batch_size=33)), smallest(Clock(examples=100, epochs=3, batch_size=25))
    (1, 25)
    """
    found = []
    for _, segment in clock.segments_between(0, None):
        last = segment.pass_examples - (segment.pass_ticks - 1) * segment.micro_batch
        found.append(min(segment.micro_batch, last))
    return min(found)
