"""What there is to keep of a training: the values of variables, and the callbacks' own state."""

from __future__ import annotations

import collections
import contextlib
import copy
import json
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import ml_dtypes
import numpy as np
from keras import ops

from kwarmup.errors import Code, value_error

Arrays = dict[str, np.ndarray]

# Types that numpy's files do not know are stored as whole numbers of the same size.
_AS_NUMBERS = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
# What Keras gives a callback anew.
_GIVEN = ("model", "_model", "params", "validation_data")
_CONTAINERS = {"list": list, "tuple": tuple, "set": set, "dict": dict, "deque": collections.deque}


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
    """Assign stored values to variables, to all of them or to none.

    Raises:
        ValueError: if they are other variables than those that were stored.
    """
    pairs = []
    for group, members in groups.items():
        stored = sum(name.startswith(f"{group}/") for name in arrays)
        if stored != len(members):
            raise _other(f"{len(members)} {group} variables", f"{stored}")
        for index, variable in enumerate(members):
            value = _restored(arrays[f"{group}/{index}"], keras.backend.standardize_dtype(variable.dtype))
            if value.shape != tuple(variable.shape):
                raise _other(
                    f"{group} variable {variable.path} of shape {tuple(variable.shape)}", f"{value.shape}"
                )
            pairs.append((variable, value))
    for variable, value in pairs:
        variable.assign(value)


def take_generators() -> Arrays:
    """Return where the random generators stand that no variable of a model holds: torch's own, on torch.

    Keras's dropout without a seed draws from those there, and torch's data loader does when it begins to read.
    """
    if keras.backend.backend() != "torch":
        return {}
    import torch

    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return {f"generators/{index}": state.numpy() for index, state in enumerate(states)}


def put_generators(arrays: Arrays) -> None:
    """Bring random generators to where they stood; those of devices that are not there are left out."""
    stored = [
        arrays[f"generators/{n}"] for n in range(sum(name.startswith("generators/") for name in arrays))
    ]
    if not stored or keras.backend.backend() != "torch":
        return
    import torch

    torch.set_rng_state(torch.from_numpy(stored[0]))
    for device, state in enumerate(stored[1 : 1 + torch.cuda.device_count()]):
        torch.cuda.set_rng_state(torch.from_numpy(state), device)


def _other(received: str, stored: str) -> ValueError:
    return value_error(
        "model",
        Code(received),
        f"{stored}, as the checkpoint holds",
        "the model that the checkpoint was made with, or another checkpoint_dir",
    )


def _stored(value: np.ndarray) -> np.ndarray:
    return value.view(f"uint{8 * value.itemsize}") if value.dtype.name in _AS_NUMBERS else value


def _restored(value: np.ndarray, dtype: str) -> np.ndarray:
    # torch hands these types out as float32, which is stored as it is.
    stored = dtype in _AS_NUMBERS and value.dtype.kind == "u"
    return value.view(getattr(ml_dtypes, dtype)) if stored else value


