"""When a training has come to a standstill: what the callbacks that then do something have in common."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kwarmup import applied
from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import Length, number
from kwarmup.private import direction_of


class Plateau(keras.callbacks.Callback):
    """Calls `act` after `patience` checks in a row without an improvement; see `PlateauDecay`.

    An improvement is a finite value that is better than `best` by more than `min_delta`. All state is in
    plain attributes, so that checkpoints keep it.
    """

    def __init__(
        self,
        monitor: str,
        patience: int,
        min_delta: float,
        mode: str,
        cooldown: int,
        epochs: int | None,
        steps: int | None,
    ):
        super().__init__()
        if not isinstance(monitor, str):
            raise type_error("monitor", monitor, "a name in the logs", self.line('"val_loss"'))
        if mode not in ("auto", "min", "max"):
            write = self.line(f'"{monitor}", mode="max"')
            raise value_error("mode", mode, '"auto", "min" or "max"', write)
        self.monitor, self.mode = monitor, mode
        self.patience = self.whole_number("patience", patience, 1)
        self.min_delta = number("min_delta", min_delta, self.line("min_delta=1e-4"))
        if self.min_delta < 0:
            raise value_error("min_delta", min_delta, "a number, 0 or more", self.line("min_delta=1e-4"))
        self.cooldown = self.whole_number("cooldown", cooldown, 0)
        for unit, length in (("epochs", epochs), ("steps", steps)):
            if length is not None:
                self.whole_number(unit, length, 1)
        every = Length.read(type(self).__name__, epochs=epochs, steps=steps)
        self.by_steps = every.unit == "steps"
        self.interval = int(every.value or 1)
        if self.by_steps and monitor.startswith("val_"):
            raise value_error(
                "monitor",
                monitor,
                "what is measured in training, since nothing is validated within a pass",
                self.line(f'"{monitor.removeprefix("val_")}", steps={self.interval}'),
            )
        self._begin_anew(0)

    def begin(self) -> None:
        """What there is to do when training begins."""
        raise NotImplementedError

    def act(self) -> None:
        """What there is to do on a plateau."""
        raise NotImplementedError

    def _begin_anew(self, done: int) -> None:
        self.best: float | None = None
        self.bad_checks = 0  # in a row
        self.cooldown_left = 0
        # Updates that were over when the state was last touched; by them a second `fit` is known.
        self._updates = done
        # Of a check that goes by steps: the update behind which it is due, the batches until then (so many at
        # least, since no batch is more than one update), and the sums of the metric where its window began.
        self._due, self._left = done + self.interval, self.interval
        self._origin = [0.0, 0.0]
        self._batch = -1
        self._within_pass = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.begin()
        done = applied.updates(self.model.optimizer)
        if done == 0 or done != self._updates:
            self._begin_anew(done)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._batch, self._within_pass = -1, True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.by_steps:
            return
        self._left -= batch - self._batch
        self._batch = batch
        if self._left > 0:
            return  # Asking how many updates are over makes the program wait for the device.
        done = applied.updates(self.model.optimizer)
        if done >= self._due:
            self._look_up(logs)
            sums = self._sums()
            total, count = (now - then for now, then in zip(sums, self._origin, strict=True))
            self._check(total / count if count else math.nan)
            self._origin, self._updates = sums, done
            self._due += self.interval * ((done - self._due) // self.interval + 1)
        self._left = self._due - done

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._pass_ends()  # Validation uses the same metrics, and resets them.

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._pass_ends()
        if not self.by_steps and (epoch + 1) % self.interval == 0:
            self._check(self._look_up(logs))
        self._updates = applied.updates(self.model.optimizer)

    def _pass_ends(self) -> None:
        if self.by_steps and self._within_pass:
            # In the next pass the sums begin at 0, and so the window began that much below; a window that
            # begins with the pass at 0, also where a sum that is not finite cannot say so.
            sums, origin = self._sums(), self._origin
            inside = sums[1] != origin[1]
            self._origin = [origin[0] - sums[0], origin[1] - sums[1]] if inside else [0.0, 0.0]
            self._updates = applied.updates(self.model.optimizer)
        self._within_pass = False

    def _check(self, value: float) -> None:
        if math.isfinite(value) and self._is_better(value):
            self.best, self.bad_checks = value, 0
        else:
            self.bad_checks += 1
        if self.cooldown_left:
            self.cooldown_left -= 1
            self.bad_checks = 0
        if self.bad_checks == self.patience:
            self.act()
            self.bad_checks, self.cooldown_left = 0, self.cooldown

    def _is_better(self, value: float) -> bool:
        end = self._better_end()
        if self.best is None:
            return True
        return value > self.best + self.min_delta if end == "max" else value < self.best - self.min_delta

    def _better_end(self) -> str:
        if self.mode != "auto":
            return self.mode
        name = self.monitor.removeprefix("val_")
        found = {direction_of(metric) for metric in _metrics(self.model) if metric.name == name}
        if name == "loss" or found == {"down"}:
            return "min"
        if found == {"up"}:
            return "max"
        raise value_error(
            "mode",
            Code(f'mode="auto" with monitor="{self.monitor}"'),
            '"min" or "max", since nothing tells which end of it is the better one',
            self.line(f'"{self.monitor}", mode="max"'),
        )

    def _look_up(self, logs: dict[str, Any] | None) -> float:
        logs = logs or {}
        if self.monitor in logs:
            return float(ops.convert_to_numpy(logs[self.monitor]))
        hint = ""
        if self.monitor.startswith("val_"):
            hint = "model.fit(..., validation_data=(x, y)); with validation_freq=2 also "
        write = hint + self.line(f'"{self.monitor}", epochs=2') if hint else self.line('"loss"')
        raise value_error("monitor", self.monitor, f"one of {', '.join(logs)}", write)

    def _sums(self) -> list[float]:
        means = [m for m in _metrics(self.model) if hasattr(m, "total") and hasattr(m, "count")]
        found = [metric for metric in means if metric.name == self.monitor]
        if len(found) != 1:
            raise value_error(
                "monitor",
                self.monitor,
                f"a mean over the training data, such as {', '.join(m.name for m in means)}",
                self.line('"loss", steps=500'),
            )
        return [float(ops.convert_to_numpy(value)) for value in (found[0].total, found[0].count)]

    def line(self, arguments: str) -> str:
        """Return the line to write, for errors."""
        return f"{type(self).__name__}({arguments})"

    def whole_number(self, name: str, value: Any, least: int) -> int:
        """Return an argument as the number it is; raise where it is none, or below the least."""
        write = self.line(f'"loss", {name}={max(10, least)}')
        count = number(name, value, write)
        if not isinstance(count, int) or count < least:
            raise value_error(name, value, f"a whole number, {least} or more", write)
        return count


def _metrics(model: keras.Model) -> list[Any]:
    """Return a model's metrics, those in a list or given to `compile` as well."""
    return [inner for metric in model.metrics for inner in getattr(metric, "metrics", [metric])]
