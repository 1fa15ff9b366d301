"""Train a model as a plan says: one Keras `fit` a pass, joined into one training."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import types
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from kwarmup import guard, identity, micro_batches, replan
from kwarmup.batches import Batches
from kwarmup.distribute import replicas
from kwarmup.distribute.over import over
from kwarmup.errors import Code, type_error, value_error
from kwarmup.finite import FiniteLoss, LossNotFinite
from kwarmup.length import number
from kwarmup.noise_growth import following, go_on
from kwarmup.pace import Pace
from kwarmup.plan import Plan
from kwarmup.private import build
from kwarmup.resume import Keeper

_OWNED = ("batch_size", "epochs", "initial_epoch", "steps_per_epoch", "shuffle", "validation_split")


def fit(
    plan: Plan,
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    seed: int | None,
    checkpoint_dir: Any,
    save_every: int,
    on_change: str,
    roll_back: float | None,
    max_device_batch: int | None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Any = "auto",
    **arguments: Any,
) -> keras.callbacks.History:
    """Train `model` by `plan`; see `Plan.fit`."""
    for name in _OWNED:
        if name in arguments:
            raise type_error(
                name, arguments[name], "no such argument, since the plan decides it", "plan.fit(model, x, y)"
            )
    _check_names(arguments, model)
    callbacks = listed(callbacks)
    micro_batches.check(max_device_batch)
    _check_roll_back(roll_back, checkpoint_dir, x)
    guard.check_model(plan, model)
    callbacks = following(plan, callbacks)
    pace = Pace(plan, callbacks)
    keeper = None
    if checkpoint_dir is not None:
        data = x, y, sample_weight
        facts = identity.of_training("plan.fit", data, seed, callbacks, arguments.get("class_weight"))
        facts |= pace.facts
        keeper = Keeper(checkpoint_dir, save_every, plan, model, facts, on_change, roll_back, pace.paced)
        plan = keeper.plan
        go_on(keeper.declared, callbacks)
        guard.check_model(plan, model)
    replanning = [callback for callback in callbacks if isinstance(callback, replan.Replans)]
    for callback in replanning:
        plan = callback.replan(plan, keeper.epoch if keeper else 0)
    plan = pace.paced(plan)
    batches = Batches(plan.clock, x, y, sample_weight, seed)
    if replicas.spread(model) or keeper and (keeper.finished or keras.backend.backend() == "tensorflow"):
        # Elsewhere `fit` does so before it can be restored.
        build(model, keras.tree.map_structure(_with_a_type, batches.peek()))
    verbose = (
        int(replicas.is_chief(getattr(model, "distribute_strategy", None))) if verbose == "auto" else verbose
    )
    shown = {"verbose": verbose, "epochs": plan.clock.epochs, "steps": None}
    training = OneTraining(callbacks, add_history=True, add_progbar=verbose != 0, model=model, **shown)
    training.plan, training.keeper, training.pace = plan, keeper, pace
    training.finite = FiniteLoss(model.optimizer, lambda: keeper.last if keeper else None)
    if keeper and keeper.finished:
        pace.put_in_place()
        keeper.begin(training)
        return model.history
    batches.pass_over(training.first_epoch)
    with (
        micro_batches.within_the_step(model, None if replanning else plan.clock, max_device_batch),
        _averaged_once(training, model.optimizer),
        over(model, None if replanning else plan.clock, arguments) as spread,
        keeper.watching_for_the_end() if keeper else contextlib.nullcontext(),
    ):
        if roll_back is not None and spread.several_workers:
            raise value_error(
                "roll_back", roll_back, "None with several workers, which cannot go back together yet",
                'plan.fit(model, x, y, checkpoint_dir="runs/a")',
            )  # fmt: skip
        if keeper:
            spread.end_together(keeper)
        epoch = training.first_epoch
        while epoch < plan.clock.epochs and not model.stop_training:
            steps = training.begin_pass(epoch)
            batches.clock = training.plan.clock
            try:
                model.fit(
                    spread.batches(batches.between, epoch, epoch + 1, training.begun),
                    epochs=epoch + 1,
                    initial_epoch=epoch,
                    steps_per_epoch=steps - training.begun,
                    callbacks=training,
                    verbose=verbose,
                    shuffle=False,
                    **spread.arguments,
                )
                epoch += 1
            except LossNotFinite as error:
                epoch = training.go_back(error)
    return model.history


def _check_names(arguments: dict[str, Any], model: keras.Model) -> None:
    """Raise where an argument is none of Keras's `fit` either, before anything is made."""
    theirs = inspect.signature(model.fit).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in theirs.values()):
        return
    for name in arguments:
        if name not in theirs:
            known = [*inspect.signature(fit).parameters, *theirs]
            near = difflib.get_close_matches(name, known, 1)
            raise type_error(
                name, arguments[name], "no such argument: neither plan.fit nor Keras's fit has it",
                f"plan.fit(model, x, y, {near[0]}=...)" if near else "plan.fit(model, x, y)",
            )  # fmt: skip


def _with_a_type(leaf: Any) -> Any:
    """Return an array of Python's strings as the tensor that `fit` makes of it: objects are of no type for Keras."""
    if keras.backend.backend() != "tensorflow" or str(getattr(leaf, "dtype", "")) != "object":
        return leaf
    import tensorflow as tf

    return tf.convert_to_tensor(leaf)


