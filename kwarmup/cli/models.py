"""The network to train, its optimizer and its loss."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kwarmup.cli.data import Data
from kwarmup.cli.errors import UserError, first_line, user_error
from kwarmup.cli.functions import call

#: The optimizer and the peak that were measured for `convolutional`.
_SGD = {"learning_rate": 0.1, "momentum": 0.9}


def convolutional(shape: tuple[int, ...], classes: int, synchronized: bool = False) -> keras.Model:
    """Return a small convolutional network for images: about 30,000 weights for 8 × 8 pixels.

    Args:
        shape: height, width and channels; at least 4 × 4 pixels.
        classes: how many there are to tell apart; the outputs are their probabilities.
        synchronized: whether BatchNorm looks at the examples of all devices.
    """
    layers = [keras.Input(shape)]
    for filters, pooled in ((32, False), (32, True), (64, True)):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(synchronized=synchronized),
            keras.layers.ReLU(),
        ]
        layers += [keras.layers.MaxPooling2D()] if pooled else []
    layers += [keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(classes, "softmax")]
    return keras.Sequential(layers, name="convolutional")


def load(source: str | None, data: Data, hp: Any = None) -> keras.Model:
    """Return the network that `--model` names, or the small convolutional one, ready for the data's shape.

    Args:
        source: a path to a `.keras` file, `"module:function"`, or `None`.
        data: what it will be trained on.
        hp: the hyperparameters of keras-tuner, for a function that takes them; `None` where nothing is searched.

    Raises:
        UserError: if there is no such model, or it does not take such data.
    """
    if source is None:
        advice = "give a network with its loss: --model module:function"
        shape, classes = _image_shape(data), _classes(data, "The built-in network", advice)
        return convolutional(shape, classes, synchronized=_over_several())
    path = Path(source)
    if path.suffix == ".keras":
        model = from_file(path)
    elif ":" in source:
        model = call("--model", source, hp)
        if not isinstance(model, keras.Model):
            raise UserError(
                f"--model {source} must return a Keras model; it returned {type(model).__name__}."
            )
    else:
        raise UserError(f"There is no model {source!r}. It may be a .keras file or module:function.")
    if not model.built and isinstance(model, keras.Sequential):
        model.build((None, *data.x.shape[1:]))
    return model


def _over_several() -> bool:
    """Whether a model that is made here is one of several devices or workers."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.distribute.get_strategy().num_replicas_in_sync > 1)


def shaped(data: Data, model: keras.Model) -> Data:
    """Return the data with the shape that the model takes: an axis of one channel comes and goes.

    Raises:
        UserError: if that is not what the shapes differ in.
    """
    wanted, given = getattr(model, "input_shape", None), data.x.shape[1:]
    if wanted is None:
        return data  # A subclassed model says what it takes when it is called.
    if not isinstance(wanted, tuple) or not all(size is None or isinstance(size, int) for size in wanted):
        raise UserError(f"{model.name} takes several inputs, and {data.name} has one array of them.")
    wanted = wanted[1:]
    for shape in (given, (*given, 1), given[:-1] if given[-1:] == (1,) else given):
        if len(shape) == len(wanted) and all(w in (None, n) for w, n in zip(wanted, shape, strict=True)):
            return data.reshaped(shape)
    raise UserError(
        f"{model.name} takes examples of the shape {_shape(wanted)}, and those of {data.name} have "
        f"{_shape(given)}."
    )


def optimizer(name: str | None, model: keras.Model) -> keras.optimizers.Optimizer:
    """Return the optimizer whose learning rate the plan will replace.

    Args:
        name: a Keras optimizer; `None` for the model's own, or SGD where it has none.
        model: the network.

    Raises:
        UserError: if Keras knows none of that name.
    """
    if name is None and model.compiled:
        own = model.optimizer
        return getattr(own, "inner_optimizer", own)
    name = (name or "sgd").lower()
    found = _optimizers().get(name)
    if found is None:
        raise UserError(f"There is no optimizer {name!r}. Keras has: {', '.join(sorted(_optimizers()))}.")
    with user_error(f"--optimizer {name}: "):  # one that cannot be made without arguments
        return found(**_SGD) if name == "sgd" else found()


def default_peak(base: keras.optimizers.Optimizer) -> float:
    """Return the learning rate that an optimizer comes with.

    Raises:
        UserError: if that is a schedule.
    """
    rate = base.get_config()["learning_rate"]
    if not isinstance(rate, int | float):
        raise UserError("The model's optimizer has a schedule for a learning rate; give --peak too.")
    return float(f"{rate:.6g}")  # 0.001, not the float32 0.0010000000474974513


