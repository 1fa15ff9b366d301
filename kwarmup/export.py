"""Write a trained model for serving: a numbered version, complete and checked, or none."""

from __future__ import annotations

import inspect
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kwarmup.errors import Code, type_error, value_error
from kwarmup.plan import Plan

_EXAMPLE = 'export(model, "saved_models/digits")'


class ExportError(RuntimeError):
    """A SavedModel that a fresh process cannot serve, or that gives other outputs than the model.

    Example:

    >>> from kwarmup import ExportError
    >>> raise ExportError("The SavedModel gives other outputs than model.predict.")
    Traceback (most recent call last):
        ...
    kwarmup.export.ExportError: The SavedModel gives other outputs than model.predict.
    """


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    plan: Plan | None = None,
    history: keras.callbacks.History | Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    batch: Any = None,
) -> Path:
    """Write the next numbered version of a model, as TensorFlow Serving expects them, and check it.

    A version `path/1`, `path/2`, … holds the SavedModel (endpoint `serve`, any batch size), the whole
    model with its optimizer as `model.keras`, `versions.json`, and what was given of `plan.json`,
    `history.json` and `metrics.json`. It is written beside its place and renamed, so no half-written
    version ever stands under a number. Before that, a fresh process that has not imported kwarmup loads
    the SavedModel and its outputs are compared with `model.predict`.

    Args:
        model: a Keras model that is built.
        path: the folder of the versions; made if it is not there.
        plan: the plan that the model was trained by.
        history: what `fit` returned, or its lists by name.
        metrics: numbers by name; NaN and infinity become null.
        batch: inputs for the check, as for `predict`; made up where the model tells its inputs and only
            the batch size is open.

    Returns:
        The folder of the new version.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if the backend is not TensorFlow, the model is not built, there is a file at
            `path`, no batch can be made up, or the plan has a shape that cannot be written.
        ExportError: if the SavedModel cannot be loaded or gives other outputs; the older versions
            stay, and what was written is left in a folder that the message names.

    Example:

    >>> import keras, tempfile
    >>> from kwarmup import export
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> version = export(model, tempfile.mkdtemp())
    >>> version.name, (version / "saved_model.pb").exists(), (version / "model.keras").exists()
    ('1', True, True)
    """
    if keras.backend.backend() != "tensorflow":
        raise value_error(
            "model",
            Code(f"a model of the {keras.backend.backend()} backend"),
            "the TensorFlow backend, which alone writes a SavedModel",
            "KERAS_BACKEND=tensorflow, and load the weights from a .keras file",
        )
    if not isinstance(model, keras.Model):
        raise type_error("model", model, "a Keras model", _EXAMPLE)
    if not model.built:
        raise value_error("model", Code(f"{model.name}, not built"), "a built model", "model.build(shape)")
    batch = _example_batch(model) if batch is None else batch
    documents = {"versions.json": versions()}
    if plan is not None:
        documents["plan.json"] = plan.to_dict()
    if history is not None:
        documents["history.json"] = dict(getattr(history, "history", history))
    if metrics is not None:
        documents["metrics.json"] = dict(metrics)
    texts = {name: json.dumps(_plain(data), indent=2, allow_nan=False) for name, data in documents.items()}

    path = Path(path)
    if path.exists() and not path.is_dir():
        raise value_error("path", str(path), "a folder, but there is a file of that name", _EXAMPLE)
    path.mkdir(parents=True, exist_ok=True)
    # Servers take only numbers for versions, so none looks into this folder.
    folder = path / f"unfinished-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        for name, text in texts.items():
            (folder / name).write_text(text + "\n", encoding="utf-8")
        model.save(folder / "model.keras")
        model.export(folder, format="tf_saved_model", verbose=False)
        check(folder, batch, model.predict(batch, verbose=0), _tolerance(model))
        return _number(folder)
    except ExportError:
        raise  # The training is in there, and only there.
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def versions() -> dict[str, str]:
    """Return the versions of the packages that a model's outputs depend on."""
    import tensorflow as tf

    return {
        "kwarmup": sys.modules["kwarmup"].__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def check(folder: Path, batch: Any, expected: Any, tolerance: float) -> None:
    """Load a SavedModel in a fresh process and compare its outputs with the expected ones.

    It is asked for the whole batch and for its first example, since a SavedModel may have frozen the
    batch size that it was traced with.

    Raises:
        ExportError: if it cannot be loaded or called, or an output differs by more than `tolerance`
            times the largest expected output.
    """
    inputs = [np.asarray(part) for part in keras.tree.flatten(batch)]
    outputs = [np.asarray(part, "float64") for part in keras.tree.flatten(expected)]
    left = f"The older versions are as they were; this one is left in {folder}, with model.keras in it."
    with tempfile.TemporaryDirectory() as exchange:
        np.savez(os.path.join(exchange, "inputs.npz"), *inputs)
        run = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(folder.absolute()), exchange],
            cwd=exchange,
            # On the CPU: this process may hold all memory of the accelerators.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if run.returncode:
            said = "\n".join(run.stderr.strip().splitlines()[-5:])
            raise ExportError(f"The SavedModel cannot be served in a fresh process:\n{said}\n{left}")
        with np.load(os.path.join(exchange, "outputs.npz")) as answers:
            whole = [answers[f"whole_{i}"] for i in range(len(outputs))]
            first = [answers[f"first_{i}"] for i in range(len(outputs))]
    for output, answer in zip([*outputs, *(o[:1] for o in outputs)], [*whole, *first], strict=True):
        finite = np.abs(output[np.isfinite(output)])
        allowed = tolerance * max(1e-30, finite.max(initial=0.0))
        if output.shape != answer.shape:
            difference = f"shape {answer.shape} in place of {output.shape}"
        elif np.allclose(answer, output, rtol=0, atol=allowed, equal_nan=True):
            continue
        else:
            difference = f"largest difference {np.abs(answer - output).max():.3g}, allowed {allowed:.3g}"
        raise ExportError(f"The SavedModel gives other outputs than model.predict: {difference}.\n{left}")