class CallbackStates:
    """The state of callbacks: the attributes that have changed since their training began.

    Keras gives callbacks no way to hand out their state, but they keep it in plain attributes: numbers,
    words, arrays, variables, functions of modules, and containers of these. What never changes is not state
    but how the callback was made (a path, a patience); there the callback that is given now is right.

    Args:
        callbacks: behind their `on_train_begin`.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback]):
        # The progress bar draws anew, and need not be there when training goes on.
        self._callbacks = [c for c in callbacks if not isinstance(c, keras.callbacks.ProgbarLogger)]
        self._begun = [{name: _print(value) for name, value in _attributes(c)} for c in self._callbacks]
        self._changed: list[set[str]] = [set() for _ in self._callbacks]

    def take(self) -> tuple[list[Any], Arrays]:
        """Return the states, plain values and arrays apart."""
        arrays: Arrays = {}
        states = []
        for callback, begun, changed in zip(self._callbacks, self._begun, self._changed, strict=True):
            changed |= {
                n for n, value in _attributes(callback) if n not in changed and _print(value) != begun.get(n)
            }
            state = {name: _pack(value, arrays) for name, value in _attributes(callback) if name in changed}
            states.append(
                {
                    "class": type(callback).__name__,
                    "state": {n: packed for n, packed in state.items() if packed},
                }
            )
        return states, arrays

    def put(self, states: list[Any], arrays: Arrays) -> None:
        """Give each callback the state of the one of its class, the first of the first and so on."""
        waiting: dict[str, list[Any]] = {}
        for entry in states:
            waiting.setdefault(entry["class"], []).append(entry["state"])
        for callback, changed in zip(self._callbacks, self._changed, strict=True):
            found = waiting.get(type(callback).__name__)
            for name, packed in (found.pop(0) if found else {}).items():
                changed.add(name)
                setattr(callback, name, _unpack(packed, arrays, vars(callback).get(name)))


def _attributes(callback: keras.callbacks.Callback) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in vars(callback).items() if name not in _GIVEN)


def _print(value: Any) -> int:
    """A fingerprint of what would be kept."""
    arrays: Arrays = {}
    text = json.dumps(_pack(value, arrays))
    return hash((text, *(fingerprint(array) for array in arrays.values())))


def fingerprint(array: np.ndarray) -> int:
    """Return a number that depends on each byte of an array."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view("uint8").data)


def _pack(value: Any, arrays: Arrays) -> Any:
    """Return a value as JSON, its arrays put aside; `None` for what cannot be kept."""
    # An attribute may be anything, a tensor without a value or a list that holds itself among it.
    with contextlib.suppress(Exception):
        return _packed(value, arrays)
    return None


class _CannotBeKept(Exception):
    pass


def _packed(value: Any, arrays: Arrays) -> dict[str, Any]:
    if isinstance(value, keras.Variable):
        return {"variable": _array(ops.convert_to_numpy(value), arrays)}
    if ops.is_tensor(value) and not hasattr(value, "assign"):
        return {"tensor": _array(ops.convert_to_numpy(value), arrays)}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {"array": _array(value, arrays)}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    for kind, container in _CONTAINERS.items():
        if isinstance(value, container):
            items = value.items() if kind == "dict" else value
            return {kind: [_packed(item, arrays) for item in items]}
    if callable(value) and _function(value.__module__, value.__qualname__) is value:
        return {"function": [value.__module__, value.__qualname__]}
    raise _CannotBeKept


def _array(value: np.ndarray, arrays: Arrays) -> list[str]:
    name = f"callbacks/{len(arrays)}"
    arrays[name] = _stored(value)
    return [name, value.dtype.name]


def _unpack(packed: dict[str, Any], arrays: Arrays, present: Any = None) -> Any:
    ((kind, value),) = packed.items()
    if kind in ("array", "tensor", "variable"):
        name, dtype = value
        array = _restored(arrays[name], dtype)
        if kind == "variable" and isinstance(present, keras.Variable):
            present.assign(array)  # the step that is compiled knows this one
            return present
        if kind == "array":
            return array
        return keras.Variable(array) if kind == "variable" else ops.convert_to_tensor(array)
    if kind == "function":
        return _function(*value)
    if kind not in _CONTAINERS:
        return value
    same = isinstance(present, list | tuple) and len(present) == len(value)
    items = [_unpack(item, arrays, present[n] if same else None) for n, item in enumerate(value)]
    if kind == "tuple" or not isinstance(present, _CONTAINERS[kind]):
        return _CONTAINERS[kind](items)
    # A copy of the one that is there knows how it was made: a default factory, a greatest length.
    new = copy.copy(present)
    new.clear()
    new.update(items) if kind in ("dict", "set") else new.extend(items)
    return new


def _function(module: str, name: str) -> Any:
    # Only what the program has imported by itself: a checkpoint runs nothing.
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
