"""What a training is of: model and data as plain facts, and in which of them two trainings differ."""

from __future__ import annotations

import contextlib
import reprlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from kwarmup.optimizers.hyperparameter import Scheduling
from kwarmup.scaled import unscaled
from kwarmup.schedule import Schedule
from kwarmup.state import fingerprint


def of_model(model: keras.Model) -> dict[str, Any]:
    """Return what makes a compiled model the same one: its layers, loss, metrics and optimizer, with settings.

    Works on a model that is not built yet; the shapes of variables are compared where they are restored.
    """
    inner: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    settings = {**_config(inner.get_config), **_config(model.optimizer.get_config)}
    settings.pop("inner_optimizer", None)
    if isinstance(unscaled(model.optimizer), Schedule):
        settings.pop("learning_rate", None)  # that is the plan's, which is compared by itself
    if isinstance(inner, Scheduling):
        # As their author wrote them; `guard` compares their clocks with the plan's.
        settings |= {name: repr(schedule.profile) for name, schedule in inner.schedules.items()}
    compiled = _config(model.get_compile_config)
    return {
        "layers": [_layer(layer) for layer in _leaves(model)],
        **{name: compiled.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")},
        "optimizer": {
            "class": ", ".join(dict.fromkeys([type(model.optimizer).__name__, type(inner).__name__]))
        },
        "settings": settings,
    }


def of_training(
    trained_by: str,
    data: tuple[Any, ...],
    seed: int | None,
    callbacks: Iterable[keras.callbacks.Callback],
    class_weight: Any = None,
) -> dict[str, Any]:
    """Return what must be the same for a training to go on, beside plan and model."""
    return {
        "trained by": trained_by,
        "backend": keras.backend.backend(),
        "data": of_data(*data),
        "seed": plain(seed),
        "class_weight": plain(class_weight),
        "callbacks": ", ".join(type(callback).__name__ for callback in callbacks),
    }


def of_data(*parts: Any) -> list[Any]:
    """Return what makes data the same: for arrays shapes and contents, else the type of what yields it."""
    facts = []
    for part in keras.tree.flatten(parts):
        if hasattr(part, "__array__") and not isinstance(part, str):
            array = np.asarray(part)
            words = np.array(repr(array.tolist())) if array.dtype.hasobject else array
            facts.append(
                {"shape": str(array.shape), "type": array.dtype.name, "contents": f"{fingerprint(words):08x}"}
            )
        elif hasattr(part, "element_spec"):  # a tf.data.Dataset, whose class tells only its last operation
            facts.append({"type": "Dataset", "elements": str(part.element_spec)})
        else:
            facts.append({"type": type(part).__name__})
    return facts


def plain(value: Any) -> Any:
    """Return a value as plain data for JSON; of what is none, only the type."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "lambda"  # its code holds the number of the line it stands in
        # Names count up within a process. A type policy is nothing but a name, and keeps it.
        return {str(k): plain(item) for k, item in value.items() if k != "name" or len(value) == 1}
    return type(value).__name__


def differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield a line for each value that differs between two structures of plain data."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*then, *now]):
            yield from differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(then, list) and isinstance(now, list):
        if len(then) != len(now):
            yield f"{name}: {len(then)} in the checkpoint, {len(now)} now"
        for index, (old, new) in enumerate(zip(then, now, strict=False)):
            yield from differences(old, new, f"{name}.{index}")
    elif then != now:
        yield f"{name}: {_SHORT.repr(then)} in the checkpoint, {_SHORT.repr(now)} now"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def _leaves(model: Any) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        # A model as a layer: its own config is full of names.
        yield from _leaves(layer) if hasattr(layer, "layers") else [layer]


def _layer(layer: keras.layers.Layer) -> dict[str, Any]:
    config = _config(layer.get_config)
    if "synchronized" in config:
        # Over how many devices a layer looks is no more a fact of a training than how many there are.
        config["synchronized"] = False
    return {"class": type(layer).__name__, **config}


def _config(get: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    # Layers and losses of one's own need not have a config, and Keras warns of functions in one.
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        found: dict[str, Any] = plain(get())
        return found
    return {}
