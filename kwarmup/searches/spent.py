"""Checkpoints that nothing goes on from any more: they hold optimizer and data, several times what a model weighs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

#: How the folders of a trial's checkpoints begin, one for each time that it is trained.
TRAINING = "training"
_OVER = ("COMPLETED", "FAILED")


def remove(project: Path, oracle: Any) -> None:
    """Remove the checkpoints of trials that are over and are not promoted; the best weights of each stay.

    Args:
        project: the folder of the search.
        oracle: knows its trials, and with Hyperband the brackets that are still open.
    """
    over = {name for name, trial in oracle.trials.items() if trial.status in _OVER}
    for name in over - _wanted(oracle, over):
        for folder in (project / f"trial_{name}").glob(f"{TRAINING}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _wanted(oracle: Any, over: set[str]) -> set[str]:
    """Return the trials that one of Hyperband's is going on from, or may go on from."""
    promoted = {
        trial.hyperparameters.values.get("tuner/trial_id"): name for name, trial in oracle.trials.items()
    }
    going = {before for before, name in promoted.items() if before is not None and name not in over}
    brackets = oracle.get_state().get("brackets", ())
    # None goes on from a trial of the last round.
    early = (trial["id"] for bracket in brackets for rounds in bracket["rounds"][:-1] for trial in rounds)
    return going | {name for name in early if name not in promoted}