def listed(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Return callbacks as a list: one of them, or several in any nesting, as Keras takes them."""
    found = [] if callbacks is None else keras.tree.flatten(callbacks)
    for callback in found:
        if not isinstance(callback, keras.callbacks.Callback):
            name = callback.__name__ if isinstance(callback, type) else "kw.Record"
            write = f"plan.fit(model, x, y, callbacks=[{name}()])"
            raise type_error("callbacks", callback, "callbacks, which are objects", write)
    return found


def _check_roll_back(roll_back: Any, checkpoint_dir: Any, x: Any) -> None:
    if roll_back is None:
        return
    write = 'plan.fit(model, x, y, checkpoint_dir="runs/a", roll_back=0.5)'
    factor = number("roll_back", roll_back, write)
    if not 0 < factor < 1:
        raise value_error("roll_back", roll_back, "a factor above 0 and below 1, or None", write)
    if checkpoint_dir is None:
        raise value_error("checkpoint_dir", None, "a folder for checkpoints to go back to", write)
    if isinstance(x, types.GeneratorType):
        raise value_error(
            "x",
            Code("a generator"),
            "data that can be read again, to go back in it",
            "plan.fit(model, make_generator)",
        )


class OneTraining(keras.callbacks.CallbackList):
    """Lets callbacks see one training: Keras takes a `CallbackList` as it is, once for each pass.

    Training has begun with the first pass and ended with the last, or where it is stopped. With a
    `keeper` it is saved behind all callbacks, and restored behind their own resets.
    """

    plan: Plan
    finite: FiniteLoss
    pace: Pace
    keeper: Keeper | None = None
    begun = 0  # micro-batches of the pass at hand that an earlier process has done
    _epoch = -1
    _first = 0  # micro-batches of all passes before it
    _started = False

    @property
    def first_epoch(self) -> int:
        return self.keeper.epoch if self.keeper else 0

    @property
    def over(self) -> bool:
        """Whether the pass at hand is the last."""
        return self._epoch + 1 == self.plan.clock.epochs or self.model.stop_training

    def begin_pass(self, epoch: int) -> int:
        """Tell callbacks how long the pass is; return its micro-batches."""
        clock = self.plan.clock
        first = clock.first_micro_batch(epoch)
        steps = clock.first_micro_batch(epoch + 1) - first
        self._first = first
        self.begun = self.keeper.begun if self.keeper and epoch == self.first_epoch else 0
        self.set_params({**self.params, "epochs": clock.epochs, "steps": steps})
        if self.keeper:
            self.keeper.pass_begins(first, steps, self.begun)
        return steps

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._started:
            self._started = True
            super().on_train_begin(logs)
            if self.keeper:
                self.keeper.begin(self)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        super().on_epoch_begin(epoch, logs)
        if self.keeper and self.begun:
            self.keeper.restore()  # Keras has reset the metrics, and callbacks what they count in a pass

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.keeper and self.begun and batch == 0:
            self.keeper.restore_generators()  # torch has drawn from its own where the pass was begun again
        super().on_train_batch_begin(self.begun + batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # An execution of several steps at the end of a pass may be cut short.
        last = min(self.begun + batch, self.params["steps"] - 1)
        super().on_train_batch_end(last, logs)
        done = self._first + last + 1
        self.finite.updated(logs, done // self.plan.clock.gradient_accumulation_steps, self._epoch)
        if self.keeper:
            self.keeper.batch_ended(last + 1, self.pace.is_over())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.finite.check()
        super().on_epoch_end(epoch, logs)
        if not self.model.stop_training:
            guard.check_updates(self.plan, self.model.optimizer, epoch)
        if not self.over:
            self._replan(epoch + 1)
        if self.keeper:
            self.keeper.pass_ended(last=self.over)

    def go_back(self, error: LossNotFinite) -> int:
        """Go back to where the loss was good; return the pass to go on in.

        Raises:
            LossNotFinite: the same, if there is no way back.
        """
        if self.keeper is None:
            raise error
        self.plan = self.pace.paced(self.keeper.go_back(error))
        return self.keeper.epoch

    def _replan(self, epoch: int) -> None:
        for callback in self.callbacks:
            if isinstance(callback, replan.Replans):
                plan = callback.replan(self.plan, epoch)
                if plan != self.plan:
                    replan.follow(self.model, self.plan, plan, epoch)
                    self.plan = plan
                    if self.keeper:
                        self.keeper.plan = plan

    def on_train_end(self, logs: Any = None) -> None:
        if self.over:
            super().on_train_end(logs)
            if self.keeper:
                self.keeper.training_ended(self.pace.is_over())


@contextlib.contextmanager
def _averaged_once(training: OneTraining, optimizer: Any) -> Iterator[None]:
    """While inside, averaged weights (`use_ema`) are put in place behind the last pass, not behind each `fit`."""
    put_in_place = optimizer.finalize_variable_values

    def finalize(variables: Any) -> None:
        if training.over:
            put_in_place(variables)

    optimizer.finalize_variable_values = finalize
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
