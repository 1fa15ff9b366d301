"""What is shown while a search runs, on a terminal and where there is none."""

import io
import re
import types

import keras_tuner
import pytest
from rich.console import Console

from kwarmup.searches.outcome import DIVERGED, FINISHED, Outcome
from kwarmup.searches.screen import Screen

TUNER = types.SimpleNamespace(
    results=lambda: types.SimpleNamespace(best=None, trials=()),
    oracle=types.SimpleNamespace(max_trials=5, objective=keras_tuner.Objective("val_accuracy", "max")),
)


def shown(terminal):
    """Three trials go by: text that was written, and where the bar stood at the end of each."""
    file, bars = io.StringIO(), []
    with Screen(
        TUNER, True, Console(file=file, force_terminal=terminal, width=150, highlight=False)
    ) as screen:
        for number, score in enumerate((0.5, None, 0.25)):
            values = {"peak": 0.1, "batch_size": 2**number}
            hp = types.SimpleNamespace(get=values.get)
            screen.trial_begins(types.SimpleNamespace(trial_id=f"0{number}", hyperparameters=hp))
            screen.pass_ended(1, {"val_accuracy": 0.125})
            screen._bar.refresh()
            bars.append(file.getvalue().splitlines()[-1] if terminal else "")
            status = DIVERGED if score is None else FINISHED
            screen.trial_ended(Outcome(f"0{number}", status, values, None, score, seconds=2.0))
    return file.getvalue(), bars


def test_a_terminal_has_a_bar_with_trial_best_and_time_left():
    text, bars = shown(True)
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", bar).split("\r") for bar in bars]
    last = ["".join(part for part in parts[parts_begin(parts) :]) for parts in plain]
    for number, best in enumerate(("", ", best 0.5", ", best 0.5")):
        words = f"trial 0{number}: peak 0.1, batch size {2**number}, pass 2, val_accuracy 0.125{best} "
        assert words in last[number] and f"{number}/5" in last[number]
    # From two trials on there is a speed.
    assert "-:--:--" in last[0] and re.search(r"2/5 +\d:\d\d:\d\d", last[2])
    assert "trial 01: peak 0.1, batch size 2: diverged (2 s)" in text


def parts_begin(parts):
    """Where the last drawing of the bar begins."""
    return max(index for index, part in enumerate(parts) if part.startswith("trial"))


def test_elsewhere_there_is_a_line_for_each_trial():
    text, _ = shown(False)
    assert text.splitlines() == [
        "trial 00: peak 0.1, batch size 1: val_accuracy 0.5 (2 s)",
        "trial 01: peak 0.1, batch size 2: diverged (2 s)",
        "trial 02: peak 0.1, batch size 4: val_accuracy 0.25 (2 s)",
    ]


@pytest.mark.parametrize("direction", ["min", "max"])
def test_the_best_is_the_lowest_loss_or_the_highest_accuracy(direction):
    oracle = types.SimpleNamespace(max_trials=None, objective=keras_tuner.Objective("x", direction))
    screen = Screen(types.SimpleNamespace(oracle=oracle), False)
    for score in (0.5, 0.25, 0.75, 0.5):
        screen.trial_ended(Outcome("0", FINISHED, {}, None, score))
    assert screen._best == (0.25 if direction == "min" else 0.75)
