"""Progress: the bar, the lines of the epochs, and what is left on a screen, in a file and after an error."""

import io
import re
import time

import keras
import numpy as np
import pytest
from rich.console import Console

from kwarmup import Plan, Record, Schedule, hold, linear, warmup
from kwarmup.callbacks.progress import Progress

X = np.ones((8, 1), "float32")


def train(width=100, terminal=False, callbacks=(), epochs=2, metrics=(), validation=True, batch_size=2):
    """Fit a small model; return what was written and the model."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(Schedule(1e-3 * warmup(steps=8))), "mse", metrics=list(metrics))
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=40, force_terminal=terminal, color_system=None, legacy_windows=False
    )
    progress = Progress(console, seconds=0)
    data = (X, X) if validation else None
    try:
        model.fit(
            X, X, batch_size=batch_size, epochs=epochs, validation_data=data, verbose=0,
            callbacks=[Record(), progress, *callbacks],
        )  # fmt: skip
    finally:
        progress.stop()
    return file.getvalue(), progress


def test_a_file_holds_one_line_for_each_epoch_and_nothing_else():
    text, _ = train()
    lines = text.splitlines()
    assert lines[0].split() == ["epoch", "loss", "val_loss", "learning", "rate"]
    assert [line.split()[0] for line in lines[1:]] == ["1/2", "2/2"]
    # Of update 3 and update 7, as Record has it.
    assert [line.split()[-1] for line in lines[1:]] == ["0.000375", "0.000875"]
    assert "\x1b" not in text
    assert "\r" not in text


def test_the_columns_stand_in_line():
    text, _ = train(metrics=["mae"], epochs=12)
    assert len({len(line) for line in text.splitlines()}) == 1


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (100, "epoch loss mae val_loss val_mae learning rate"),
        (52, "epoch loss mae val_loss learning rate"),
        (42, "epoch loss val_loss learning rate"),
        (30, "epoch loss learning rate"),
        (22, "epoch learning rate"),
    ],
)
def test_a_narrow_screen_keeps_the_learning_rate_longest(width, heads):
    text, _ = train(width, metrics=["mae"])
    lines = text.splitlines()
    assert " ".join(lines[0].split()) == heads
    assert len(lines) == 3
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [46, 80, 120])
def test_a_screen_has_a_bar_that_fits_and_goes_away(width):
    text, progress = train(width, terminal=True)
    assert "epoch 1/2" in text
    assert "learning rate 0.000375" in text
    assert "validation" in text
    assert ("learning rate 0.000375  loss " in text) == (width >= 76)
    assert progress._screen.bar is None
    assert text.count("\x1b[?25l") <= text.count("\x1b[?25h")  # the cursor is seen again
    frames = [frame for frame in text.replace("\n", "\r").split("\r") if "epoch 1/2" in frame]
    assert frames
    # Two columns are left for the ^C of a terminal.
    assert max(len(frame.split("\x1b")[0].rstrip()) for frame in frames) <= width - 2


def test_the_bar_counts_batches_up_to_the_whole():
    seen = []

    class Watch(keras.callbacks.Callback):
        def __init__(self, progress):
            super().__init__()
            self.progress = progress

        def on_train_batch_end(self, batch, logs=None):
            task = self.progress._screen.bar.tasks[0]
            seen.append((task.completed, task.total))

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    console = Console(file=io.StringIO(), force_terminal=True, legacy_windows=False)
    progress = Progress(console, seconds=0)
    model.fit(X, X, batch_size=3, epochs=2, verbose=0, callbacks=[progress, Watch(progress)])
    assert seen == [(pytest.approx(n / 3), 2) for n in range(1, 7)]


# A batch size that moves


def grow(width=120, terminal=False, callbacks=(), **arguments):
    """Train by a plan whose passes have 4, 2 and 1 batches; return what was written and how far the bar came."""
    plan = Plan(
        learning_rate=0.01 * linear(), batch_size=2 * (hold(epochs=1) >> hold(2, epochs=1) >> hold(4)),
        examples=8, epochs=3,
    )  # fmt: skip
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=40, force_terminal=terminal, color_system=None, legacy_windows=False
    )
    progress, seen = Progress(console, seconds=0), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if terminal:
                seen.append(progress._screen.bar.tasks[0].percentage)

    try:
        plan.fit(model, X, X, verbose=0, callbacks=[Record(), progress, Watch(), *callbacks], **arguments)
    finally:
        progress.stop()
    return file.getvalue(), seen


def test_passes_of_fewer_and_fewer_batches_fill_the_bar_evenly():
    _, seen = grow(terminal=True)
    thirds = [25 / 3, 50 / 3, 25, 100 / 3, 50, 200 / 3, 100]
    assert seen == pytest.approx(thirds)


def test_the_batch_size_stands_beside_the_learning_rate_where_it_moves():
    lines = grow()[0].splitlines()
    assert " ".join(lines[0].split()) == "epoch loss batch size learning rate"
    assert [line.split()[2] for line in lines[1:]] == ["2", "4", "8"]
    assert len(set(map(len, lines))) == 1
    text, _ = grow(terminal=True)
    assert "learning rate 0.005  batch size 4  loss " in text
    assert "batch size" not in grow(90, terminal=True)[0].replace("\r", "\n").splitlines()[0]
    assert "batch size" not in train(120, terminal=True)[0]


@pytest.mark.parametrize("width", [46, 80, 99, 100, 120])
def test_the_bar_fits_with_a_batch_size_in_it(width):
    text, _ = grow(width, terminal=True)
    frames = [frame for frame in text.replace("\n", "\r").split("\r") if "epoch 1/3" in frame]
    assert any("batch size 2" in frame for frame in frames) == (width >= 100)
    assert max(len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame)) for frame in frames) <= width - 2


class Stops(keras.callbacks.Callback):
    """Stops once, within the second pass."""

    wanted = True  # in the class: attributes of a callback are kept and restored

    def on_train_batch_end(self, batch, logs=None):
        if Stops.wanted and self.params["steps"] == 2:
            Stops.wanted, self.model.stop_training = False, True


def test_a_training_that_goes_on_does_so_on_a_screen_of_its_own(tmp_path, monkeypatch):
    Stops.wanted = True
    first, _ = grow(callbacks=[Stops()], checkpoint_dir=tmp_path)
    assert [line.split()[0] for line in first.splitlines()] == ["epoch", "1/3", "2/3"]
    # As if the machine had been started anew: its clock is far behind the one of the first process.
    now = time.monotonic()
    monkeypatch.setattr("kwarmup.callbacks.progress.time.monotonic", lambda: time.perf_counter() - now - 1e9)
    second, seen = grow(terminal=True, callbacks=[Stops()], checkpoint_dir=tmp_path)
    assert "epoch      loss" in second
    assert "epoch 3/3" in second
    assert seen == pytest.approx([200 / 3, 100])


def test_the_screen_is_looked_at_only_now_and_then(monkeypatch):
    looks = []
    monkeypatch.setattr("kwarmup.callbacks.progress.applied.learning_rate", lambda _: looks.append(1) or 0.1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    console = Console(file=io.StringIO(), force_terminal=True, legacy_windows=False)
    model.fit(
        np.ones((50, 1)), np.ones((50, 1)), batch_size=1, verbose=0, callbacks=[Progress(console, seconds=60)]
    )
    assert len(looks) == 3  # at the begin of the epoch, and twice at its end


def test_an_error_in_training_leaves_a_quiet_screen():
    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        train(terminal=True, callbacks=[Fails()])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length_has_a_bar_without_an_end():
    def batches():
        for _ in range(4):
            yield X[:2], X[:2]

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, legacy_windows=False)
    model.fit(batches(), shuffle=False, verbose=0, callbacks=[Progress(console, seconds=0)])
    assert "epoch 1/1" in file.getvalue()


def test_it_can_be_used_for_a_second_training():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    file = io.StringIO()
    progress = Progress(Console(file=file, width=80))
    model.fit(X, X, verbose=0, callbacks=[progress])
    model.fit(X, X, verbose=0, epochs=2, validation_data=(X, X), callbacks=[progress])
    heads = [line.split() for line in file.getvalue().splitlines() if "epoch" in line]
    assert [("val_loss" in head) for head in heads] == [False, True]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.0000"), (1, "1.0000"), (123.456, "123.4560"), (0.01234, "0.0123"), (0.00123456, "0.00123"),
     (0.000123456, "0.000123"), (1.23e-7, "1.23e-07"), (12345.6, "1.23e+04"), (-0.5, "-0.5000"),
     (float("nan"), "nan"), (float("inf"), "inf")],
)  # fmt: skip
def test_numbers_are_short(value, shown):
    from kwarmup.callbacks.progress import _number

    assert _number(value) == shown
