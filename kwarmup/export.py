"""Write a trained model for serving: a numbered version, complete and checked, or none."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kwarmup.errors import Code, type_error, value_error
from kwarmup.plan import Plan
from kwarmup.private import build
from kwarmup.saved_model import archive, documents, formats, one_device, versions
from kwarmup.saved_model.check import Expected, check
from kwarmup.saved_model.rates import rate_of
from kwarmup.saved_model.versions import ExportError

__all__ = ["ExportError", "export"]

_EXAMPLE = 'export(model, "saved_models/digits")'
SIGNATURES = "signatures.json"


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    plan: Plan | None = None,
    history: keras.callbacks.History | Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    batch: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    preprocess: Callable[[Any], Any] | None = None,
    trainable: bool = False,
    targets: Any = None,
    format: str | None = None,
) -> Path:
    """Write the next numbered version of a model, as TensorFlow Serving expects them, and check it.

    A version `path/1`, `path/2`, … is a SavedModel with the whole model beside it as `model.keras`. Its
    endpoints take batches of any size, and need neither Keras nor kwarmup:

    - `serve(inputs)`: the model's outputs;
    - `classify(inputs)`, with `class_names`: the `class_name` of the largest output, and its `score`;
    - `learning_rate(step)`, where there is a plan or the optimizer has a schedule: at updates of any shape;
    - `train_step(inputs, targets)`, with `trainable`: one update by the model's own optimizer, which goes on
      counting where it stood; returns loss and metrics of the batch, and the learning rate that was used.

    In its assets are `provenance.json` and `versions.json`, what the model is and which packages it was made with,
    and what was given of `plan.json`, `history.json`, `metrics.json` and `class_names.json`.

    It is written beside its place and renamed, so no half-written version ever stands under a number. Before
    that, a fresh process in which neither Keras nor kwarmup can be imported loads it; its outputs are compared
    with `model.predict`, its learning rates with the plan's at a hundred updates, its endpoints are listed in
    `signatures.json`, and `train_step` makes an update of its copy. Of a model on several replicas the first
    is written, and the outputs are compared with that one's: moving averages differ between replicas.

    Args:
        model: a Keras model that is built.
        path: the folder of the versions; made if it is not there.
        plan: the plan that the model was trained by.
        history: what `fit` returned, or its lists by name.
        metrics: numbers by name; NaN and infinity become null.
        batch: inputs for the check, as for `predict`; with `preprocess`, as it takes them. Made up where the
            model tells its inputs and only the batch size is open.
        class_names: a name for each output of a model with one output for each class.
        preprocess: a function of tensors or a Keras layer that makes the model's inputs of raw ones; it becomes
            a part of `serve`, not of `train_step`.
        trainable: whether training can go on from the SavedModel; needs `targets`.
        targets: targets for a batch, as for `fit`; their shape and type become those of `train_step`.
        format: another format to write the model in too, beside the SavedModel: `"onnx"` (`model.onnx`, with
            the extra `kwarmup[onnx]`) or `"litert"` (`model.tflite`, with `kwarmup[litert]`). It is checked in a
            fresh process with its own runtime and without TensorFlow.

    Returns:
        The folder of the new version.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if the backend is neither TensorFlow nor JAX beside it, the model is not built, there is a
            file at `path`, no batch can be made up, the plan has a shape that cannot be written, the number of
            class names is not that of the outputs, the model cannot train, or there is no such format.
        ExportError: if the SavedModel cannot be loaded or answers other than the model; the older versions
            stay, and what was written is left in a folder that the message names.
        ImportError: if a package of the format is not installed.
        OSError: if the disk is full or may not be written; the older versions stay.

    Example:

    >>> import keras, tempfile
    >>> from kwarmup import export
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> version = export(model, tempfile.mkdtemp())
    >>> version.name, (version / "saved_model.pb").exists(), (version / "model.keras").exists()
    ('1', True, True)
    """
    _refuse(model, trainable, targets)
    if format is not None:
        formats.refuse(format)
    if batch is None:
        batch = _example_batch(model, preprocess is not None)
    rate = rate_of(model, plan, trainable)
    texts = documents.texts(
        {
            "plan": None if plan is None else plan.to_dict(),
            "history": None if history is None else dict(getattr(history, "history", history)),
            "metrics": None if metrics is None else dict(metrics),
            "versions": documents.versions(),
            "provenance": documents.provenance(model),
            "class_names": None if class_names is None else list(class_names),
        }
    )
    inputs = batch if preprocess is None else _inputs(preprocess, batch)
    if trainable:
        build(model, (inputs, targets))
    elif (
        isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer)
        and not model.optimizer.built
    ):
        # As `fit` would begin: Keras cannot load what it saves of an optimizer without its variables.
        model.optimizer.build(model.trainable_variables)
    with versions.unfinished(Path(path)) as folder:
        model.save(folder / versions.MODEL)
        outputs = one_device.outputs(model, inputs)
        _check_class_names(class_names, outputs)
        if trainable:
            model = one_device.trainable(model, folder / versions.MODEL, (inputs, targets))
        endpoints = one_device.outside_of_scopes(
            archive.write,
            folder,
            model,
            texts,
            rate=None if rate is None else rate.at,
            raw=batch,
            preprocess=preprocess,
            class_names=class_names,
            targets=targets if trainable else None,
        )
        expected = Expected(
            batch,
            outputs,
            _tolerance(model),
            endpoints,
            steps=None if rate is None else rate.steps,
            rates=None if rate is None else rate.expected,
            targets=targets if trainable else None,
        )
        signatures = check(folder, expected)
        (folder / SIGNATURES).write_text(json.dumps(signatures, indent=2) + "\n", encoding="utf-8")
        if format is not None:
            formats.write(folder, model, format, replace(expected, batch=inputs))
        return versions.number(folder)


def _refuse(model: Any, trainable: bool, targets: Any) -> None:
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax") or importlib.util.find_spec("tensorflow") is None:
        raise value_error(
            "model",
            Code(f"a model of the {backend} backend"),
            "the TensorFlow backend, or JAX with TensorFlow installed, which alone write a SavedModel",
            "KERAS_BACKEND=tensorflow, and load the weights from a .keras file",
        )
    if not isinstance(model, keras.Model):
        raise type_error("model", model, "a Keras model", _EXAMPLE)
    if not model.built:
        raise value_error("model", Code(f"{model.name}, not built"), "a built model", "model.build(shape)")
    if not trainable:
        return
    if backend != "tensorflow":
        raise value_error(
            "trainable",
            Code(f"True, on the {backend} backend"),
            "False, since a training step is written on TensorFlow alone",
            "KERAS_BACKEND=tensorflow, and load the model from its .keras file",
        )
    if not model.compiled or model.optimizer is None:
        raise value_error(
            "model",
            Code(f"{model.name}, not compiled"),
            "a compiled model, so that it can train on",
            "model.compile(SGD(plan.learning_rate), loss=...)",
        )
    if targets is None:
        raise value_error(
            "targets",
            None,
            "a batch of targets, whose shape and type `train_step` will take",
            "export(model, path, batch=x[:8], targets=y[:8], trainable=True)",
        )


def _check_class_names(class_names: Sequence[str] | None, outputs: Any) -> None:
    if class_names is None:
        return
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != len(class_names):
        raise value_error(
            "class_names",
            Code(f"{len(class_names)} names, for outputs of the shape {shape or 'of several'}"),
            "as many as the model has outputs, one for each class",
            'export(model, path, class_names=["cat", "dog"])',
        )


def _inputs(preprocess: Callable[[Any], Any], batch: Any) -> Any:
    made = preprocess(keras.tree.map_structure(keras.ops.convert_to_tensor, batch))
    return keras.tree.map_structure(keras.ops.convert_to_numpy, made)


def _tolerance(model: keras.Model) -> float:
    """What rounding may do: little in float32 on one kind of device, more in half precision or on two."""
    import tensorflow as tf

    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers)
    return 2e-2 if half or tf.config.list_physical_devices("GPU") else 1e-4


def _example_batch(model: keras.Model, raw: bool) -> Any:
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else getattr(model, "input", None)
    shapes = [part.shape for part in keras.tree.flatten(inputs)] if inputs is not None else []
    if raw or not shapes or any(size is None for shape in shapes for size in shape[1:]):
        known = (
            "raw inputs for preprocess"
            if raw
            else f"inputs of the shapes {shapes}"
            if shapes
            else "a model that does not say what its inputs are"
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
