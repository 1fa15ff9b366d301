"""One training run in steps: plan, fit, keep. Each can be called from Python."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import keras
import numpy as np

from kwarmup import applied, checkpoint, plot
from kwarmup.callbacks.progress import Progress
from kwarmup.callbacks.record import Record
from kwarmup.checkpoint import CheckpointWarning
from kwarmup.cli.data import Data
from kwarmup.cli.errors import UserError, first_line, user_error
from kwarmup.cli.interrupt import Interrupt
from kwarmup.export import ExportError, export
from kwarmup.plan import Plan, PlanWarning
from kwarmup.profile import Profile
from kwarmup.resume import OtherTraining

if TYPE_CHECKING:
    from rich.console import Console

PLOT = "training.png"


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Args:
        history: lists by name, one value an epoch.
        updates: how many the optimizer applied.
        seconds: how long they took, in all processes that had a part in it.
        interrupted: whether Ctrl-C ended it before its end.
    """

    history: dict[str, list[float]]
    updates: int
    seconds: float
    interrupted: bool

    @property
    def last(self) -> dict[str, float]:
        """The values of the last epoch."""
        return {name: values[-1] for name, values in self.history.items() if values}


class _Break(Exception):
    """Ctrl-C between two passes. Stopped within one, a training can go on; behind one, it counts as ended."""


