"""The examples of a study, and the metric that it follows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kwarmup.errors import Code, value_error

#: Validation examples that a look at the model takes, and examples of each kind at the end.
_FEW, _MANY = 1_000, 10_000
#: Words in the names of metrics of which more is better.
_MORE = ("acc", "auc", "precision", "recall", "f1", "iou", "r2", "hits")


class Data:
    """Training and validation examples as arrays, and what is measured on them.

    Args:
        x: arrays in any nesting.
        y: targets.
        validation_data: `(x, y)`; `None` holds out a fifth of the examples, drawn at random.
        monitor: the metric to follow; `None` for the first that the model was compiled with, or the loss.
    """

    def __init__(self, x: Any, y: Any, validation_data: Any = None, monitor: str | None = None):
        x, y = (keras.tree.map_structure(np.asarray, part) for part in (x, y))
        self.held_out = validation_data is None
        if validation_data is None:
            order = np.random.default_rng(0).permutation(_length(x))
            cut = max(1, len(order) // 5)
            validation_data, (x, y) = _take((x, y), order[:cut]), _take((x, y), order[cut:])
        elif not isinstance(validation_data, tuple) or len(validation_data) != 2:
            raise value_error(
                "validation_data", Code(f"a {type(validation_data).__name__}"), "a pair of arrays, (x, y)",
                "study(build, x, y, validation_data=(x_validation, y_validation))",
            )  # fmt: skip
        self.x, self.y = x, y
        self.validation = keras.tree.map_structure(np.asarray, tuple(validation_data))
        self.examples, self.validation_examples = _length(x), _length(self.validation[0])
        for name, part in (("x", x), ("y", y), ("validation_data", self.validation)):
            _check_finite(name, part)
        self.monitor = monitor
        draw = np.random.default_rng(1)
        many = [min(_MANY, self.examples, self.validation_examples)] * 2
        counts = [min(_FEW, self.validation_examples), *many]
        self.few_validated = _take(self.validation, draw.permutation(self.validation_examples)[: counts[0]])
        self._ends = (
            _take((x, y), draw.permutation(self.examples)[: counts[1]]),
            _take(self.validation, draw.permutation(self.validation_examples)[: counts[2]]),
        )

    @property
    def sign(self) -> float:
        """1 where more of the metric is better, -1 where less is."""
        return 1.0 if any(word in (self.monitor or "loss").lower() for word in _MORE) else -1.0

    def few(self) -> Any:
        """Return a few examples, to build a model with."""
        return _take((self.x, self.y), np.arange(1))

    def check(self, model: keras.Model) -> tuple[float, float]:
        """Return the loss and the metric on some validation examples."""
        found = _evaluate(model, self.few_validated)
        if self.monitor is None:
            self.monitor = next((name for name in found if name != "loss"), "loss")
        name = self.monitor.removeprefix("val_")
        if name not in found:
            raise value_error(
                "monitor", self.monitor, f"one of {', '.join(map(repr, found))}", 'study(..., monitor="loss")'
            )
        return found["loss"], found[name]

    def at_the_end(self, model: keras.Model) -> tuple[float, float]:
        """Return the metric on training and on validation examples, as many of each."""
        assert self.monitor is not None
        name = self.monitor.removeprefix("val_")
        training, validation = (_evaluate(model, part)[name] for part in self._ends)
        return training, validation


def _evaluate(model: keras.Model, data: Any) -> dict[str, float]:
    size = min(500, _length(data[0]))
    found = model.evaluate(*data, batch_size=size, verbose=0, return_dict=True)
    return {name: float(value) for name, value in found.items()}


def _check_finite(name: str, part: Any) -> None:
    # All trainings would diverge, and the whole budget would go into finding that out.
    for array in keras.tree.flatten(part):
        bad = np.count_nonzero(~np.isfinite(array)) if array.dtype.kind == "f" else 0
        if bad:
            raise value_error(
                name, Code(f"{bad:,} of {array.size:,} values that are NaN or infinite"), "finite numbers",
                "x = np.nan_to_num(x), or leave those examples out",
            )  # fmt: skip


def _length(x: Any) -> int:
    return len(keras.tree.flatten(x)[0])


def _take(data: Any, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda array: array[rows], data)
