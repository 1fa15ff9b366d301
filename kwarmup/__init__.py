"""kwarmup: which batch size and learning rate to use, and how both should move during training.

The public names stand in `__init__.pyi`. A module is imported when a name of it is first used, so that
profiles can be written, shown and plotted without waiting for Keras and TensorFlow.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

from kwarmup import shapes  # noqa: E402  (a public module, and the one that floor 1 is extended through)


class _Package(ModuleType):
    """Keeps `kwarmup.curve` the function when something imports the module `kwarmup.curve`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType) and name not in ("distribute", "shapes"):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


# Keras is imported only once somebody puts a schedule of it behind `>>`, or reads one from JSON.
def _adapt(thing: Any) -> Any:
    return importlib.import_module("kwarmup.schedule").adapt(thing)


def _keras_schedule(schedule: dict[str, Any]) -> Any:
    return importlib.import_module("kwarmup.schedule").keras_schedule(schedule)


shapes.ADAPTERS.append(_adapt)
shapes.register(_keras_schedule, "keras_schedule", factory=True)

# A model is only loaded where its schedule and optimizer have been registered. With `import keras` in front
# that has happened here; without Keras there is nothing to load yet, and nothing to wait for.
if "keras" in sys.modules:
    importlib.import_module("kwarmup.gained")
    importlib.import_module("kwarmup.optimizers")
    importlib.import_module("kwarmup.scaled")
    importlib.import_module("kwarmup.schedule")
