"""Train a model as a plan says: one Keras `fit` a pass, joined into one training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kwarmup import guard
from kwarmup.batches import Batches
from kwarmup.errors import type_error
from kwarmup.plan import Plan

_OWNED = ("batch_size", "epochs", "initial_epoch", "steps_per_epoch", "shuffle", "validation_split")


def fit(
    plan: Plan,
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    seed: int | None = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Any = "auto",
    **arguments: Any,
) -> keras.callbacks.History:
    """Train `model` by `plan`; see `Plan.fit`."""
    for name in _OWNED:
        if name in arguments:
            raise type_error(name, arguments[name], "no such argument, since the plan decides it", "plan.fit(model, x, y)")
    guard.check_model(plan, model)
    batches = Batches(plan.clock, x, y, sample_weight, seed)
    verbose = 1 if verbose == "auto" else verbose
    training = OneTraining(
        list(callbacks), add_history=True, add_progbar=verbose != 0, model=model, verbose=verbose, last=plan.clock.epochs - 1
    )
    for epoch in range(plan.clock.epochs):
        steps = plan.clock.first_micro_batch(epoch + 1) - plan.clock.first_micro_batch(epoch)
        training.set_params({"verbose": verbose, "epochs": plan.clock.epochs, "steps": steps})
        model.fit(
            batches.between(epoch, epoch + 1),
            steps_per_epoch=steps,
            epochs=epoch + 1,
            initial_epoch=epoch,
            callbacks=training,
            verbose=verbose,
            shuffle=False,
            **arguments,
        )
        if model.stop_training:
            break
        guard.check_updates(plan, model.optimizer, epoch)
    return model.history


class OneTraining(keras.callbacks.CallbackList):
    """Lets callbacks see one training: Keras takes a `CallbackList` as it is, once for each pass.

    Args:
        callbacks: as for `CallbackList`.
        last: the last pass; only behind it, or where training is stopped, has training ended.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback], last: int, **arguments: Any):
        self._model_trained = arguments["model"]
        self._last, self._epoch, self._begun = last, -1, False
        super().__init__(callbacks, **arguments)

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._begun:
            self._begun = True
            super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        super().on_epoch_begin(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        if self._epoch == self._last or self._model_trained.stop_training:
            super().on_train_end(logs)
