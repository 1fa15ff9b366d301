"""Keep a training on disk while it runs, and go on where a killed one stood."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kwarmup import applied, checkpoint, state
from kwarmup.errors import Code, value_error
from kwarmup.plan import Plan


class Preempted(SystemExit):
    """Training was asked to end by SIGTERM; it has been saved, and the process ends with code 143."""


class Keeper:
    """Saves a training every `every` updates and at the end of every pass, and restores it.

    Args:
        folder: where checkpoints are kept.
        every: updates between two checkpoints within a pass.
        plan: what the training follows.
        model: built and compiled.
        callbacks: whose state is kept too.
        facts: what else must be the same when training goes on, as plain data.
        on_change: `"raise"`, `"override"` (go on by the plan that is given now) or `"checkpoint"` (by the one
            in the checkpoint).

    Raises:
        ValueError: if the folder cannot be written, or the checkpoint in it is of another training.
    """

    def __init__(
        self,
        folder: Any,
        every: int,
        plan: Plan,
        model: keras.Model,
        callbacks: list[keras.callbacks.Callback],
        facts: dict[str, Any],
        on_change: str,
    ):
        if on_change not in ("raise", "override", "checkpoint"):
            raise value_error("on_change", on_change, '"raise", "override" or "checkpoint"', 'on_change="override"')
        self.folder: Path = checkpoint.prepare(folder)
        self.every, self.plan, self.model, self.callbacks = every, plan, model, callbacks
        self.facts = json.loads(json.dumps({**facts, "model": state.model_facts(model)}))
        self.epoch = self.begun = 0
        self.finished = False
        self._asked_to_end = False
        self._found = checkpoint.newest(self.folder)
        if self._found is not None:
            self._accept(self._found, on_change)

    def _accept(self, found: checkpoint.Checkpoint, on_change: str) -> None:
        facts = found.facts
        changed = state.differences(facts["facts"], self.facts)
        planned = state.differences(facts["plan"], json.loads(self.plan.to_json()))
        if on_change == "checkpoint" and planned:
            self.plan = Plan.from_dict(facts["plan"])
            # Nothing has been traced yet, so the schedule that is set here is the one that is compiled.
            self.model.optimizer.learning_rate = self.plan.learning_rate
            planned = []
        if changed or planned and on_change != "override":
            raise value_error(
                "checkpoint_dir",
                Code(f"{self.folder}, with\n  " + "\n  ".join(changed + planned)),
                "the training that was begun there",
                'the same plan, model and data; another checkpoint_dir; or, if only the plan has changed, '
                'on_change="override" (the new plan) or "checkpoint" (the old one)',
            )
        self.epoch, self.begun, self.finished = facts["epoch"], facts["begun"], facts["finished"]
        clock, examples = self.plan.clock, facts["examples"]
        tick = clock.first_micro_batch(self.epoch) + self.begun if self.epoch < clock.epochs else None
        if planned and tick is not None and (
            clock.examples_at(tick // clock.gradient_accumulation_steps) != examples
        ):
            raise value_error(
                "on_change",
                Code(f"a plan that at update {facts['updates']} has seen other examples than the {examples} so far"),
                "a plan that is the same up to here",
                'on_change="checkpoint", or another checkpoint_dir',
            )
        # A longer plan goes on behind the end of a shorter one.
        self.finished = self.finished and (not planned or self.epoch >= clock.epochs)
        state.put(self._groups(metrics=self.begun > 0), found.arrays)

    @property
    def updates(self) -> int:
        """Updates that were over when the checkpoint was made; 0 without one."""
        return 0 if self._found is None else self._found.facts["updates"]

    def restore_callbacks(self) -> None:
        """Give callbacks their state back; called behind their `on_train_begin`, which resets it."""
        if self._found is not None:
            state.put_callbacks(self.callbacks, self._found.facts["callbacks"], self._found.arrays)

    def restore_metrics(self) -> None:
        """Give metrics their state back; called behind Keras's reset at the begin of a pass."""
        if self._found is not None and self.begun:
            state.put({"metrics": list(self.model.metrics_variables)}, self._found.arrays)

    def batch_ended(self, epoch: int, before: int, begun: int) -> None:
        """Save if it is time, `begun` micro-batches into pass `epoch`; `before` were over an execution ago."""
        parts = self.plan.clock.gradient_accumulation_steps * self.every
        first = self.plan.clock.first_micro_batch(epoch)
        whole = first + begun == self.plan.clock.first_micro_batch(epoch + 1)
        if self._asked_to_end and not whole:
            self._save(epoch, begun, False)
            raise Preempted(143)
        # The end of a pass is saved behind its validation, not here.
        if not whole and (first + before) // parts != (first + begun) // parts:
            self._save(epoch, begun, False)

    def epoch_ended(self, epoch: int, stopped: bool) -> None:
        """Save behind a pass."""
        finished = stopped or epoch + 1 == self.plan.clock.epochs
        self._save(epoch + 1, 0, finished)
        if self._asked_to_end and not finished:
            raise Preempted(143)

    def _groups(self, metrics: bool) -> dict[str, list[Any]]:
        groups = state.variables(self.model)
        if not metrics:
            del groups["metrics"]
        return groups

    def _save(self, epoch: int, begun: int, finished: bool) -> None:
        states, arrays = state.take_callbacks(self.callbacks)
        clock, updates = self.plan.clock, applied.updates(self.model.optimizer)
        tick = clock.first_micro_batch(epoch) + begun
        facts = {
            "epoch": epoch,
            "begun": begun,
            "finished": finished,
            "updates": updates,
            "examples": clock.examples_at(tick // clock.gradient_accumulation_steps),
            "plan": self.plan.to_dict(),
            "facts": self.facts,
            "callbacks": states,
        }
        arrays |= state.take(self._groups(metrics=True))
        checkpoint.write(self.folder, tick, checkpoint.Checkpoint(facts, arrays))

    @contextlib.contextmanager
    def watching_for_the_end(self) -> Iterator[None]:
        """While inside, SIGTERM saves behind the batch at hand and then ends the process."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python lets only the main thread handle signals.
            return

        def ask(number: int, frame: Any) -> None:
            self._asked_to_end = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
