"""A progress bar with learning rate and batch size in it, and a line for each epoch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import keras

from kwarmup import applied

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


#: Columns of a terminal from which the bar has the time left and the loss beside it, and the batch size too.
_WIDE, _WIDER = 76, 100


@dataclass
class _Screen:
    """What is shown of one training.

    An object of its own: plain attributes of a callback are kept with a checkpoint, but a training that goes
    on does so on another screen, by a clock that began elsewhere.
    """

    bar: Bar | None = None
    looked: float = 0.0
    epoch: int = 0
    columns: tuple[str, ...] = ()


@final
class Progress(keras.callbacks.Callback):
    """Shows where a training is: a bar with time left, learning rate and loss, and a table of the epochs.

    Use it in place of Keras's own bar: `model.fit(..., verbose=0, callbacks=[Progress()])`. Where the
    output is not a terminal (a file, a pipe) only the lines of the epochs are written.

    Args:
        console: the rich console to write to; `None` for standard output.
        seconds: least time between two looks at the learning rate and at the screen.

    Learning rate and batch size are those of the last update, as `Record` has them; the batch size is shown
    where it moves. The bar counts passes over the data, so it keeps its pace when the batch grows.

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import Progress, Schedule, warmup
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    >>> model.compile(keras.optimizers.SGD(Schedule(warmup(steps=8))), "mse")
    >>> x = np.ones((4, 1))
    >>> history = model.fit(x, 0 * x, batch_size=1, epochs=2, verbose=0, callbacks=[Progress()])
    epoch      loss  learning rate
      1/2    0.0000         0.3750
      2/2    0.0000         0.8750
    """

    def __init__(self, console: Console | None = None, seconds: float = 0.1):
        super().__init__()
        self._console = console
        self._seconds = seconds
        self._screen = _Screen()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        from rich.console import Console

        self._console = self._console or Console(soft_wrap=True)
        self._screen = _Screen(self._start(self._console))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._screen.epoch = epoch
        self._show(0, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The learning rate and the screen cost as much as a small training step: not at every one.
        if time.monotonic() - self._screen.looked >= self._seconds:
            self._show(batch + 1, logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        bar = self._screen.bar
        if bar is not None:
            bar.update(bar.task_ids[0], text="validation")
            bar.refresh()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert self._console is not None
        recorded = ("learning_rate", "batch_size")
        values = {name: value for name, value in (logs or {}).items() if name not in recorded}
        values["learning rate"] = applied.learning_rate(self.model.optimizer)
        batch_size = applied.batch_size(self.model.optimizer)
        if batch_size is not None:
            values["batch size"] = batch_size
        epochs = f"{epoch + 1}/{self.params['epochs']}"
        width = max(5, 2 * len(str(self.params["epochs"])) + 1)
        if not self._screen.columns:
            self._screen.columns = _fitting(values, width, self._console.width)
            self._print("epoch".rjust(width), self._screen.columns)
        self._print(epochs.rjust(width), [_cell(name, values.get(name)) for name in self._screen.columns])
        self._show(self.params["steps"] or 0, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar from the screen. Call it where an exception may have ended the training."""
        if self._screen.bar is not None:
            self._screen.bar.stop()
            self._screen.bar = None

    def _start(self, console: Console) -> Bar | None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        if not console.is_terminal or console.is_dumb_terminal:
            return None
        epochs = self.params["epochs"]
        # What the words need, and three columns more: the ^C of a terminal must not begin a new line.
        words = 34 + 2 * len(str(epochs)) + 26 * (console.width >= _WIDE)
        words += 20 * (console.width >= _WIDER and applied.batch_size(self.model.optimizer) is not None)
        columns = [
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=max(4, min(40, console.width - words))),
            *([TaskProgressColumn(), TimeRemainingColumn()] if console.width >= _WIDE else []),
            TextColumn("{task.fields[text]}", markup=False),
        ]
        # Without a thread of its own nothing goes on drawing when an exception ends the training.
        bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
        # In passes, since their number of batches may differ; None while nobody knows how long one is.
        total = epochs if self.params["steps"] else None
        bar.add_task("", total=total, epoch=f"1/{epochs}", text="starting")
        bar.start()
        console.show_cursor(True)  # for the same reason
        return bar

    def _show(self, batches: int, logs: dict[str, Any] | None) -> None:
        bar = self._screen.bar
        if bar is None:
            return
        assert self._console is not None
        self._screen.looked = time.monotonic()
        text = f"learning rate {_number(applied.learning_rate(self.model.optimizer))}"
        batch_size = applied.batch_size(self.model.optimizer)
        if batch_size is not None and self._console.width >= _WIDER:
            text += f"  batch size {batch_size:,}"
        if logs and "loss" in logs and self._console.width >= _WIDE:
            text += f"  loss {_number(logs['loss'])}"
        steps, epoch = self.params["steps"], self._screen.epoch
        bar.update(
            bar.task_ids[0],
            completed=epoch + min(1, batches / steps) if steps else 0,
            epoch=f"{epoch + 1}/{self.params['epochs']}",
            text=text,
        )
        bar.refresh()

    def _print(self, epoch: str, cells: Any) -> None:
        assert self._console is not None
        line = "  ".join(
            [epoch, *(c.rjust(_width(n)) for c, n in zip(cells, self._screen.columns, strict=True))]
        )
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _width(name: str) -> int:
    return max(8, len(name))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if name == "batch size" else _number(value)


def _number(value: Any) -> str:
    """At most eight characters, so that columns stay in line from 999.9999 to 1.00e-09."""
    value = float(value)
    if value == 0 or 0.01 <= abs(value) < 1e3:
        return f"{value:.4f}"
    return f"{value:.3g}" if 1e-4 <= abs(value) < 0.01 else f"{value:.2e}"


def _fitting(values: dict[str, Any], used: int, width: int) -> tuple[str, ...]:
    """Return the names that fit into a line; the learning rate and the losses are the last to be left out."""
    first = ["learning rate", "loss", "val_loss", "batch size"]
    chosen = []
    for name in [name for name in first if name in values] + [name for name in values if name not in first]:
        used += 2 + _width(name)
        if used <= width:
            chosen.append(name)

    def place(name: str) -> tuple[bool, bool, bool, bool]:
        plain = name.endswith("loss")
        return name == "learning rate", name == "batch size", name.startswith("val_"), not plain

    return tuple(sorted(chosen, key=place))