def accumulation(base: keras.optimizers.Optimizer) -> dict[str, int]:
    """Return the micro-batches that make an update of an optimizer, as the plan is to count them; mostly none."""
    parts = base.get_config().get("gradient_accumulation_steps")
    return {"gradient_accumulation_steps": parts} if parts else {}


def compiled(
    model: keras.Model, base: keras.optimizers.Optimizer, learning_rate: Any, data: Data
) -> keras.Model:
    """Give the model a fresh optimizer like `base` that follows `learning_rate`, and a loss if it has none.

    A model that was compiled keeps its loss and metrics. Else it is compiled for classification with
    whole-numbered labels; outputs that end in a softmax are probabilities, others logits.

    Raises:
        UserError: if it has no loss, and the labels are not whole numbers or more than its outputs.
    """
    fresh: Any = type(base).from_config({**base.get_config(), "learning_rate": learning_rate})
    if model.compiled:
        return _compiled_again(model, fresh)
    advice = "compile it in your function: model.compile(loss=..., metrics=[...])"
    classes = _classes(data, f"{model.name} has no loss, and for classification", advice)
    outputs = getattr(model, "output_shape", None)
    if isinstance(outputs, tuple) and (len(outputs) != 2 or (outputs[-1] or classes) < classes):
        raise UserError(
            f"{model.name} has outputs of the shape {_shape(outputs[1:])}, and {data.name} has {classes} "
            f"classes; give it {classes} outputs, or {advice}."
        )
    last = getattr(model.layers[-1], "activation", None) if model.layers else None
    probabilities = last is keras.activations.softmax or isinstance(model.layers[-1], keras.layers.Softmax)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not probabilities)
    model.compile(fresh, loss, metrics=["accuracy"])
    return model


def _compiled_again(model: keras.Model, fresh: keras.optimizers.Optimizer) -> keras.Model:
    """Give a compiled model another optimizer; set alone, it would not be the one that `save` describes."""
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        fresh = keras.optimizers.LossScaleOptimizer(fresh)
    config = {**model.get_compile_config(), "optimizer": keras.saving.serialize_keras_object(fresh)}
    try:
        model.compile_from_config(config)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The loss and metrics of {model.name} cannot be made anew: {first_line(error)}\n"
            "Put @keras.saving.register_keras_serializable() above those of your own."
        ) from error
    return model


def from_file(path: Path) -> keras.Model:
    """Return the model in a `.keras` file.

    Raises:
        UserError: if there is none, or it cannot be loaded.
    """
    if not path.exists():
        raise UserError(f"There is no file {path}.")
    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras raises whatever its layers raise.
        raise UserError(
            f"{path} cannot be loaded: {first_line(error)}\n"
            "If it holds layers of your own, load it in a function that imports them: "
            "--model module:function."
        ) from error


def _classes(data: Data, what: str, advice: str) -> int:
    labels = data.y
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape[1:] not in ((), (1,)):
        raise UserError(
            f"{what} needs one whole number for each label; those of {data.name} are {labels.dtype} of the "
            f"shape {_shape(labels.shape[1:])}; {advice}."
        )
    least = min(labels.min(), data.y_validation.min())
    if least < 0:
        raise UserError(f"Labels count from 0, and {data.name} has the label {least}.")
    return int(max(labels.max(), data.y_validation.max())) + 1


def _image_shape(data: Data) -> tuple[int, ...]:
    shape = data.x.shape[1:]
    shape = (*shape, 1) if len(shape) == 2 else shape
    if len(shape) != 3 or min(shape[:2]) < 4:
        raise UserError(
            f"The built-in network takes images of at least 4 × 4 pixels, and those of {data.name} have the "
            f"shape {_shape(data.x.shape[1:])}; give a network for them: --model module:function."
        )
    return shape


def _shape(shape: tuple[int | None, ...]) -> str:
    return " × ".join("any" if size is None else str(size) for size in shape) or "single numbers"


def _optimizers() -> dict[str, type[keras.optimizers.Optimizer]]:
    base, wrapper = keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer
    return {
        name.lower(): value
        for name, value in vars(keras.optimizers).items()
        if inspect.isclass(value) and issubclass(value, base) and value not in (base, wrapper)
    }
