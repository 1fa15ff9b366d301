"""Checkpoints that nothing goes on from any more: they hold optimizer and data, several times what a model weighs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: How the folders of a trial's checkpoints begin, one for each time that it is trained.
TRAINING = "training"
_OVER = ("COMPLETED", "FAILED")
#: Hyperband's note from which trial one goes on.
BEFORE = "tuner/trial_id"


def is_promoted(values: Mapping[str, Any]) -> bool:
    """Return whether a trial with these values goes on from another."""
    return values.get(BEFORE) is not None


def remove(project: Path, oracle: Any) -> None:
    """Remove the checkpoints of trials that are over and are not promoted; the best weights of each stay.

    Args:
        project: the folder of the search.
        oracle: knows its trials, and with Hyperband the brackets that are still open.
    """
    over = {name for name, trial in oracle.trials.items() if trial.status in _OVER}
    for name in over - _wanted(oracle, over):
        forget(project / f"trial_{name}")


def forget(trial: Path) -> None:
    """Remove the checkpoints in the folder of a trial."""
    for folder in trial.glob(f"{TRAINING}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _wanted(oracle: Any, over: set[str]) -> set[str]:
    """Return the trials that one of Hyperband's is going on from, or may go on from."""
    promoted = {trial.hyperparameters.values.get(BEFORE): name for name, trial in oracle.trials.items()}
    going = {before for before, name in promoted.items() if before is not None and name not in over}
    brackets = oracle.get_state().get("brackets", ())
    # None goes on from a trial of the last round.
    early = (trial["id"] for bracket in brackets for rounds in bracket["rounds"][:-1] for trial in rounds)
    return going | {name for name in early if name not in promoted}
