"""The plan in a file: one that was written as JSON, or the one that a study recommends."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from kwarmup.cli.errors import UserError, user_error
from kwarmup.plan import Plan, PlanWarning

#: What a plan decides; these options would contradict it.
DECIDED = {
    "expression": "--profile",
    "peak": "--peak",
    "batch_size": "--batch-size",
    "multiple_of": "--multiple-of",
    "scaling": "--scaling",
}


def read(path: Path, examples: int, epochs: int | None) -> Plan:
    """Return the plan in a file, for data of so many examples.

    Args:
        path: a plan.json, or the study.json of `kwarmup study`, whose plan for the shortest time it is.
        examples: in the data that it will train on.
        epochs: passes over the data; `None` for as many as the file says.

    Raises:
        UserError: if it holds no plan, or one for other data.
    """
    plan = file(path, epochs)
    if plan.clock.examples != examples:
        raise UserError(
            f"--plan {path} is for {plan.clock.examples:,} training examples, and the data has {examples:,}. "
            "Its learning rate and batch size belong to the data it was made for; make one for this data with "
            "kwarmup study."
        )
    return plan


def file(path: Path, epochs: int | None = None) -> Plan:
    """Return the plan in a file, whatever data it is for; see `read`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--plan {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"--plan {path}: it cannot be read as JSON: {error}") from error
    with warnings.catch_warnings(), user_error(f"--plan {path}: "):
        warnings.simplefilter("ignore", PlanWarning)
        return _from_study(data, epochs) if "runs" in data else _from_plan(data, epochs)


def _from_study(data: dict[str, Any], epochs: int | None) -> Plan:
    from kwarmup.studies.result import Study

    return Study.from_dict(data).recommend(epochs=epochs)


def _from_plan(data: dict[str, Any], epochs: int | None) -> Plan:
    plan = Plan.from_dict(data)
    return plan if epochs is None else plan.replace(epochs=epochs)
