"""Checkpoints for those who call Keras's own `fit`: saved while it runs, and gone on from in the next process."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, final

import keras

from kwarmup import guard, identity
from kwarmup.batches import Batches
from kwarmup.clock import Clock
from kwarmup.distribute import replicas
from kwarmup.distribute.over import current
from kwarmup.errors import Code, value_error
from kwarmup.finite import FiniteLoss
from kwarmup.following import refuse
from kwarmup.pace import Pace
from kwarmup.plan import Plan
from kwarmup.private import build
from kwarmup.resume import Keeper, Preempted

_WRITE = "model.fit(training.batches(x, y), **training.fit_arguments)"


@final
class Checkpoints(keras.callbacks.CallbackList):
    """Saves a training by Keras's own `fit`, and goes on with it when the same program is started again.

    What is kept, how often, and what is refused is as in `plan.fit(checkpoint_dir=...)`; the other callbacks
    are given to this one, which hands everything on to them and knows their state. A training that was
    killed ends with the same weights and the same `History`, bit for bit.

    Keras keeps the length of the first epoch for all others. So a pass that was left in its middle is read
    again from its beginning, without training on what was trained on; callbacks hear nothing of that. And where
    passes differ in length, the whole run is one epoch of Keras, as in `plan.fit_arguments`: it goes on
    in its middle all the same, but validation and the history have one entry. `plan.fit` has true epochs. With
    `AdaScale` among the callbacks the batches are as many times those of the plan.

    Args:
        checkpoint_dir: a folder for checkpoints, made where there is none.
        plan: what the training follows.
        model: compiled, and not trained yet.
        callbacks: all others that the training has. Keras's `History` and its progress bar are added.
        save_every: updates between two checkpoints; each epoch ends with one too.
        on_change: what to do where plan, model, data or callbacks are not those of the checkpoint: `"raise"`,
            `"override"` (go on with what is given now) or `"checkpoint"` (by the plan in the checkpoint).
        verbose: 0 for no progress bar.

    Raises:
        ValueError: if the model does not fit the plan, or several callbacks set the batch size; from `batches`, if
            the folder cannot be written or holds checkpoints of another training.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from kwarmup import Checkpoints, Plan
    >>> plan = Plan(learning_rate=0.1, batch_size=10, examples=100, epochs=2)
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    >>> x, y = np.ones((100, 3)), np.ones((100, 1))
    >>> training = Checkpoints(tempfile.mkdtemp(), plan, model, verbose=0)
    >>> history = model.fit(training.batches(x, y), **training.fit_arguments)
    >>> history.epoch
    [0, 1]
    """

    def __init__(
        self,
        checkpoint_dir: Any,
        plan: Plan,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        *,
        save_every: int = 1000,
        on_change: str = "raise",
        verbose: Any = "auto",
    ):
        refuse(plan.follows)
        guard.check_model(plan, model)
        self.plan = plan
        self._pace = Pace(plan, callbacks)
        self._folder, self._every, self._on_change = checkpoint_dir, save_every, on_change
        self._given = list(callbacks)
        self._keeper: Keeper | None = None
        self.finite = FiniteLoss(model.optimizer, lambda: self._keeper.last if self._keeper else None)
        self._watch = contextlib.ExitStack()
        if verbose == "auto":
            verbose = int(replicas.is_chief(getattr(model, "distribute_strategy", None)))
        shown = {"verbose": verbose, "epochs": plan.clock.epochs, "steps": None}
        super().__init__(list(callbacks), add_history=True, add_progbar=verbose != 0, model=model, **shown)

    def batches(self, x: Any, y: Any = None, sample_weight: Any = None, seed: int | None = 0) -> Any:
        """Return what is left of the batches, as `plan.batches` gives them, and look for a checkpoint.

        Args:
            x: as for `plan.fit`.
            y: as for `plan.fit`.
            sample_weight: as for `plan.fit`.
            seed: as for `plan.fit`.

        Returns:
            A `tf.data.Dataset` on TensorFlow, a generator on other backends.

        Raises:
            ValueError: if the folder cannot be written, the checkpoint in it is of another training, or
                executions of several steps do not divide an epoch.
        """
        model = self.model
        facts = (
            identity.of_training("Checkpoints", (x, y, sample_weight), seed, self._given) | self._pace.facts
        )
        keeper = Keeper(
            self._folder, self._every, self.plan, model, facts, self._on_change, paced=self._pace.paced
        )
        self.plan = keeper.plan
        guard.check_model(self.plan, model)
        clock = self._clock
        batches = Batches(clock, x, y, sample_weight, seed)
        if keras.backend.backend() == "tensorflow":
            build(model, batches.peek())  # elsewhere `fit` does so before it can be restored
        firsts = [clock.first_micro_batch(epoch) for epoch in range(clock.epochs + 1)]
        lengths = {end - begin for begin, end in zip(firsts[:-1], firsts[1:], strict=True)}
        self._keeper, self._one_epoch = keeper, len(lengths) > 1
        self._epochs = 1 if self._one_epoch else clock.epochs
        self._steps = firsts[-1] if self._one_epoch else lengths.pop()
        self._check_executions(model.steps_per_execution)
        self._first_epoch = self._epochs if keeper.finished else 0 if self._one_epoch else keeper.epoch
        # Micro-batches of the first epoch that an earlier process has done.
        self._begun = firsts[keeper.epoch] + keeper.begun if self._one_epoch else keeper.begun
        if keeper.finished:
            return batches.between(clock.epochs - 1, clock.epochs)  # Keras wants to see some
        batches.pass_over(keeper.epoch)
        return batches.between(keeper.epoch, clock.epochs, keeper.begun if self._one_epoch else 0)

    @property
    def fit_arguments(self) -> dict[str, Any]:
        """The arguments for `model.fit` beside the batches, which are to be asked for before.

        `callbacks`, `epochs`, `initial_epoch`, `steps_per_epoch` and `shuffle`, which Keras warns of; where passes
        differ in length, the whole run is one epoch.

        Raises:
            ValueError: if `batches` was not called yet.
        """
        self._found()
        steps = self._steps
        if self._one_epoch and self._first_epoch == 0:
            steps -= self._begun
        return {
            "callbacks": self,
            "epochs": self._epochs,
            "initial_epoch": self._first_epoch,
            "steps_per_epoch": steps,
            "shuffle": False,
        }

    def on_train_begin(self, logs: Any = None) -> None:
        keeper = self._found()
        self._silent = 0
        if keeper.finished:
            self._pace.put_in_place()
        else:
            super().on_train_begin(logs)
        keeper.begin(self)
        spread = current(self.model)
        if spread is not None:
            spread.end_together(keeper)
        self._fresh = True
        # An exception may leave `fit` without a word to callbacks, so the watch looks itself whether it runs.
        self._watch.enter_context(keeper.watching_for_the_end(inspect.unwrap(keras.Model.fit).__code__))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        keeper = self._found()
        first = epoch == self._first_epoch
        begun = self._begun if first else 0
        self._epoch, self._offset = epoch, begun if self._one_epoch else 0
        self.set_params({**self.params, "epochs": self._epochs, "steps": self._steps})
        super().on_epoch_begin(epoch, logs)
        keeper.pass_begins(epoch * self._steps, self._steps, begun)
        if begun:
            keeper.restore()  # Keras has reset the metrics, and callbacks what they count in an epoch
        self._silent = begun - self._offset
        if self._silent:
            _read_only(self.model, self._silent)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch < self._silent:
            return
        if self._fresh:
            self._fresh = False
            self._found().restore_generators()  # torch has drawn from its own to begin with reading
        super().on_train_batch_begin(self._offset + batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch < self._silent:
            return
        # The last execution of several steps may be cut short.
        last = min(self._offset + batch, self._steps - 1)
        super().on_train_batch_end(last, logs)
        done = self._epoch * self._steps + last + 1
        self.finite.updated(logs, done // self.plan.clock.gradient_accumulation_steps, self._epoch)
        with self._handing_back():
            self._found().batch_ended(last + 1, self._pace.is_over())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.finite.check()
        super().on_epoch_end(epoch, logs)
        if not self.model.stop_training:
            passes = self._clock.epochs if self._one_epoch else epoch + 1
            guard.check_updates(self._pace.paced(self.plan), self.model.optimizer, passes - 1)
        with self._handing_back():
            self._found().pass_ended(last=epoch + 1 == self._epochs or self.model.stop_training)

    def on_train_end(self, logs: Any = None) -> None:
        keeper = self._found()
        if keeper.finished:
            keeper.restore()  # Keras has put averaged weights in place once more
        else:
            super().on_train_end(logs)
            keeper.training_ended(self._pace.is_over())
        self._keeper = None
        self._watch.close()

    @property
    def _clock(self) -> Clock:
        """Of the batches that are trained on."""
        return self._pace.paced(self.plan).clock

    def _found(self) -> Keeper:
        if self._keeper is None:
            raise value_error(
                "x", Code("no batches"), "those of training.batches(x, y), which finds the checkpoint", _WRITE
            )
        return self._keeper

    def _check_executions(self, together: int) -> None:
        if self._epochs > 1 and self._steps % together:
            raise value_error(
                "steps_per_execution",
                together,
                f"a divisor of the {self._steps} steps of an epoch, since Keras would take the rest from the next",
                "model.compile(..., steps_per_execution=1), or plan.fit(model, x, y, checkpoint_dir=...)",
            )

    @contextlib.contextmanager
    def _handing_back(self) -> Iterator[None]:
        try:
            yield
        except Preempted as ended:
            self._watch.__exit__(type(ended), ended, ended.__traceback__)
            raise


def _read_only(model: keras.Model, batches: int) -> None:
    """Let the training function take that many batches without training on them."""
    train, together = model.train_function, model.steps_per_execution
    left = batches

    def read(*arguments: Any) -> Any:
        nonlocal left
        if keras.backend.backend() != "torch":  # where Keras has read the batch itself
            for _ in range(together):
                next(arguments[-1])
        left -= together
        if left <= 0:
            model.train_function = train
        return ({}, arguments[0]) if keras.backend.backend() == "jax" else {}

    model.train_function = read
