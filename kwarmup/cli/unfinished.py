"""Where a training that has not come to its end is kept, so that `--resume` can go on with it."""

from __future__ import annotations

import shutil
from pathlib import Path

from kwarmup.cli.errors import UserError

NAME = "checkpoints"


def folder(output: Path, resume: bool) -> Path:
    """Return the folder for the checkpoints of the training that is about to begin or to go on.

    It is `output/checkpoints` while a training runs. One that Ctrl-C has stopped was kept as a version, and
    its checkpoints lie in there: `--resume` goes on with them if no newer version has come.

    Args:
        output: where the versions go.
        resume: whether to go on with what is there.

    Raises:
        UserError: if there is a training that was killed, and it would be lost by beginning another.
    """
    running = output / NAME
    if resume:
        versions = [entry for entry in output.glob("*") if entry.name.isdecimal()]
        newest = max(versions, key=lambda entry: int(entry.name), default=output)
        return running if begun(running) or not begun(newest / NAME) else newest / NAME
    if begun(running):
        raise UserError(
            f"{running} holds a training that has not come to its end: it was stopped, or it still runs.\n"
            "To go on with it, give the same command with --resume. To begin another one, give another "
            f"--output, or remove {running}."
        )
    return running


def begun(checkpoints: Path) -> bool:
    """Return whether there is something to go on with."""
    return any(checkpoints.glob("step-*"))


def close(checkpoints: Path, version: Path, interrupted: bool) -> None:
    """Behind a training that was kept: forget its checkpoints, or keep them with a version that Ctrl-C cut short."""
    if interrupted:
        checkpoints.rename(version / NAME)
    else:
        shutil.rmtree(checkpoints, ignore_errors=True)


def leave(checkpoints: Path) -> bool:
    """Return whether a training that is given up can be gone on with; if not, nothing of it is left."""
    if begun(checkpoints):
        return True
    shutil.rmtree(checkpoints, ignore_errors=True)
    return False
