"""Read IDX files, the format of MNIST and Fashion-MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from kwarmup.cli.errors import UserError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

Pair = tuple[np.ndarray, np.ndarray]


def read(path: Path) -> np.ndarray:
    """Return the array in an IDX file.

    The file begins with two zero bytes, one byte for the type of its numbers, one for the number of
    axes, and the length of each axis as four bytes, the most significant first.

    Raises:
        UserError: if it cannot be read, does not begin so, or holds more or fewer numbers than it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    kind = content[2] if len(content) >= 4 and content[:2] == b"\0\0" else None
    if kind not in _TYPES:
        raise UserError(f"{path} is not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}.")
    axes = content[3]
    begin = 4 + 4 * axes
    if len(content) < begin:
        raise UserError(f"{path} ends within its header: {len(content)} bytes, and {axes} axes need {begin}.")
    shape = struct.unpack(f">{axes}I", content[4:begin])
    dtype = np.dtype(_TYPES[kind])
    size = math.prod(shape) * dtype.itemsize
    if len(content) - begin != size:
        raise UserError(
            f"{path} holds {len(content) - begin:,} bytes of numbers, and its header says "
            f"{' × '.join(map(str, shape))} = {size:,}. It is damaged or not complete."
        )
    return np.frombuffer(content, dtype, offset=begin).reshape(shape).astype(dtype.newbyteorder("="))


def read_folder(folder: Path) -> tuple[Pair, Pair | None]:
    """Return the training and the test part of a folder named as MNIST's; the test part may lack.

    Raises:
        UserError: if the training files are not there, or one of them is damaged.
    """
    train, test = [[_find(folder, name) for name in names] for names in (_TRAIN, _TEST)]
    if None in train:
        names = " and ".join(f"{name}[.gz]" for name in _TRAIN)
        raise UserError(f"There are no IDX files in {folder}: {names} are looked for.")
    parts = [[read(path) for path in pair if path] for pair in (train, test)]
    for images, labels in (part for part in parts if len(part) == 2):
        if images.ndim < 2 or labels.ndim != 1:
            raise UserError(
                f"{folder}: images have {images.ndim} axes and labels {labels.ndim}; "
                "at least 2 and exactly 1 are expected."
            )
    return (parts[0][0], parts[0][1]), (parts[1][0], parts[1][1]) if len(parts[1]) == 2 else None


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
