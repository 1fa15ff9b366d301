"""Keep a training on disk while it runs, and go on where a killed one stood."""

from __future__ import annotations

import bisect
import contextlib
import json
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import keras
import numpy as np
from keras import ops

from kwarmup import applied, checkpoint, identity, replan, scaled, state
from kwarmup.clock import Clock
from kwarmup.distribute import agreement, counted, replicas
from kwarmup.errors import Code, message, value_error
from kwarmup.finite import LossNotFinite
from kwarmup.following import batch_size_from_dict
from kwarmup.plan import Plan, PlanWarning

_SHOWN = 12
#: So often in a row a training may go back without getting past the place where it went wrong.
_TRIES = 5


class Preempted(SystemExit):
    """Training was asked to end by SIGTERM and has been saved; the process ends with code 143."""


class OtherTraining(ValueError):
    """A checkpoint of another training than the one that is to go on.

    Args:
        text: the whole message.
        differences: in what the two differ, a line each.
    """

    def __init__(self, text: str, differences: list[str]):
        super().__init__(text)
        self.differences = differences


class Keeper:
    """Saves a training every `every` updates and behind every pass, and restores it.

    A stop behind a pass is the end of a training; a stop within one is a break, after which it goes on, unless a
    callback that sets the pace has found the end there.

    Args:
        folder: where checkpoints are kept.
        every: updates between two checkpoints within a pass.
        plan: what the training follows.
        model: compiled.
        facts: what else must be the same when training goes on, as plain data.
        on_change: `"raise"`, `"override"` (go on with what is given now) or `"checkpoint"` (by the plan in the
            checkpoint).
        roll_back: what the learning rate is multiplied with where `go_back` is called; `None` if it never is.
        paced: makes of a plan the one whose batches are trained on.

    Raises:
        ValueError: if the folder cannot be written, or the checkpoint in it is of another training.
    """

    def __init__(
        self,
        folder: Any,
        every: int,
        plan: Plan,
        model: keras.Model,
        facts: dict[str, Any],
        on_change: str,
        roll_back: float | None = None,
        paced: Callable[[Plan], Plan] = lambda plan: plan,
    ):
        if on_change not in ("raise", "override", "checkpoint"):
            raise value_error(
                "on_change", on_change, '"raise", "override" or "checkpoint"', 'on_change="override"'
            )
        if not isinstance(every, int) or every < 1:
            raise value_error("save_every", every, "a number of updates, 1 or more", "save_every=1000")
        self.every, self.plan, self.model, self.roll_back = every, plan, model, roll_back
        self._paced = paced
        self.declared = plan  # as its author made it, before anything that was decided in training
        self.epoch = self.begun = 0
        self.finished = False
        # As they come back from a file: here a plan that cannot be written is refused, not behind hours.
        self._plan = json.loads(plan.to_json())
        self._facts = json.loads(json.dumps({**facts, "model": identity.of_model(model)}))
        # Of several workers the chief writes; what all of them take part in is the taking.
        self._writes = replicas.is_chief(getattr(model, "distribute_strategy", None))
        self._folder = checkpoint.prepare(folder, clear=self._writes)
        self._asked_to_end = False
        #: Tells whether some worker was asked to end, the same in all of them; `None` where there is only one.
        self.agreed: Callable[[], bool] | None = None
        self._first = self._steps = self._done = 0
        self._lowered = 1.0  # by what the learning rate was multiplied where training went back
        self._tries, self._failed_at, self._back_at = 0, -1, -1
        self._last: int | None = None
        self._found = checkpoint.newest(self._folder)
        agreement.same_place(model, self._folder, self._found)
        if self._found is not None:
            self._accept(self._found.facts, on_change)
            self._lowered, self._last = self._found.facts["lowered"], self._found.facts["place"][0]

    def _accept(self, facts: dict[str, Any], on_change: str) -> None:
        changed = list(identity.differences(facts["facts"], self._facts))
        planned = list(identity.differences(_readable(facts["plan"]), _readable(self._plan)))
        planned = self._on_other_devices(facts, planned)
        if on_change == "checkpoint":
            refused = changed
        else:
            refused = [] if on_change == "override" else planned + changed
        if refused:
            more = [f"and {len(refused) - _SHOWN} more"] if len(refused) > _SHOWN else []
            lines = [*refused[:_SHOWN], *more]
            text = message(
                "checkpoint_dir",
                Code("\n  ".join([f"{self._folder}, begun with", *lines])),
                "a folder that is empty, or holds checkpoints of this same training",
                "the same plan, model, data and callbacks as before; another checkpoint_dir; "
                'on_change="override", to go on with what is given now'
                + (' or "checkpoint", to go on by the plan as it was' if planned and not changed else ""),
            )
            raise OtherTraining(text, lines)
        self.epoch, self.begun, self.finished = facts["epoch"], facts["begun"], facts["finished"]
        if planned and on_change == "checkpoint":
            self._plan = facts["plan"]
            self._go_on_by(facts["plan"])
            self.declared = self.plan
        elif planned:
            self._check_place(facts)
            # A longer plan goes on behind the end of a shorter one.
            self.finished = self.epoch == self.clock.epochs
            return
        self._go_on_by(facts["in_force"])

    def _on_other_devices(self, facts: dict[str, Any], planned: list[str]) -> list[str]:
        """Say so where another number of devices goes on, which changes no update; return the other differences."""
        then, now = facts["plan"].get("replicas", 1), self._plan.get("replicas", 1)
        if then == now:
            return planned
        warnings.warn(
            f"Training goes on over {now} replicas, and was begun over {then}: the updates are the same but for "
            "rounding, and for layers that look at a batch as a whole.",
            checkpoint.CheckpointWarning,
            stacklevel=2,
        )
        for plan in (facts["plan"], facts["in_force"]):
            plan["replicas"] = now
        return list(identity.differences(_readable(facts["plan"]), _readable(self._plan)))

    def _go_on_by(self, data: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlanWarning)  # said where the plan was made
            plan = Plan.from_dict(data)
        if plan != self.plan:
            replan.put_in_place(self.model, self.plan, plan)
            self.plan = plan

    def _check_place(self, facts: dict[str, Any]) -> None:
        """Does the plan that is given now stand where the one in the checkpoint stood?"""
        clock = self.clock
        if self.epoch <= clock.epochs:
            tick = clock.first_micro_batch(self.epoch) + self.begun
            if facts["place"] == self._place(tick):
                return
        micro_batches, examples = facts["place"]
        raise value_error(
            "on_change",
            Code(
                f'"override", with another way to the {examples:,} examples and {micro_batches:,} batches so far'
            ),
            "a plan whose batch sizes are the same up to here, and that does not end before",
            'on_change="checkpoint", or another checkpoint_dir',
        )

    @property
    def clock(self) -> Clock:
        """Of the batches that are trained on."""
        return self._paced(self.plan).clock

    def _place(self, tick: int) -> list[int]:
        return [tick, self.clock.examples_at(tick // self.clock.gradient_accumulation_steps)]

    def begin(self, training: keras.callbacks.CallbackList) -> None:
        """Take a training into care behind its callbacks' `on_train_begin`, and restore what there is of it."""
        self._training = training
        if self.roll_back is not None:
            scaled.install(self.model)
        self._callbacks = state.CallbackStates(training.callbacks)
        self.restore()
        if self.roll_back is not None and self._found is None:
            self._save()  # to have something to go back to

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        return None if self._last is None else checkpoint.path_of(self._folder, self._last)

    def go_back(self, error: LossNotFinite) -> Plan:
        """Go back to the newest checkpoint with a lower learning rate; return the plan in force there.

        If training has come to nothing from there before, to the one before that: it may have been written when
        the weights were still finite but no longer good.

        Raises:
            LossNotFinite: the same, if it has gone back too often.
        """
        error.gone_back = self._tries
        if self.roll_back is None or self._tries == _TRIES:
            raise error
        if self._last == self._back_at:
            checkpoint.forget(self._folder, self._back_at)
        self._found = checkpoint.newest(self._folder)
        if self._found is None:
            raise error
        facts = self._found.facts
        self._tries, self._failed_at = self._tries + 1, max(self._failed_at, error.update)
        self._last = self._back_at = facts["place"][0]
        self._lowered *= self.roll_back
        self.epoch, self.begun = facts["epoch"], facts["begun"]
        self._go_on_by(facts["in_force"])
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # else Keras puts what it still holds in place of what is restored
        self.restore()
        warnings.warn(
            f"The loss is {error.loss} at update {error.update:,}, with a learning rate of "
            f"{error.learning_rate:.4g}. Training goes on from {self.last}, with {self._lowered:g} times the "
            "planned learning rate.",
            checkpoint.CheckpointWarning,
            stacklevel=2,
        )
        return self.plan

    def restore(self) -> None:
        """Give variables and callbacks the values they had in the checkpoint; again, where they were reset."""
        if self._found is None:
            return
        facts = self._found.facts
        if facts["factor"] is not None:
            scaled.install(self.model)  # in place of a variable that the optimizer would have
        state.put(state.variables(self.model), self._found.arrays)
        counted.put(self.model, self._found.arrays)
        self._callbacks.put(facts["callbacks"], self._found.arrays)
        self.restore_generators()
        if facts["factor"] is not None:
            factor = facts["factor"] * self._lowered / facts["lowered"]
            if factor != scaled.factor_of(self.model):
                scaled.change(self.model, factor, applied.updates(self.model.optimizer))

    def restore_generators(self) -> None:
        """Bring random generators to where they stood, again where something has drawn from them since."""
        if self._found is not None:
            state.put_generators(self._found.arrays)

    @property
    def asked_to_end(self) -> bool:
        """Whether this process was asked to end by SIGTERM."""
        return self._asked_to_end

    @property
    def ending(self) -> bool:
        """Whether to end behind the update at hand: with several workers, where all of them know of it."""
        return self._asked_to_end if self.agreed is None else self.agreed()

    def pass_begins(self, first: int, steps: int, begun: int) -> None:
        """Note where training stands: before micro-batch `begun` of `steps` that follow the `first` of the run."""
        self._first, self._steps, self._done = first, steps, begun

    def batch_ended(self, done: int, is_over: bool = False) -> None:
        """Save if it is time, `done` micro-batches into the pass, which may be the last ones of the training.

        Raises:
            Preempted: behind a SIGTERM.
        """
        before, self._done = self._done, done
        if done == self._steps or is_over:
            return  # saved behind the validation
        parts = self.clock.gradient_accumulation_steps * self.every
        due = (self._first + before) // parts != (self._first + done) // parts
        if due or self.ending or self.model.stop_training:
            self._save()
        if self.ending:
            raise Preempted(143)

    def pass_ended(self, last: bool) -> None:
        """Save behind a pass, unless it was left early or is the last one: `training_ended` follows there.

        Raises:
            Preempted: behind a SIGTERM.
        """
        if self._done == self._steps and not last:
            self._save()
            if self.ending:
                raise Preempted(143)

    def training_ended(self, is_over: bool = False) -> None:
        """Save behind the callbacks' `on_train_end`, which may put other weights in place."""
        if self._done == self._steps or is_over:
            self._save(finished=True)

    def _save(self, finished: bool = False) -> None:
        self._training.finite.check()
        clock, tick = self.clock, self._first + self._done
        epoch = bisect.bisect_right(range(1, clock.epochs + 1), tick, key=clock.first_micro_batch)
        # Asked of a callback, since on JAX a model has its variables in place only while one looks.
        model = self._training.model
        states, arrays = self._callbacks.take()
        place = self._place(tick)
        facts = {
            "epoch": epoch,
            "begun": tick - clock.first_micro_batch(epoch),
            "finished": finished,
            "place": place,
            "plan": self._plan,
            "in_force": json.loads(self.plan.to_json()),
            "factor": scaled.factor_of(model),
            "lowered": self._lowered,
            "facts": self._facts,
            "callbacks": states,
        }
        arrays |= state.take(state.variables(model)) | state.take_generators() | counted.take(model)
        if not all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in model.trainable_variables):
            warnings.warn(
                f"No checkpoint was written at step {tick}: there are weights that are not finite.",
                checkpoint.CheckpointWarning,
                stacklevel=2,
            )
            return
        point = checkpoint.Checkpoint(facts, arrays)
        if not self._writes:
            self._last = tick
        elif checkpoint.write(self._folder, tick, point):
            self._last = tick
            if tick // clock.gradient_accumulation_steps > self._failed_at:
                self._tries = 0
        elif self._asked_to_end:
            _save_elsewhere(tick, point)

    @contextlib.contextmanager
    def watching_for_the_end(self, within: CodeType | None = None) -> Iterator[None]:
        """While inside, SIGTERM saves behind the batch at hand and then ends the process.

        Args:
            within: code without which nothing trains; if it is not running, the signal means what it did before.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # Python lets only the main thread handle signals.
            return

        def ask(number: int, frame: FrameType | None) -> None:
            while within is not None and frame is not None and frame.f_code is not within:
                frame = frame.f_back
            if frame is not None:
                self._asked_to_end = True
                return
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
            signal.raise_signal(number)

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if self._asked_to_end:  # in the last pass, which has come to its end
            signal.raise_signal(signal.SIGTERM)


def _save_elsewhere(tick: int, point: checkpoint.Checkpoint) -> None:
    # The process is about to end, and what it has in memory would end with it.
    with contextlib.suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix="kwarmup-"))
        if checkpoint.write(folder, tick, point):
            warnings.warn(
                f"The training was saved to {folder} instead, and goes on from there with "
                f'checkpoint_dir="{folder}".',
                checkpoint.CheckpointWarning,
                stacklevel=2,
            )


def _readable(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a plan with profiles and rules as their authors write them."""
    return {n: repr(batch_size_from_dict(v)) if isinstance(v, dict) else v for n, v in plan.items()}
