"""What `kwarmup export` reads, and what it makes of it. Each can be called from Python."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras

from kwarmup import checkpoint, identity, private, scaled, state
from kwarmup.checkpoint import CheckpointWarning
from kwarmup.cli import data as data_sets
from kwarmup.cli import models, training
from kwarmup.cli.data import Data
from kwarmup.cli.errors import UserError, user_error
from kwarmup.export import ExportError, export
from kwarmup.plan import Plan, PlanWarning

_EXAMPLES = 8


def from_file(path: Path, data: Data | None) -> tuple[keras.Model, Data | None]:
    """Return the model in a `.keras` file, and the data in the shape that it takes.

    Raises:
        UserError: if it cannot be read, or does not take such data.
    """
    model = models.from_file(path)
    return model, None if data is None else models.shaped(data, model)


def from_checkpoints(folder: Path, network: str | None, data: Data | None) -> tuple[keras.Model, Plan, Data]:
    """Return the model, the plan and the data of a training that is kept in a folder of checkpoints.

    Args:
        folder: `checkpoint_dir` of `Plan.fit`, or `checkpoints` of `kwarmup train`.
        network: what was trained, as for `--model`.
        data: examples of what it was trained on; `None` for the digits.

    Raises:
        UserError: if there is no whole checkpoint, or it is of another model.
    """
    found = _newest(folder)
    data = data_sets.load("digits") if data is None else data
    model = models.load(network, data)
    data = models.shaped(data, model)
    told = found.facts["facts"]["model"]
    with warnings.catch_warnings(), user_error(f"{folder}: "):
        warnings.simplefilter("ignore", PlanWarning)
        plan = Plan.from_dict(found.facts["in_force"])
    # An optimizer's own class comes last; a wrapper for mixed precision stands in front of it.
    optimizer = None if model.compiled else told["optimizer"]["class"].split(", ")[-1]
    model = models.compiled(model, models.optimizer(optimizer, model), plan.learning_rate, data)
    training.try_out(model, data)
    private.build(model, (data.x[:_EXAMPLES], data.y[:_EXAMPLES]))
    if found.facts["factor"] is not None:
        scaled.install(model)
    differences = list(identity.differences(told, identity.of_model(model)))
    if differences:
        lines = "\n  ".join([f"{folder} holds checkpoints of another model:", *differences])
        raise UserError(f"{lines}\nGive the network that was trained: --model module:function.")
    with user_error(f"{folder}: "):
        state.put(state.variables(model), found.arrays)
    return model, plan, data


def keep(
    model: keras.Model, plan: Plan | None, data: Data | None, output: Path, more: dict[str, Any]
) -> Path:
    """Export a model and return the folder of its version.

    Raises:
        UserError: if it cannot be written or does not pass the check.
    """
    if data is not None:
        more = {**more, "batch": data.x[:_EXAMPLES], "targets": data.y[:_EXAMPLES]}
    try:
        with user_error():
            return export(model, output, plan=plan, **more)
    except (ExportError, ImportError) as error:
        raise UserError(str(error)) from error


def _newest(folder: Path) -> checkpoint.Checkpoint:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CheckpointWarning)
        try:
            found = checkpoint.newest(folder)
        except RuntimeError as error:
            raise UserError(str(error)) from error
    if found is None:
        why = "\n".join(str(warning.message) for warning in said) or f"There is no checkpoint in {folder}."
        raise UserError(f"{why}\nGive a .keras file, or the checkpoint_dir of a training.")
    return found
