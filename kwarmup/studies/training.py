"""Train once for a study, and look at the model now and then while a stopwatch of the training alone runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kwarmup.plan import Plan
from kwarmup.private import build
from kwarmup.studies.data import Data
from kwarmup.studies.run import Check, Run

#: Looks at the model in a training: more would cost more than they tell.
_CHECKS = 24


def train(
    model: keras.Model,
    plan: Plan,
    updates: int,
    data: Data,
    seed: int,
    looked: Callable[[Check], object] = lambda check: None,
) -> Run:
    """Train a model that has just been compiled, for so many updates of a plan; return what came of it.

    Args:
        model: compiled with the plan's learning rate.
        plan: of a constant batch size; it may be longer than the training.
        updates: where to stop.
        data: training and validation examples, and the metric to follow.
        seed: of the order of the examples.
        looked: called at each check; its time does not count.

    Ctrl-C goes on to the caller: a training that is not whole is no result.
    """
    begun = time.perf_counter()
    build(model, data.few())
    watch = _Watch(model, plan, updates, data, looked)
    watch.look(0)
    built = time.perf_counter() - begun
    # As one long epoch: short passes would measure what the beginning of a pass costs.
    model.fit(
        plan.batches(data.x, data.y, seed=seed), epochs=1, verbose=0, callbacks=[watch], shuffle=False,
        steps_per_epoch=updates * plan.clock.gradient_accumulation_steps,
    )  # fmt: skip
    training, validation = data.at_the_end(model)
    assert isinstance(plan.clock.batch_size, int)
    first = watch.stretches[0][1] if watch.stretches else 0.0
    return Run(
        plan.clock.batch_size, seed, plan.profile.peak, tuple(watch.checks),
        training, validation, built + first,
    )  # fmt: skip


class _Watch(keras.callbacks.Callback):
    """Looks at the model at updates that lie closer together at the beginning, and keeps the time between."""

    def __init__(
        self, model: keras.Model, plan: Plan, updates: int, data: Data, looked: Callable[[Check], object]
    ):
        super().__init__()
        self.watched, self.plan, self.data, self.looked = model, plan, data, looked
        wanted = np.ceil(np.geomspace(max(1.0, updates / 200), updates, _CHECKS)).astype(int)
        self.places = np.unique(wanted).tolist()
        self.updates = updates
        self.checks: list[Check] = []
        self.stretches: list[tuple[int, float]] = []
        self._done = 0
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Of training: the first update compiles, and counts as much as any other."""
        rest = self.stretches[1:]
        updates, seconds = sum(n for n, _ in rest), sum(s for _, s in rest)
        return seconds + (seconds / updates if updates else 0.0)

    def look(self, updates: int) -> None:
        loss, value = self.data.check(self.watched)
        self.checks.append(Check(updates, self.seconds, loss, value))
        self.looked(self.checks[-1])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._before = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done = (batch + 1) // self.plan.clock.gradient_accumulation_steps
        if done < self.places[0] and (self.stretches or not done):
            return
        # Only here is the device waited for; elsewhere training runs ahead of Python. Asked of the callback, since on
        # JAX a model has its variables in place only then.
        keras.ops.convert_to_numpy(self.model.optimizer.iterations)
        self.stretches.append((done - self._done, time.perf_counter() - self._before))
        self._done = done
        if done >= self.places[0]:
            self.places = [place for place in self.places if place > done] or [self.updates + 1]
            self.look(done)
            if not math.isfinite(self.checks[-1].loss):
                self.watched.stop_training = True
        self._before = time.perf_counter()
