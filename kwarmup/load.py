"""Read back what `export` wrote: the model, and how it was trained."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kwarmup.errors import Code, type_error, value_error
from kwarmup.plan import Plan, PlanWarning
from kwarmup.saved_model import documents, versions


@dataclass(frozen=True)
class ModelVersion:
    """A version that `export` wrote: the model, and how it was trained; see `load`.

    Args:
        folder: where it is; its name is the number of the version.
        model: the Keras model, compiled as it was, with the state of its optimizer.
        plan: the plan that it was trained by; `None` where none was given.
        history: lists by name, a value for each epoch.
        metrics: numbers by name.
        class_names: a name for each of the model's outputs; `None` where none were given.
        packages: the versions of the packages that it was made with.

    Example:

    >>> import keras, pathlib
    >>> from kwarmup import ModelVersion
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> folder = pathlib.Path("saved_models/digits/3")
    >>> version = ModelVersion(folder, model, None, {"loss": [2.0, 1.0]}, {"accuracy": 0.9}, None, {})
    >>> version.folder.name, version.metrics["accuracy"]
    ('3', 0.9)
    """

    folder: Path
    model: keras.Model
    plan: Plan | None
    history: Mapping[str, Any]
    metrics: Mapping[str, Any]
    class_names: tuple[str, ...] | None
    packages: Mapping[str, str]


def load(path: str | os.PathLike[str], version: int | None = None) -> ModelVersion:
    """Return the newest version of a model that `export` wrote, or the one of a number.

    The model is the one in `model.keras`, as it was compiled; training goes on from it. Where Keras is not
    installed, `tf.saved_model.load` of the same folder serves, and trains on if it was made for that.

    Args:
        path: the folder of the versions, or the folder of one.
        version: its number; `None` for the newest.

    Returns:
        The model with its plan, history, metrics, class names and packages, as `ModelVersion`.

    Raises:
        TypeError: if `version` is not a whole number.
        ValueError: if there is no such version, it is damaged, it is not from `export`, or it holds layers
            that Keras does not know.

    Example:

    >>> import keras, tempfile
    >>> from kwarmup import Plan, cosine, export, load, warmup
    >>> plan = Plan(
    ...     learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=10, examples=100, epochs=3
    ... )
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> folder = tempfile.mkdtemp()
    >>> version = export(model, folder, plan=plan)
    >>> load(folder).plan == plan
    True
    """
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise type_error("version", version, "a whole number, or None", f"load({str(path)!r}, version=1)")
    folder = versions.find(Path(path), version)
    told = documents.read(folder)
    return ModelVersion(
        folder=folder,
        model=_model(folder / versions.MODEL),
        plan=None if told["plan"] is None else _plan(folder, told["plan"]),
        history=told["history"] or {},
        metrics=told["metrics"] or {},
        class_names=None if told["class_names"] is None else tuple(told["class_names"]),
        packages=told["versions"] or {},
    )


def _model(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras raises whatever a file or a layer raises.
        # Around the cause Keras puts what it was doing, with whole configs.
        cause = str(error).split("Exception encountered: ")[-1].strip()
        why = (cause.splitlines() or [type(error).__name__])[0]
        raise value_error(
            "path",
            Code(str(path)),
            f"a whole file, with layers that Keras knows ({why})",
            "@keras.saving.register_keras_serializable() above a layer of your own, and import it; "
            f"or tf.saved_model.load({str(path.parent)!r}), which needs neither",
        ) from error


def _plan(folder: Path, data: Any) -> Plan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)  # Said when it was made.
        try:
            return Plan.from_dict(data)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            path = folder / documents.ASSETS / "plan.json"
            raise value_error(
                "path",
                Code(str(path)),
                f"a plan that `export` wrote ({error})",
                f"load({str(folder.parent)!r}, version=...)",
            ) from error
