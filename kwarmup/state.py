"""What there is to keep of a training: variables, the callbacks' own state, and what it was a training of."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

from kwarmup.errors import Code, value_error

Arrays = dict[str, np.ndarray]

# Types that numpy's files do not know are stored as their bytes.
_AS_BYTES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")


def variables(model: keras.Model) -> dict[str, list[Any]]:
    """Return a built and compiled model's variables by what they are."""
    return {
        # `save_weights` leaves out the states of random generators, so dropout would not go on as it was.
        "model": list(model.variables),
        "optimizer": list(model.optimizer.variables),
        "metrics": list(model.metrics_variables),
    }


def take(groups: dict[str, list[Any]]) -> Arrays:
    """Return the values of variables, by group and number."""
    return {
        f"{group}/{index}": _stored(ops.convert_to_numpy(variable))
        for group, members in groups.items()
        for index, variable in enumerate(members)
    }


def put(groups: dict[str, list[Any]], arrays: Arrays) -> None:
    """Assign stored values to variables.

    Raises:
        ValueError: if there are more or fewer variables than were stored.
    """
    for group, members in groups.items():
        stored = sum(name.startswith(f"{group}/") for name in arrays)
        if stored != len(members):
            raise value_error(
                "model",
                Code(f"{len(members)} {group} variables"),
                f"the {stored} that the checkpoint holds",
                "the model that the checkpoint was made with, or another checkpoint_dir",
            )
    for group, members in groups.items():
        for index, variable in enumerate(members):
            variable.assign(_restored(arrays[f"{group}/{index}"], variable))


def _stored(value: np.ndarray) -> np.ndarray:
    return np.frombuffer(value.tobytes(), "uint8") if value.dtype.name in _AS_BYTES else value


def _restored(value: np.ndarray, variable: Any) -> np.ndarray:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if dtype not in _AS_BYTES:
        return value
    import ml_dtypes

    return np.frombuffer(value.tobytes(), getattr(ml_dtypes, dtype)).reshape(variable.shape)


def take_callbacks(callbacks: list[keras.callbacks.Callback]) -> tuple[list[Any], Arrays]:
    """Return the state of callbacks, plain values and arrays apart.

    Keras gives callbacks no way to hand out their state, but they keep it in plain attributes: numbers,
    words, arrays, variables, and lists and dictionaries of these. Everything else is left out.
    """
    arrays: Arrays = {}
    states = []
    for number, callback in enumerate(callbacks):
        state = {}
        for name, value in vars(callback).items():
            if name not in ("model", "_model", "params", "validation_data"):
                packed = _pack(value, f"callbacks/{number}/{name}", arrays)
                if packed is not None:
                    state[name] = packed
        states.append({"class": type(callback).__name__, "state": state})
    return states, arrays


def put_callbacks(callbacks: list[keras.callbacks.Callback], states: list[Any], arrays: Arrays) -> None:
    """Give callbacks back the state that `take_callbacks` took.

    Raises:
        ValueError: if they are other callbacks.
    """
    now, then = [type(callback).__name__ for callback in callbacks], [state["class"] for state in states]
    if now != then:
        raise value_error(
            "callbacks",
            Code(", ".join(now)),
            f"those of the checkpoint, {', '.join(then)}",
            "the same callbacks in the same order, or another checkpoint_dir",
        )
    for callback, state in zip(callbacks, states, strict=True):
        for name, packed in state["state"].items():
            value = _unpack(packed, arrays)
            present = getattr(callback, name, None)
            if isinstance(present, keras.Variable):
                present.assign(_restored(value, present))
            else:
                setattr(callback, name, value)


def _pack(value: Any, name: str, arrays: Arrays) -> Any:
    """A value as JSON with arrays named; `None` for what cannot be kept."""
    if isinstance(value, keras.Variable):
        value = ops.convert_to_numpy(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufV":
        arrays[name] = _stored(value)
        return {"array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{name}/{index}", arrays) for index, item in enumerate(value)]
        return None if None in items else {type(value).__name__: items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        entries = {key: _pack(item, f"{name}/{key}", arrays) for key, item in value.items()}
        return None if None in entries.values() else {"dict": entries}
    return None


def _unpack(packed: Any, arrays: Arrays) -> Any:
    ((kind, value),) = packed.items()
    if kind == "array":
        return arrays[value]
    if kind == "dict":
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if kind in ("list", "tuple"):
        items = [_unpack(item, arrays) for item in value]
        return items if kind == "list" else tuple(items)
    return value


def model_facts(model: keras.Model) -> dict[str, Any]:
    """Return what makes a compiled model the same one: layers, shapes, types, and the optimizer's settings."""
    config = model.optimizer.get_config()
    inner = config.pop("inner_optimizer", {})
    settings = {
        key: value
        for key, value in {**(inner.get("config", inner) if inner else {}), **config}.items()
        if key not in ("name", "learning_rate") and isinstance(value, bool | int | float | str)
    }
    return {
        # Names count up within a process, so that the second model of a program has other ones.
        "layers": [type(layer).__name__ for layer in model.layers],
        "variables": [[list(v.shape), keras.backend.standardize_dtype(v.dtype)] for v in model.variables],
        "optimizer": type(model.optimizer).__name__,
        "settings": settings,
    }


def data_facts(x: Any, y: Any, sample_weight: Any) -> Any:
    """Return what makes data the same: for arrays their shapes and contents, else only the type."""
    facts: list[Any] = []
    for part in keras.tree.flatten((x, y, sample_weight)):
        if hasattr(part, "__array__") and not isinstance(part, str):
            array = np.ascontiguousarray(part)
            facts.append([list(array.shape), array.dtype.name, zlib.crc32(array.view("uint8").reshape(-1).data)])
        else:
            facts.append(type(part).__name__)
    return facts


def differences(then: Any, now: Any, name: str = "") -> list[str]:
    """Return a line for each value that differs between two structures of plain data."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            line
            for key in dict.fromkeys([*then, *now])
            for line in differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if then == now else [f"{name}: {then!r} in the checkpoint, {now!r} now"]
