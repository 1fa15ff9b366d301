"""A progress bar with the learning rate in it, and a line for each epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, final

import keras

from kwarmup import applied

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


#: Columns of a terminal from which the bar has the time left and the loss beside it.
_WIDE = 76


@final
class Progress(keras.callbacks.Callback):
    """Shows where a training is: a bar with time left, learning rate and loss, and a table of the epochs.

    Use it in place of Keras's own bar: `model.fit(..., verbose=0, callbacks=[Progress()])`. Where the
    output is not a terminal (a file, a pipe) only the lines of the epochs are written.

    Args:
        console: the rich console to write to; `None` for standard output.
        seconds: least time between two looks at the learning rate and at the screen.

    The learning rate is the one that the last update used, as `Record` has it.

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
        self._bar: Bar | None = None
        self._last = 0.0
        self._epoch = 0
        self._columns: tuple[str, ...] = ()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        from rich.console import Console

        self._console = self._console or Console(soft_wrap=True)
        self._columns, self._epoch = (), 0
        self._start(self._console)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        self._show(0, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The learning rate and the screen cost as much as a small training step: not at every one.
        if time.monotonic() - self._last >= self._seconds:
            self._show(batch + 1, logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], text="validation")
            self._bar.refresh()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert self._console is not None
        values = {name: value for name, value in (logs or {}).items() if name != "learning_rate"}
        values["learning rate"] = applied.learning_rate(self.model.optimizer)
        epochs = f"{epoch + 1}/{self.params['epochs']}"
        width = 2 * len(str(self.params["epochs"])) + 1
        if not self._columns:
            self._columns = _fitting(values, max(5, width), self._console.width)
            self._print("epoch".rjust(max(5, width)), self._columns)
        shown = [_number(values.get(name)) for name in self._columns]
        self._print(epochs.rjust(max(5, width)), shown)
        self._show(self.params["steps"] or 0, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar from the screen. Call it where an exception may have ended the training."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        if not console.is_terminal or console.is_dumb_terminal:
            return
        total = self.params["epochs"] * self.params["steps"] if self.params["steps"] else None
        epochs = self.params["epochs"]
        # What the words need, and three columns more: the ^C of a terminal must not begin a new line.
        words = 34 + 2 * len(str(epochs)) + 26 * (console.width >= _WIDE)
        columns = [
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=max(4, min(40, console.width - words))),
            *([TaskProgressColumn(), TimeRemainingColumn()] if console.width >= _WIDE else []),
            TextColumn("{task.fields[text]}", markup=False),
        ]
        # Without a thread of its own nothing goes on drawing when an exception ends the training.
        self._bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._bar.add_task("", total=total, epoch=f"1/{epochs}", text="starting")
        self._bar.start()
        console.show_cursor(True)  # for the same reason

    def _show(self, batches: int, logs: dict[str, Any] | None) -> None:
        if self._bar is None:
            return
        assert self._console is not None
        self._last = time.monotonic()
        text = f"learning rate {_number(applied.learning_rate(self.model.optimizer))}"
        if logs and "loss" in logs and self._console.width >= _WIDE:
            text += f"  loss {_number(logs['loss'])}"
        self._bar.update(
            self._bar.task_ids[0],
            completed=self._epoch * (self.params["steps"] or 0) + batches,
            epoch=f"{self._epoch + 1}/{self.params['epochs']}",
            text=text,
        )
        self._bar.refresh()

    def _print(self, epoch: str, cells: Any) -> None:
        assert self._console is not None
        line = "  ".join([epoch, *(c.rjust(_width(n)) for c, n in zip(cells, self._columns, strict=True))])
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _width(name: str) -> int:
    return max(8, len(name))


def _number(value: Any) -> str:
    """At most eight characters, so that columns stay in line from 999.9999 to 1.00e-09."""
    if value is None:
        return ""
    value = float(value)
    if value == 0 or 0.01 <= abs(value) < 1e3:
        return f"{value:.4f}"
    return f"{value:.3g}" if 1e-4 <= abs(value) < 0.01 else f"{value:.2e}"


def _fitting(values: dict[str, Any], used: int, width: int) -> tuple[str, ...]:
    """Return the names that fit into a line; the learning rate and the losses are the last to be left out."""
    first = ["learning rate", "loss", "val_loss"]
    chosen = []
    for name in [name for name in first if name in values] + [name for name in values if name not in first]:
        used += 2 + _width(name)
        if used <= width:
            chosen.append(name)

    def place(name: str) -> tuple[bool, bool, bool]:
        return name == "learning rate", name.startswith("val_"), not name.endswith("loss")

    return tuple(sorted(chosen, key=place))
