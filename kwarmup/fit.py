"""Train a model as a plan says: one Keras `fit` a pass, joined into one training."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras

from kwarmup import guard, state
from kwarmup.batches import Batches
from kwarmup.errors import type_error
from kwarmup.plan import Plan
from kwarmup.resume import Keeper

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
    checkpoint_dir: Any = None,
    save_every: int = 1000,
    on_change: str = "raise",
    **arguments: Any,
) -> keras.callbacks.History:
    """Train `model` by `plan`; see `Plan.fit`."""
    for name in _OWNED:
        if name in arguments:
            raise type_error(
                name, arguments[name], "no such argument, since the plan decides it", "plan.fit(model, x, y)"
            )
    guard.check_model(plan, model)
    batches = Batches(plan.clock, x, y, sample_weight, seed)
    verbose = 1 if verbose == "auto" else verbose
    training = OneTraining(
        list(callbacks or ()),
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        model=model,
        epochs=plan.clock.epochs,  # Keras's progress bar asks for both when it is made
        steps=None,
    )
    if checkpoint_dir is not None:
        _build(model, batches.peek())
        facts = {"data": state.data_facts(x, y, sample_weight), "seed": seed}
        training.keeper = Keeper(
            checkpoint_dir, save_every, plan, model, training.callbacks, facts, on_change
        )
        plan = training.keeper.plan
        batches.clock = plan.clock
    training.plan = plan
    with training.keeper.watching_for_the_end() if training.keeper else contextlib.nullcontext():
        if training.keeper and training.keeper.finished:
            training.on_train_begin()
            return model.history
        for epoch in range(training.first_epoch, plan.clock.epochs):
            steps = training.begin_pass(epoch)
            model.fit(
                batches.between(epoch, epoch + 1, training.begun),
                epochs=epoch + 1,
                initial_epoch=epoch,
                steps_per_epoch=steps - training.begun,
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

    Training has begun with the first pass and ended with the last, or where it is stopped. With a
    `keeper` it is saved behind all callbacks, and restored behind their own resets.
    """

    plan: Plan
    keeper: Keeper | None = None
    begun = 0  # micro-batches of the pass at hand that an earlier process has done
    _epoch = -1
    _started = False

    @property
    def first_epoch(self) -> int:
        return self.keeper.epoch if self.keeper else 0

    def begin_pass(self, epoch: int) -> int:
        """Tell callbacks how long the pass is; return its micro-batches."""
        clock = self.plan.clock
        steps = clock.first_micro_batch(epoch + 1) - clock.first_micro_batch(epoch)
        self.begun = self.keeper.begun if self.keeper and epoch == self.first_epoch else 0
        self.set_params({**self.params, "epochs": clock.epochs, "steps": steps})
        return steps

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._started:
            self._started = True
            super().on_train_begin(logs)
            if self.keeper:
                self.keeper.restore_callbacks()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        super().on_epoch_begin(epoch, logs)
        if self.keeper and self.begun:
            self.keeper.restore_metrics()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_begin(self.begun + batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # An execution of several steps at the end of a pass may be cut short.
        last = min(self.begun + batch, self.params["steps"] - 1)
        super().on_train_batch_end(last, logs)
        if self.keeper:
            self.keeper.batch_ended(self._epoch, last + 1 - self.model.steps_per_execution, last + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self.keeper:
            self.keeper.epoch_ended(epoch, self.model.stop_training)

    def on_train_end(self, logs: Any = None) -> None:
        if self._epoch + 1 == self.plan.clock.epochs or self.model.stop_training:
            super().on_train_end(logs)


def _build(model: keras.Model, batch: Any) -> None:
    """Make every variable of a compiled model, so that a checkpoint finds all of them, without training."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    y_pred = model(x, training=False)
    model.optimizer.build(model.trainable_variables)
    model.compute_loss(x, y, y_pred, sample_weight, training=False)
    model.compute_metrics(x, y, y_pred, sample_weight)
    model.reset_metrics()
