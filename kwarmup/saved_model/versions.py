"""Numbered versions of a model, as TensorFlow Serving watches them: each is whole, or is not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from kwarmup.errors import Code, value_error

GRAPH, MODEL = "saved_model.pb", "model.keras"
_EXPORT = 'export(model, "saved_models/digits")'
_LOAD = 'load("saved_models/digits")'


class ExportError(RuntimeError):
    """A SavedModel that a fresh process cannot serve, or that answers other than the model does.

    Example:

    >>> from kwarmup import ExportError
    >>> raise ExportError("The SavedModel gives other outputs than model.predict.")
    Traceback (most recent call last):
        ...
    kwarmup.saved_model.versions.ExportError: The SavedModel gives other outputs than model.predict.
    """


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a new folder beside the versions to write one into; `number` makes a version of it.

    Where writing fails, the folder is removed; where the check of what was written fails, it is left, since
    the training is in there, and only there. A killed process leaves it too: under its name, which is no
    number, no server looks into it, and neither does `newest`.

    Raises:
        ValueError: if there is a file at `path`.
    """
    if path.exists() and not path.is_dir():
        raise value_error("path", str(path), "a folder, but there is a file of that name", _EXPORT)
    path.mkdir(parents=True, exist_ok=True)
    folder = path / f"unfinished-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield folder
    except ExportError as error:
        raise ExportError(
            f"{error}\nThe older versions are as they were; this one is left in {folder}, with {MODEL} in it."
        ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def number(folder: Path) -> Path:
    """Rename a finished folder to the number after the largest one beside it."""
    # All of it is on disk before it has its name: else a power cut could leave a version of empty files.
    for root, folders, files in os.walk(folder):
        for name in files:
            with open(Path(root) / name, "rb") as file:
                os.fsync(file)
        for name in folders:
            _flush(Path(root) / name)
    _flush(folder)
    while True:
        taken = [count for count, _ in _numbered(folder.parent)]
        place = folder.parent / str(max(taken, default=0) + 1)
        try:
            done = folder.rename(place)
        except OSError:
            # Another process may have taken the number meanwhile; anything else is a real fault.
            if not place.exists():
                raise
        else:
            _flush(done.parent)
            return done


def find(path: Path, version: int | None = None) -> Path:
    """Return the folder of a version, the newest one unless another is named.

    Args:
        path: the folder of the versions; or, without `version`, that of one of them.
        version: its number.

    Raises:
        ValueError: if there is no such version, or it is not one that `export` has written.
    """
    if not path.is_dir():
        raise value_error("path", str(path), "a folder of versions that `export` wrote", _LOAD)
    numbered = dict(_numbered(path))
    if version is None and not numbered and ((path / GRAPH).exists() or (path / MODEL).exists()):
        return _whole(path)
    folders = {count: found for count, found in numbered.items() if found.is_dir()}
    if not folders:
        raise value_error(
            "path", str(path), "a folder of versions 1, 2, … that `export` wrote; there is none in it", _LOAD
        )
    if version is not None and version not in folders:
        there = ", ".join(map(str, sorted(folders)))
        raise value_error("version", version, f"one that is there: {there}", f"load({str(path)!r})")
    return _whole(folders[max(folders) if version is None else version])


def _whole(folder: Path) -> Path:
    missing = [name for name in (GRAPH, MODEL) if not (folder / name).is_file()]
    if not missing:
        return folder
    why = f"there is no {' and no '.join(missing)} in it"
    if missing == [MODEL]:
        raise value_error(
            "path",
            str(folder),
            f"a version that `export` wrote; {why}, as in a SavedModel from elsewhere",
            f"tf.saved_model.load({str(folder)!r})",
        )
    others = [
        count
        for count, other in sorted(_numbered(folder.parent), reverse=True)
        if other != folder and (other / GRAPH).is_file() and (other / MODEL).is_file()
    ]
    where, known = str(folder.parent), folder.name.isdecimal() and bool(others)
    write = f"load({where!r}, version={others[0]})" if known else _LOAD
    raise value_error(
        "path", Code(str(folder)), f"a version that `export` wrote, and it is damaged: {why}", write
    )


def _numbered(path: Path) -> Iterator[tuple[int, Path]]:
    # Files take a number too: nothing can be renamed to it.
    return ((int(entry.name), entry) for entry in path.iterdir() if entry.name.isdecimal())


def _flush(path: Path) -> None:
    # Not every system lets a folder be opened; where it does, the names in it are on disk after this.
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
