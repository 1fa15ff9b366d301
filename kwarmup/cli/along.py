"""The noise scale along a training: measured at some updates, and the training goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from kwarmup import applied
from kwarmup.cli.data import Data
from kwarmup.finite import LossNotFinite
from kwarmup.measure.noise_scale import NoiseScale, noise_scale
from kwarmup.plan import Plan
from kwarmup.trial import progress

#: Parts of the training behind which is measured: the noise scale grows fast at first.
PARTS = (0, 1 / 8, 1 / 4, 1 / 2, 1)


@dataclass(frozen=True)
class Point:
    """A noise scale, and how much of the training came before it."""

    updates: int
    examples: int
    noise: NoiseScale


class _Measure(keras.callbacks.Callback):
    def __init__(self, plan: Plan, data: Data, points: list[Point], advance: Any, arguments: dict[str, Any]):
        super().__init__()
        steps = plan.clock.steps
        self.plan, self.data, self.points, self.advance, self.arguments = (
            plan,
            data,
            points,
            advance,
            arguments,
        )
        self.at = {round(part * steps) for part in PARTS}

    def on_train_begin(self, logs: Any = None) -> None:
        self._measure(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._measure(applied.updates(self.model.optimizer))

    def _measure(self, updates: int) -> None:
        # With micro-batches an update ends only once.
        if updates in self.at:
            self.at.remove(updates)
            found = noise_scale(self.model, self.data.x, self.data.y, **self.arguments)
            self.points.append(Point(updates, int(self.plan.clock.examples_at(updates)), found))
        self.advance(updates)


def along(
    model: keras.Model, plan: Plan, data: Data, seed: int, points: list[Point], **arguments: Any
) -> LossNotFinite | None:
    """Train a compiled model by its plan, and put what is measured on the way into a list.

    Args:
        model: compiled with `plan.learning_rate`.
        plan: how to train.
        data: what on.
        seed: of the order of examples, in training and in measuring.
        points: a list to fill; after an exception it holds what came before.
        **arguments: what else `noise_scale` takes.

    Returns:
        What ended the training early, if its loss did.
    """
    with progress("noise", plan.clock.steps) as advance:
        callbacks: Iterable[Any] = [_Measure(plan, data, points, advance, {**arguments, "seed": seed})]
        try:
            plan.fit(model, data.x, data.y, seed=seed, verbose=0, callbacks=callbacks)
        except LossNotFinite as error:
            return error
    return None
