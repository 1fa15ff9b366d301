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

from kwarmup.errors import value_error

_FORMAT = 1
_KEPT = 2
_NAME = re.compile(r"step-(\d+)")
_MANIFEST, _ARRAYS = "checkpoint.json", "arrays.npz"


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written or read; training goes on with what there is."""


@dataclass(frozen=True)
class Checkpoint:
    """A point of a training, as it is kept on disk.

    Args:
        facts: plain data: where training stands, and what it was of.
        arrays: variables and whatever else is an array, by name.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]


def prepare(folder: str | os.PathLike[str]) -> Path:
    """Make the folder for checkpoints, and clear away what a killed process left half-written.

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
            "checkpoint_dir", str(folder), f"a folder that can be written ({error})", 'checkpoint_dir="runs/a"'
        ) from error
    for left in path.glob(".writing-*"):
        shutil.rmtree(left, ignore_errors=True)
    return path


def write(folder: Path, step: int, checkpoint: Checkpoint) -> bool:
    """Write a checkpoint under its final name in one move, and forget all but the last two.

    A disk that is full or gone gives a `CheckpointWarning`, and the older checkpoints stay.

    Returns:
        Whether it was written.
    """
    final = folder / f"step-{step:012d}"
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        with open(temporary / _ARRAYS, "wb") as file:
            arrays: dict[str, Any] = checkpoint.arrays
            np.savez(file, **arrays)
            _flush(file)
        facts = {**checkpoint.facts, "format": _FORMAT, "arrays": _digest(temporary / _ARRAYS)}
        text = json.dumps(facts)
        with open(temporary / _MANIFEST, "w") as file:
            file.write(json.dumps({"digest": hashlib.sha256(text.encode()).hexdigest(), "facts": text}))
            _flush(file)
        if final.exists():  # damaged, or left by a run that was refused: ours is the newer one
            shutil.rmtree(final)
        os.rename(temporary, final)
        _flush_folder(folder)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        warnings.warn(
            f"No checkpoint was written at step {step} to {folder} ({error}). Training goes on; the last "
            "good checkpoint stays.",
            CheckpointWarning,
            stacklevel=2,
        )
        return False
    for old in _steps(folder)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return True


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; each damaged one gives a `CheckpointWarning`."""
    for path in _steps(folder):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            warnings.warn(
                f"The checkpoint {path} is damaged ({error}); the one before it is used.",
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
    if facts["format"] != _FORMAT:
        raise ValueError(f"format {facts['format']}, this kwarmup reads format {_FORMAT}")
    if _digest(path / _ARRAYS) != facts["arrays"]:
        raise ValueError(f"{_ARRAYS} has changed since it was written")
    with np.load(path / _ARRAYS, allow_pickle=False) as arrays:
        return Checkpoint(facts, dict(arrays))


def _steps(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


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
    # Not every system lets a folder be opened; where it does, the new name is on disk after this.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
