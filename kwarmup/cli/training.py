"""One training run in steps: plan, fit, keep. Each can be called from Python."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kwarmup import applied, plot
from kwarmup.callbacks.progress import Progress
from kwarmup.callbacks.record import Record
from kwarmup.cli.data import Data
from kwarmup.cli.errors import UserError, first_line, user_error
from kwarmup.cli.interrupt import Interrupt
from kwarmup.export import ExportError, export
from kwarmup.plan import Plan, PlanWarning
from kwarmup.profile import Profile

if TYPE_CHECKING:
    from rich.console import Console

PLOT = "training.png"


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Args:
        history: lists by name, one value an epoch.
        updates: how many the optimizer applied.
        seconds: how long `fit` took.
        interrupted: whether Ctrl-C ended it.
    """

    history: dict[str, list[float]]
    updates: int
    seconds: float
    interrupted: bool

    @property
    def last(self) -> dict[str, float]:
        """The values of the last epoch."""
        return {name: values[-1] for name, values in self.history.items() if values}


def make_plan(profile: Profile, data: Data, batch_size: int, epochs: int) -> Plan:
    """Return the plan for a data set, without a word about its warnings: they are in `plan.warnings`.

    Raises:
        UserError: if a batch is larger than the data, or the profile does not fit into the run.
    """
    if batch_size > len(data.x):
        raise UserError(
            f"--batch-size {batch_size:,} is more than the {len(data.x):,} training examples of {data.name}."
        )
    with warnings.catch_warnings(), user_error():
        warnings.simplefilter("ignore", PlanWarning)
        return Plan(learning_rate=profile, batch_size=batch_size, examples=len(data.x), epochs=epochs)


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


def fit(model: keras.Model, plan: Plan, data: Data, console: Console) -> Outcome:
    """Train a compiled model by its plan, with a progress bar, until the end or Ctrl-C.

    Args:
        model: compiled, with `plan.learning_rate` in its optimizer.
        plan: how to train.
        data: what to train on and to validate with.
        console: where the progress is shown.

    Raises:
        KeyboardInterrupt: at the second Ctrl-C, and at the first if no batch was trained.
    """
    progress = Progress(console)
    began = time.monotonic()

    with Interrupt() as interrupt:

        def stop(index: int, logs: Any) -> None:
            # Not told where the signal is handled: the progress bar may be half drawn there.
            if interrupt.requested and not model.stop_training:
                model.stop_training = True
                console.print("Stopped by Ctrl-C; what was trained is kept. Ctrl-C again gives it up.")

        try:
            model.fit(
                data.x,
                data.y,
                validation_data=(data.x_validation, data.y_validation),
                verbose=0,
                callbacks=[
                    Record(),
                    progress,
                    keras.callbacks.LambdaCallback(on_train_batch_end=stop, on_epoch_end=stop),
                ],
                **plan.fit_arguments,
            )
        finally:
            progress.stop()
    history = {name: [float(value) for value in values] for name, values in model.history.history.items()}
    return Outcome(history, applied.updates(model.optimizer), time.monotonic() - began, interrupt.requested)


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
        raise UserError(str(error)) from error
    return version
