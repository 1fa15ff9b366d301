"""Other formats that Keras writes, each checked in its own runtime, where TensorFlow is missing too."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import keras
import numpy as np

from kwarmup.errors import message, value_error
from kwarmup.private import input_signature
from kwarmup.saved_model import fresh_litert, fresh_onnx
from kwarmup.saved_model.check import Expected, ask, compare_outputs, inputs
from kwarmup.saved_model.versions import ExportError


@dataclass(frozen=True)
class Format:
    """A format beside the SavedModel.

    Args:
        file: what its file is called.
        program: what the fresh process runs to answer from it.
        packages: what must be installed to write and to run it.
    """

    file: str
    program: ModuleType
    packages: tuple[str, ...]


#: By the names that `keras.Model.export` has for them, which are those of the extras too.
FORMATS = {
    "onnx": Format("model.onnx", fresh_onnx, ("onnx", "onnxruntime", "tf2onnx")),
    "litert": Format("model.tflite", fresh_litert, ("ai_edge_litert",)),
}


def refuse(format: str) -> None:
    """Raise, where a format is not known or cannot be written and checked here.

    Raises:
        ValueError: if there is no such format, or the backend is not TensorFlow.
        ImportError: if a package is missing.
    """
    known = " or ".join(f'"{name}"' for name in FORMATS)
    if format not in FORMATS:
        raise value_error("format", format, known, 'export(model, path, format="onnx")')
    if keras.backend.backend() != "tensorflow":
        expected = "None: other formats than the SavedModel are written on TensorFlow"
        raise value_error("format", format, expected, "KERAS_BACKEND=tensorflow")
    missing = [name for name in FORMATS[format].packages if importlib.util.find_spec(name) is None]
    if missing:
        expected = f"a format whose packages are installed; missing: {', '.join(missing)}"
        raise ImportError(message("format", format, expected, f'pip install "kwarmup[{format}]"'))


def write(folder: Path, model: keras.Model, format: str, expected: Expected) -> None:
    """Write a model in another format, and compare its outputs in a fresh process.

    Args:
        folder: where to.
        model: a model that is built.
        format: its name.
        expected: the model's inputs and outputs.

    Raises:
        ExportError: if it cannot be converted or run, or gives other outputs.
    """
    chosen = FORMATS[format]
    try:
        with warnings.catch_warnings():
            # Of converters that use what their own libraries have renamed.
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            model.export(folder / chosen.file, format=format, verbose=False)
    except Exception as error:  # Converters raise whatever they like.
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"The model cannot be converted to {chosen.file}: {why}") from error
    program = f"{inspect.getsource(chosen.program)}\n_main()\n"
    # In the order of the batch's parts, which runtimes do not keep.
    names = [spec.name or "" for spec in keras.tree.flatten(input_signature(model))]
    asked = {**inputs(expected.batch), "names": np.array(names)}
    answers, _ = ask(program, folder / chosen.file, asked, chosen.file)
    # Other kernels sum in another order.
    compare_outputs(replace(expected, tolerance=max(expected.tolerance, 1e-3)), answers, chosen.file)
