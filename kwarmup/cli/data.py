"""Data sets: scikit-learn's digits, an .npz file, a folder of IDX files, or a function of the user."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kwarmup.cli import idx
from kwarmup.cli.errors import UserError, user_error
from kwarmup.cli.functions import call

#: Where a data set brings no validation part, one in five examples becomes it, drawn by this seed: the
#: same split in every run, whatever `--seed` says.
_VALIDATION_PART = 5
_SPLIT_SEED = 0

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Data:
    """Arrays to train on and to validate with; the first axis counts examples.

    Args:
        name: what the data set is called, and the folder of its models.
        x: training inputs.
        y: training targets.
        x_validation: validation inputs.
        y_validation: validation targets.
        notes: what was done to the data, a sentence each.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_pair(self.name, "train", self.x, self.y)
        _check_pair(self.name, "val", self.x_validation, self.y_validation)
        if self.x.shape[1:] != self.x_validation.shape[1:]:
            raise UserError(
                f"{self.name}: an example of x_train has the shape {self.x.shape[1:]} and one of x_val "
                f"{self.x_validation.shape[1:]}; they must be the same."
            )

    def reshaped(self, shape: tuple[int, ...]) -> Data:
        """Return the data with inputs of another shape, of as many numbers."""
        if shape == self.x.shape[1:]:
            return self
        x, x_validation = (array.reshape((len(array), *shape)) for array in (self.x, self.x_validation))
        return replace(self, x=x, x_validation=x_validation)


def load(source: str) -> Data:
    """Return the data that `--data` names.

    Args:
        source: `"digits"`, a path to an `.npz` file or to a folder of IDX files, or `"module:function"`.

    Raises:
        UserError: if there is no such data, or it is damaged.
    """
    path = Path(source)
    if source == "digits":
        data = _digits()
    elif path.is_dir():
        data = _idx(path)
    elif path.suffix == ".npz":
        data = _npz(path)
    elif ":" in source and not path.exists():
        data = _function(source)
    elif path.exists():
        raise UserError(f"{source} is neither an .npz file nor a folder of IDX files.")
    else:
        raise UserError(
            f"There is no data {source!r}. It may be: digits, an .npz file, a folder of IDX files, "
            "or module:function."
        )
    return data


def _digits() -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[..., np.newaxis] / 16).astype("float32")
    return _data("digits", (x, digits.target.astype("int32")), None, ("Pixels are scaled from 0–16 to 0–1.",))


def _npz(path: Path) -> Data:
    if not path.exists():
        raise UserError(f"There is no file {path}.")
    try:
        # Opened here, since numpy leaves a file open that it cannot read.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an .npz file: {error}") from error
    missing = {"x_train", "y_train"} - set(arrays)
    if missing:
        raise UserError(
            f"{path} has no {' and no '.join(sorted(missing))}. It must hold x_train and y_train, and may "
            f"hold x_val and y_val, or x_test and y_test. It holds: {', '.join(sorted(arrays)) or 'nothing'}."
        )
    train = arrays["x_train"], arrays["y_train"]
    for part in ("val", "test"):
        if f"x_{part}" in arrays:
            if f"y_{part}" not in arrays:
                raise UserError(f"{path} has x_{part} but no y_{part}.")
            return _scaled(path.stem, train, (arrays[f"x_{part}"], arrays[f"y_{part}"]))
    return _scaled(path.stem, train, None)


def _idx(folder: Path) -> Data:
    train, validation = idx.read_folder(folder)
    return _scaled(folder.resolve().name, train, validation)


def _function(source: str) -> Data:
    made = call("--data", source)
    name = source.partition(":")[2]
    wanted = "(x_train, y_train), (x_val, y_val), or x_train, y_train"
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise UserError(f"{source} must return {wanted}; it returned {type(made).__name__}.")
    pairs = made if all(isinstance(part, tuple | list) and len(part) == 2 for part in made) else [made]
    with user_error(f"{source} must return {wanted}, each an array: "):
        arrays = [(np.asarray(x), np.asarray(y)) for x, y in pairs]
    return _data(name, arrays[0], arrays[1] if len(arrays) == 2 else None, ())


def _scaled(name: str, train: Pair, validation: Pair | None) -> Data:
    """Return the data, the pixels of images of bytes scaled to 0–1."""
    if train[0].dtype != np.uint8 or train[0].ndim < 3:
        return _data(name, train, validation, ())
    train = train[0].astype("float32") / 255, train[1]
    if validation is not None:
        validation = validation[0].astype("float32") / 255, validation[1]
    return _data(name, train, validation, ("Pixels are scaled from 0–255 to 0–1.",))


def _data(name: str, train: Pair, validation: Pair | None, notes: tuple[str, ...]) -> Data:
    """Return the data; a part is held out where there is none for validation."""
    if validation is not None:
        return Data(name, *train, *validation, notes=notes)
    x, y = train
    _check_pair(name, "train", x, y)
    held = len(x) // _VALIDATION_PART
    if held == 0:
        raise UserError(f"{name}: {len(x)} examples are too few to train on and to validate with.")
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(x))
    out, left = np.sort(order[:held]), np.sort(order[held:])
    note = "One in five examples is held out for validation: drawn at random, the same ones in every run."
    return Data(name, x[left], y[left], x[out], y[out], (*notes, note))


def _check_pair(name: str, part: str, x: np.ndarray, y: np.ndarray) -> None:
    for letter, array in (("x", x), ("y", y)):
        if array.ndim == 0 or array.dtype.kind not in "biuf":
            raise UserError(
                f"{name}: {letter}_{part} must be an array of numbers, one row an example; it is "
                f"{array.dtype} of the shape {array.shape}."
            )
    if len(x) != len(y):
        raise UserError(
            f"{name}: x_{part} has {len(x):,} examples and y_{part} {len(y):,}; they must be as many."
        )
    if len(x) == 0:
        raise UserError(f"{name}: x_{part} is empty.")