class _Stopwatch(keras.callbacks.Callback):
    """Adds up the seconds of a training. It is kept with the checkpoints: a training that goes on adds to it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        # A generator cannot be kept, and must not be: it holds the time of this machine.
        self._laps = _laps()
        next(self._laps)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds += next(self._laps)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds += next(self._laps)


def _laps() -> Iterator[float]:
    before = time.monotonic()
    while True:
        now = time.monotonic()
        yield now - before
        before = now


class _Watch:
    """Says where a training goes on, and stops it after Ctrl-C.

    No callback itself but the functions of one: it has no state that should be kept with the checkpoints.
    """

    def __init__(
        self, model: keras.Model, plan: Plan, progress: Progress, interrupt: Interrupt, console: Console
    ):
        self.model, self.plan, self.progress, self.console = model, plan, progress, console
        self.interrupt = interrupt
        self.stopped = self._told = False

    def epoch_begins(self, epoch: int, logs: Any = None) -> None:
        done = applied.updates(self.model.optimizer)
        if done and not self._told:
            self.console.print(f"Going on behind update {done:,} of {self.plan.clock.steps:,}.")
        self._told = True
        if self.interrupt.requested and self.model.history.epoch:
            self._stop()
            raise _Break

    def batch_ends(self, batch: int, logs: Any = None) -> None:
        # Not told where the signal is handled: the progress bar may be half drawn there.
        if self.interrupt.requested and not self.stopped and batch + 1 < self.progress.params["steps"]:
            self._stop()
            self.model.stop_training = True

    def _stop(self) -> None:
        self.stopped = True
        self.console.print("Stopped by Ctrl-C; what was trained is kept. Ctrl-C again stops at once.")


def make_plan(profile: Profile, data: Data, batch_size: int | Profile, epochs: int, **more: Any) -> Plan:
    """Return the plan for a data set, without a word about its warnings: they are in `plan.warnings`.

    Args:
        profile: the learning rate.
        data: what will be trained on.
        batch_size: examples per update.
        epochs: passes over the data.
        **more: what else `Plan` takes.

    Raises:
        UserError: if a batch is larger than the data, or a profile does not fit into the run.
    """
    if isinstance(batch_size, int) and batch_size > len(data.x):
        raise UserError(
            f"--batch-size {batch_size:,} is more than the {len(data.x):,} training examples of {data.name}."
        )
    with warnings.catch_warnings(), user_error():
        warnings.simplefilter("ignore", PlanWarning)
        return Plan(
            learning_rate=profile,
            batch_size=batch_size,
            examples=len(data.x),
            epochs=epochs,
            **more,
        )


def try_out(model: keras.Model, data: Data) -> None:
    """Compute the loss of a few examples, so that a model and data that do not fit are told apart early.

    Raises:
        UserError: if the model, its loss and the data do not go together.
    """
    few = np.arange(min(2, len(data.x)))
    if data.y.ndim == 1:  # The largest label is the one that may have no output.
        few = np.unique([*few, data.y.argmin(), data.y.argmax()])
    try:
        x, y = keras.ops.convert_to_tensor(data.x[few]), keras.ops.convert_to_tensor(data.y[few])
        model.compute_loss(x=x, y=y, y_pred=model(x, training=False))
    except Exception as error:  # Keras and TensorFlow raise whatever an operation raises.
        raise UserError(
            f"{model.name} cannot be trained on {data.name} (inputs {data.x.shape[1:]} {data.x.dtype}, "
            f"labels {data.y.shape[1:]} {data.y.dtype}): {first_line(error)}"
        ) from error


def fit(
    model: keras.Model,
    plan: Plan,
    data: Data,
    console: Console,
    checkpoints: Path,
    seed: int = 0,
    **arguments: Any,
) -> Outcome:
    """Train a compiled model by its plan, with a progress bar, until the end or Ctrl-C.

    Args:
        model: compiled, with `plan.learning_rate` in its optimizer.
        plan: how to train.
        data: what to train on and to validate with.
        console: where the progress is shown.
        checkpoints: the folder for checkpoints; a training that is in there goes on.
        seed: of the order of examples.
        **arguments: what else `plan.fit` is to be given.

    Raises:
        UserError: if the folder cannot be written, or holds a training that was begun with other options.
        KeyboardInterrupt: at the second Ctrl-C.
        Preempted: after SIGTERM, when the training has been saved.
    """
    with user_error():
        checkpoint.prepare(checkpoints)
    progress, stopwatch = Progress(console), _Stopwatch()
    # What fits into training fits into validation; small batches there are only slow.
    largest = max(segment.batch_size for _, segment in plan.clock.segments_between(0, None))
    with Interrupt() as interrupt, _shown(console):
        watch = _Watch(model, plan, progress, interrupt, console)
        ends = {"on_epoch_begin": watch.epoch_begins, "on_train_batch_end": watch.batch_ends}
        try:
            plan.fit(
                model,
                data.x,
                data.y,
                seed=seed,
                validation_data=(data.x_validation, data.y_validation),
                validation_batch_size=max(32, min(largest, arguments.get("max_device_batch", largest))),
                verbose=0,
                callbacks=[Record(), progress, stopwatch, keras.callbacks.LambdaCallback(**ends)],
                checkpoint_dir=checkpoints,
                **arguments,
            )
        except _Break:
            # As at the end of every training: averaged weights are put in place, if there are any.
            model.optimizer.finalize_variable_values(model.trainable_weights)
        except OtherTraining as error:
            raise UserError(
                "\n  ".join([f"--resume: {checkpoints} was begun with other options:", *error.differences])
                + "\nGive the same options as then; or, to begin another training, another --output."
            ) from error
        finally:
            progress.stop()
    history = {name: [_plain(value) for value in values] for name, values in model.history.history.items()}
    return Outcome(history, applied.updates(model.optimizer), stopwatch.seconds, watch.stopped)


def keep(
    model: keras.Model, plan: Plan, data: Data, outcome: Outcome, output: Path, console: Console
) -> Path:
    """Export what was trained as the next version in `output`, checked, with its plot; return its folder.

    Raises:
        UserError: if it cannot be written or does not pass the check.
    """
    metrics = {
        **outcome.last,
        "updates": outcome.updates,
        "seconds": round(outcome.seconds, 3),
        "interrupted": outcome.interrupted,
    }
    words = "Writing the SavedModel, and checking it in a fresh process …"
    try:
        with console.status(words):
            batch = data.x_validation[:32]
            version = export(model, output, plan=plan, history=outcome.history, metrics=metrics, batch=batch)
            plot.plot_training(outcome.history, plan, version / PLOT, outcome.updates)
    except (OSError, ExportError) as error:
        raise UserError(
            f"{error}\nThe training itself is not lost: the same command with --resume writes it again."
        ) from error
    return version


@contextmanager
def _shown(console: Console) -> Iterator[None]:
    """While inside, what is wrong with a checkpoint is told between the lines of the progress bar."""
    with warnings.catch_warnings():
        # A folder that cannot be written is told each time: it may be the last time to do something about it.
        warnings.simplefilter("always", CheckpointWarning)
        otherwise = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, CheckpointWarning):
                console.print(f"Warning: {message}", style="yellow", markup=False, soft_wrap=True)
            else:
                otherwise(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _plain(value: Any) -> Any:
    """Return a number of a history as it is written: a batch size is whole."""
    return value if isinstance(value, int) else float(value)
