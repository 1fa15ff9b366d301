"""kwarmup: which batch size and learning rate to use, and how both should move during training."""

import importlib
from typing import Any

from kwarmup import shapes

#: Every public name and the module it lives in. Modules are imported when a name is first used,
#: so that profiles can be written, shown and plotted without waiting for TensorFlow.
_HOMES = {
    "Clock": "clock",
    "Curve": "curve",
    "Phase": "profile",
    "Profile": "profile",
    "Schedule": "schedule",
    "cosine": "verbs",
    "curve": "verbs",
    "decay": "verbs",
    "exponential": "verbs",
    "hold": "verbs",
    "linear": "verbs",
    "polynomial": "verbs",
    "warmup": "verbs",
}

__version__ = "0.1.0"
__all__ = sorted([*_HOMES, "shapes"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kwarmup' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kwarmup.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _adapt(thing: Any) -> Any:
    # Keras is imported only once somebody puts an object of another library behind `>>`.
    return importlib.import_module("kwarmup.schedule").adapt(thing)


shapes.ADAPTERS.append(_adapt)
