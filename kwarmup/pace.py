"""Training by a plan at a pace of its own: other batches than the plan's, to an end that is found on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import keras

from kwarmup.errors import Code, value_error
from kwarmup.plan import Plan
from kwarmup.replan import Replans


@runtime_checkable
class Paces(Protocol):
    """A callback that sets the pace of a training; `Plan.fit` asks it for its batches."""

    def paced(self, plan: Plan) -> Plan:
        """Return the plan of what is trained on: batches, and passes at most. Its learning rate is not used."""
        ...

    def put_in_place(self) -> None:
        """Put into the optimizer what sets the pace, as where a training begins."""
        ...

    def is_over(self) -> bool:
        """Return whether the training has come to its end, within a pass maybe."""
        ...


def of(plan: Plan, callbacks: Iterable[keras.callbacks.Callback]) -> Callable[[Plan], Plan]:
    """Return what makes of a plan the one that is trained on; without a callback that sets the pace, the same.

    Raises:
        ValueError: if there are several of them, or something else moves the batch size too.
    """
    callbacks = list(callbacks)
    pacing = [callback for callback in callbacks if isinstance(callback, Paces)]
    if not pacing:
        return lambda plan: plan
    others = [callback for callback in callbacks if isinstance(callback, Replans)]
    if len(pacing) > 1 or others or plan.follows is not None:
        beside = f"batch_size={plan.follows!r}" if plan.follows is not None else ""
        beside = beside or type([*pacing[1:], *others][0]).__name__
        raise value_error(
            "callbacks",
            Code(f"{pacing[0]!r}, beside {beside}"),
            "one of them, since both set the batch size",
            f"plan.replace(batch_size=64).fit(model, x, y, callbacks=[{pacing[0]!r}])",
        )
    # Asked for at each batch, and it depends on nothing but the plan.
    return functools.lru_cache(maxsize=1)(pacing[0].paced)


def put_in_place(callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Let callbacks change the optimizer of a model whose training is over, as they have where it began."""
    for callback in callbacks:
        if isinstance(callback, Paces):
            callback.put_in_place()


def is_over(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Return whether one of the callbacks has found the end of the training."""
    return any(isinstance(callback, Paces) and callback.is_over() for callback in callbacks)


def facts(callbacks: Iterable[keras.callbacks.Callback]) -> dict[str, str]:
    """Return what must be the same for a training to go on at its pace; nothing where none is set."""
    pacing = [callback for callback in callbacks if isinstance(callback, Paces)]
    return {"pace": repr(pacing[0])} if pacing else {}
