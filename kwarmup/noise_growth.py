"""Grow the batch between passes where the measured noise scale has passed it; `Plan.fit` puts this in by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import keras

from kwarmup.errors import Code, value_error
from kwarmup.following import Decision
from kwarmup.growth import unit_of
from kwarmup.noise_scale_monitor import NoiseScaleMonitor
from kwarmup.plan import Plan
from kwarmup.replan import Replans, with_batch_size

#: Measurements in a pass of the fewest updates, if there are so many, and updates between two at most.
_A_PASS, _EVERY = 10, 10


@final
class NoiseGrowth(keras.callbacks.Callback):
    """Lets the batch follow the noise scale; the history of the training has it as `growth`.

    Args:
        plan: has the rule.
        monitor: what measures, a callback of the same training; `None` for one of its own.
    """

    def __init__(self, plan: Plan, monitor: NoiseScaleMonitor | None = None):
        super().__init__()
        self.own = monitor is None
        self.monitor = monitor or NoiseScaleMonitor(examples=max(2, plan.clock.examples))
        self.plan: Plan | None = None
        #: What was decided, as plain data, which checkpoints keep.
        self.record: list[list[Any]] = []
        self.obey(plan)

    def obey(self, plan: Plan) -> None:
        """Follow the rule of a plan."""
        assert plan.follows is not None
        self.follows = plan.follows
        if self.own:
            updates = plan.clock.examples // plan.follows.sizes(unit_of(plan.clock))[-1]
            self.monitor.every = min(_EVERY, max(1, updates // _A_PASS))

    @property
    def decisions(self) -> list[Decision]:
        """What was decided behind each pass but the last, and why."""
        return [
            Decision(epoch, scale, tuple(interval), *sizes) for epoch, scale, interval, *sizes in self.record
        ]

    def set_model(self, model: keras.Model) -> None:
        """Take the model, and be found by those who are given its history."""
        super().set_model(model)
        model.history.growth = self

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["noise_scale_low"] = float(self.monitor.estimate.interval[0])
            logs["batch_size"] = self._size(epoch)

    def replan(self, plan: Plan, epoch: int) -> Plan:
        """Return the plan with the batch size that the noise scale leads to; `Plan.fit` calls this before each pass."""
        begins, self.plan = self.plan is None, plan
        now = self._size(epoch)
        if begins:
            # Nothing is measured yet in this process. What cannot grow is refused now, and not behind hours.
            with_batch_size(plan, now, epoch)
            return plan
        estimate, unit = self.monitor.estimate, unit_of(plan.clock)
        low, high = map(float, estimate.interval)
        after = self.follows.after(now, low, unit)
        self.record.append(
            [epoch - 1, float(estimate.value), [low, high], now, after, self.follows.needed(now, unit)]
        )
        if after != now:
            self.plan = with_batch_size(plan, after, epoch)
        return self.plan

    def _size(self, epoch: int) -> int:
        assert self.plan is not None
        clock = self.plan.clock
        return clock.batch_size_at(clock.step_at(epochs=epoch))


def following(
    plan: Plan, callbacks: Iterable[keras.callbacks.Callback] | None
) -> list[keras.callbacks.Callback]:
    """Return the callbacks of a training by `plan`, with those in front that let its batch follow the noise.

    Raises:
        ValueError: if another one changes the plan too.
    """
    callbacks = list(callbacks or ())
    if plan.follows is None:
        return callbacks
    others = [callback for callback in callbacks if isinstance(callback, Replans)]
    if others:
        raise value_error(
            "callbacks",
            Code(f"{type(others[0]).__name__}, beside batch_size={plan.follows!r}"),
            "one of them, since both change the batch size",
            "plan.replace(batch_size=64) with that callback, or the plan without it",
        )
    monitor = next((callback for callback in callbacks if isinstance(callback, NoiseScaleMonitor)), None)
    growth = NoiseGrowth(plan, monitor)
    return [*([growth.monitor] if growth.own else []), growth, *callbacks]


def go_on(declared: Plan, callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Let a training that was begun before follow the rule of the plan that it goes on by."""
    for callback in callbacks:
        if isinstance(callback, NoiseGrowth):
            callback.obey(declared)
