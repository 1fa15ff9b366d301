"""What is told about a model beside its weights: the plan, the history, the metrics, the packages; as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kwarmup.applied import updates
from kwarmup.errors import value_error

#: Where TensorFlow keeps the files of a SavedModel that are neither graph nor weights.
ASSETS = "assets"
#: What is there, by the names under which `tf.saved_model.load` has them too.
NAMES = ("plan", "history", "metrics", "versions", "provenance", "class_names")


def texts(documents: Mapping[str, Any]) -> dict[str, str]:
    """Return each document as JSON; those that are `None` are left out."""
    return {
        name: json.dumps(_plain(data), indent=2, allow_nan=False) + "\n"
        for name, data in documents.items()
        if data is not None
    }


def read(folder: Path) -> dict[str, Any]:
    """Return the documents of a version by their names, `None` for those that were not given.

    Raises:
        ValueError: if a file cannot be read.
    """
    return {name: _read(folder / ASSETS / f"{name}.json") for name in NAMES}


def versions() -> dict[str, str]:
    """Return the versions of the packages that a model's outputs depend on."""
    import tensorflow as tf

    backend = keras.backend.backend()
    more = {} if backend == "tensorflow" else {backend: importlib.metadata.version(backend)}
    return {
        "kwarmup": sys.modules["kwarmup"].__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        **more,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def provenance(model: keras.Model) -> dict[str, Any]:
    """Return what a model is, how far it was trained, and the time of now."""
    optimizer: Any = getattr(model, "optimizer", None)
    known = isinstance(optimizer, keras.optimizers.Optimizer)
    return {
        "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": model.name,
        "weights": model.count_params(),
        "optimizer": type(getattr(optimizer, "inner_optimizer", optimizer)).__name__ if known else None,
        "updates": updates(optimizer) if known else None,
    }


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise value_error(
            "path",
            str(path),
            f"JSON that `export` wrote ({error})",
            f"{path.name} from a copy of the version",
        ) from error


def _plain(value: Any) -> Any:
    """Return numbers as JSON knows them; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
