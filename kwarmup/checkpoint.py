"""Training state on disk: whole or not at all, checked when it is read, the last two kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kwarmup.errors import message, value_error

_FORMAT = 1
_KEPT = 2
# Twelve digits, so that folders of other programs (`step-100`) are neither read nor cleared away.
_NAME = re.compile(r"step-(\d{12,})")
_MANIFEST, _ARRAYS = "checkpoint.json", "arrays.npz"
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RecursionError)


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written or read; training goes on with what there is.

    Example:

    >>> import warnings
    >>> from kwarmup.checkpoint import CheckpointWarning
    >>> warnings.simplefilter("error", CheckpointWarning)  # rather stop than train on without checkpoints
    """


@dataclass(frozen=True)
class Checkpoint:
    """A point of a training, as it is kept on disk.

    Args:
        facts: plain data: where training stands, and what it was of.
        arrays: variables and whatever else is an array, by name.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]


def prepare(folder: str | os.PathLike[str], clear: bool = True) -> Path:
    """Make the folder for checkpoints, and clear away what a killed process left half-written, unless told not to.

    Raises:
        ValueError: if no folder can be made or written there.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise value_error(
            "checkpoint_dir",
            str(folder),
            f"a folder that can be written ({error})",
            'checkpoint_dir="runs/a"',
        ) from error
    for left in path.glob(".writing-*") if clear else ():
        shutil.rmtree(left, ignore_errors=True)
    return path


def write(folder: Path, step: int, checkpoint: Checkpoint) -> bool:
    """Write a checkpoint under its final name in one move, and forget all but the last two.

    A disk that is full or gone gives a `CheckpointWarning`, and the older checkpoints stay.

    Returns:
        Whether it was written.
    """
    final = path_of(folder, step)
    temporary = folder / f".writing-{final.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with open(temporary / _ARRAYS, "wb") as file:
            np.savez(file, **checkpoint.arrays)  # type: ignore[arg-type]
            _flush(file)
        facts = {**checkpoint.facts, "format": _FORMAT, "arrays": _digest(temporary / _ARRAYS)}
        text = json.dumps(facts)
        with open(temporary / _MANIFEST, "w") as file:
            file.write(json.dumps({"digest": hashlib.sha256(text.encode()).hexdigest(), "facts": text}))
            _flush(file)
        # The files and their names in the folder must be on disk before the folder has its name.
        _flush_folder(temporary)
        if final.exists():  # from another process on the same folder; this one's is the newer
            shutil.rmtree(final)
        os.rename(temporary, final)
        _flush_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        warnings.warn(
            f"No checkpoint was written at step {step} to {folder} ({error}). Training goes on; the last "
            "good checkpoint stays.",
            CheckpointWarning,
            stacklevel=2,
        )
        return False
    with contextlib.suppress(OSError):
        for old in _steps(folder)[_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    return True


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint behind `step` micro-batches is kept."""
    return folder / f"step-{step:012d}"


def forget(folder: Path, step: int) -> bool:
    """Remove the checkpoint behind `step` micro-batches, unless it is the only one; return whether it was."""
    if len(_steps(folder)) < 2:
        return False
    shutil.rmtree(path_of(folder, step))
    return True


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole.

    Each damaged one gives a `CheckpointWarning` and another name, under which it is left alone: it must
    not count as one of the two that are kept.

    Raises:
        RuntimeError: if it was written by a newer kwarmup.
    """
    paths = _steps(folder)
    for path in paths:
        try:
            return _read(path)
        except _DAMAGE as error:
            aside = path.with_name(f"damaged-{path.name}")
            with contextlib.suppress(OSError):
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(path, aside)
            then = (
                "there is none before it: training begins anew"
                if path == paths[-1]
                else "the one before it is used"
            )
            warnings.warn(
                f"The checkpoint {path} is damaged ({type(error).__name__}: {error}) and was renamed to "
                f"{aside.name}; {then}.",
                CheckpointWarning,
                stacklevel=2,
            )
    return None


def _read(path: Path) -> Checkpoint:
    outer = json.loads((path / _MANIFEST).read_text())
    text = outer["facts"]
    if hashlib.sha256(text.encode()).hexdigest() != outer["digest"]:
        raise ValueError(f"{_MANIFEST} has changed since it was written")
    facts = json.loads(text)
    if facts["format"] > _FORMAT:
        raise RuntimeError(
            message(
                "checkpoint_dir",
                str(path),
                f"a checkpoint of format {_FORMAT}, which this kwarmup reads; a newer one wrote "
                f"format {facts['format']}",
                "pip install --upgrade kwarmup",
            )
        )
    if _digest(path / _ARRAYS) != facts["arrays"]:
        raise ValueError(f"{_ARRAYS} has changed since it was written")
    with np.load(path / _ARRAYS, allow_pickle=False) as arrays:
        return Checkpoint(facts, dict(arrays))


def _steps(folder: Path) -> list[Path]:
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # Not every system lets a folder be opened; where it does, the names in it are on disk after this.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
