"""Training by a plan at a pace of its own: other batches than the plan's, to an end that is found on the way."""

from __future__ import annotations

from collections.abc import Iterable
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


class Pace:
    """The pace of one training: that of a callback among those given or, mostly, that of the plan.

    Who sets it is found once: what is asked behind each update may not look through the callbacks again.

    Args:
        plan: the training's.
        callbacks: of `fit`.

    Raises:
        ValueError: if several of them set the pace, or something else moves the batch size too.
    """

    def __init__(self, plan: Plan, callbacks: Iterable[keras.callbacks.Callback]):
        callbacks = list(callbacks)
        pacing = [callback for callback in callbacks if isinstance(callback, Paces)]
        self._callback = pacing[0] if pacing else None
        #: The plan that was asked about last, and the one that it is trained by.
        self._known: tuple[Plan, Plan] | None = None
        others = [callback for callback in callbacks if isinstance(callback, Replans)]
        if pacing and (len(pacing) > 1 or others or plan.follows is not None):
            beside = f"batch_size={plan.follows!r}" if plan.follows is not None else ""
            beside = beside or type([*pacing[1:], *others][0]).__name__
            raise value_error(
                "callbacks",
                Code(f"{pacing[0]!r}, beside {beside}"),
                "one of them, since both set the batch size",
                f"plan.replace(batch_size=64).fit(model, x, y, callbacks=[{pacing[0]!r}])",
            )

    @property
    def facts(self) -> dict[str, str]:
        """What must be the same for a training to go on at its pace; nothing where none is set."""
        return {} if self._callback is None else {"pace": repr(self._callback)}

    def paced(self, plan: Plan) -> Plan:
        """Return the plan that is trained on; without a callback that sets the pace, the same."""
        if self._callback is None:
            return plan
        # Asked for at each batch, and it depends on nothing but the plan.
        if self._known is None or self._known[0] is not plan:
            self._known = plan, self._callback.paced(plan)
        return self._known[1]

    def put_in_place(self) -> None:
        """Let the callback change the optimizer of a model whose training is over, as it has where that began."""
        if self._callback is not None:
            self._callback.put_in_place()

    def is_over(self) -> bool:
        """Return whether the callback has found the end of the training."""
        return self._callback is not None and self._callback.is_over()
