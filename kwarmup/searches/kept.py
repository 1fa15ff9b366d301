"""The state of a search on disk, whole or not at all.

keras-tuner writes its files in place, so that a process which is killed while it writes leaves one that cannot be
read, and it lists a trial that has just ended as one that is still running. What is kept here is its state in one file
that is replaced at once; keras-tuner's own files are written from it when the search goes on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kwarmup.errors import Code, value_error
from kwarmup.identity import differences
from kwarmup.searches import spent
from kwarmup.searches.outcome import write_json

_STATE, _SETTINGS, _PASSES = "state.json", "settings.json", "passes.json"
_OVER = ("COMPLETED", "FAILED")


def keeps(oracle: Any, project: Path) -> None:
    """Let an oracle, whoever wrote it, keep its state in a folder too whenever it saves itself.

    The checkpoints that nothing goes on from are removed then: a chief, which trains nothing, has no other occasion
    and is the only one to know what its workers go on from.
    """
    save = oracle.save

    def save_and_keep() -> None:
        save()
        keep(project, oracle)
        spent.remove(project, oracle)

    oracle.save = save_and_keep


def keep(project: Path, oracle: Any) -> None:
    """Keep the state of an oracle and of its trials."""
    trials = {name: trial.get_state() for name, trial in oracle.trials.items()}
    state = oracle.get_state()
    state["ongoing_trials"] = {
        tuner: trial for tuner, trial in state["ongoing_trials"].items() if trials[trial]["status"] not in _OVER
    }  # fmt: skip
    write_json(project / _STATE, {"oracle": state, "trials": trials})


def put_back(project: Path, tuner_id: str) -> bool:
    """Write keras-tuner's own files as they were when the state was kept; return whether there is one.

    Args:
        project: the folder of the search.
        tuner_id: of this process, as keras-tuner calls it.
    """
    if not (project / _STATE).exists():
        return False
    kept = json.loads((project / _STATE).read_text(encoding="utf-8"))
    for folder in project.glob("trial_*"):
        if folder.name.removeprefix("trial_") not in kept["trials"]:
            # It had been asked for and not begun: its values were never kept.
            (folder / "trial.json").unlink(missing_ok=True)
    for name, trial in kept["trials"].items():
        write_json(project / f"trial_{name}" / "trial.json", trial)
    write_json(project / "oracle.json", kept["oracle"])
    write_json(project / f"{tuner_id}.json", {})
    return True


def passes(project: Path, now: dict[int, int], keep: bool) -> dict[int, int]:
    """Return the passes of each batch size that were kept, where there are any; or keep those of now.

    What follows from a measured time is another number each time, and a trial that was begun with one must go on
    with it.
    """
    path = project / _PASSES
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        return {int(size): number for size, number in found.items()}
    if keep:
        write_json(path, now)
    return now


def check_same(project: Path, settings: dict[str, Any]) -> None:
    """Keep what a search is of, or compare it with what was kept.

    Raises:
        ValueError: if the folder holds a search of something else.
    """
    path = project / _SETTINGS
    if not path.exists():
        write_json(path, settings)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = list(differences(found, json.loads(json.dumps(settings))))
    if changed:
        text = "\n  ".join(line.replace("in the checkpoint", "in the folder") for line in changed)
        raise value_error(
            "directory", Code(f"{project}, begun with\n  {text}"), "a folder that is empty, or holds this same search",
            'search(..., directory="another")',
        )  # fmt: skip