def _answer(folder: str, exchange: str) -> None:
    """What the fresh process runs: its source text is handed over, so that it need not import kwarmup."""
    import os
    import sys

    import numpy as np
    import tensorflow as tf

    if "kwarmup" in sys.modules:
        raise SystemExit("kwarmup was imported; the check would prove nothing")
    loaded = tf.saved_model.load(folder)  # its variables live as long as it does
    signature = loaded.serve.input_signature
    specs = tf.nest.flatten(signature)
    given = np.load(os.path.join(exchange, "inputs.npz"))
    arrays = [given[f"arr_{i}"].astype(spec.dtype.as_numpy_dtype) for i, spec in enumerate(specs)]
    answers = {}
    for name, inputs in (("whole", arrays), ("first", [array[:1] for array in arrays])):
        outputs = loaded.serve(*tf.nest.pack_sequence_as(signature, inputs))
        for index, output in enumerate(tf.nest.flatten(outputs)):
            answers[f"{name}_{index}"] = tf.cast(output, tf.float64).numpy()
    np.savez(os.path.join(exchange, "outputs.npz"), **answers)


_PROGRAM = f"{inspect.getsource(_answer)}\nimport sys\n_answer(*sys.argv[1:])\n"


def _number(folder: Path) -> Path:
    """Rename a finished folder to the number after the largest one beside it."""
    while True:
        taken = [int(entry.name) for entry in folder.parent.iterdir() if entry.name.isdecimal()]
        place = folder.parent / str(max(taken, default=0) + 1)
        try:
            return folder.rename(place)
        except OSError:
            # Another process may have taken the number meanwhile; anything else is a real fault.
            if not place.exists():
                raise


def _tolerance(model: keras.Model) -> float:
    """What rounding may do: little in float32 on one kind of device, more in half precision or on two."""
    import tensorflow as tf

    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers)
    return 2e-2 if half or tf.config.list_physical_devices("GPU") else 1e-4


def _example_batch(model: keras.Model) -> Any:
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else getattr(model, "input", None)
    shapes = [part.shape for part in keras.tree.flatten(inputs)] if inputs is not None else []
    if not shapes or any(size is None for shape in shapes for size in shape[1:]):
        known = (
            f"inputs of the shapes {shapes}" if shapes else "a model that does not say what its inputs are"
        )
        raise value_error(
            "batch",
            Code(f"None, and {known}"),
            "a batch of inputs, with which the SavedModel is checked",
            "export(model, path, batch=x[:8])",
        )
    random = np.random.default_rng(0)

    def fill(part: Any) -> np.ndarray:
        values = random.random((4, *part.shape[1:]))
        return (values if "float" in part.dtype else values > 0.5).astype(part.dtype)

    return keras.tree.map_structure(fill, inputs)


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
