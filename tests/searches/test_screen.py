"""What is shown while a search runs, on a terminal and where there is none."""

import io
import re
import types

import pytest
from rich.console import Console

from kwarmup import SearchResult
from kwarmup.cli import workers
from kwarmup.searches import outcome
from kwarmup.searches.outcome import DIVERGED, FINISHED, Outcome
from kwarmup.searches.screen import Screen

NOTHING = SearchResult("val_accuracy", "max", 1, (1, 2, 4), ())


def shown(terminal):
    """Three trials go by: text that was written, and where the bar stood at the end of each."""
    file, bars = io.StringIO(), []
    with Screen(
        NOTHING, 5, True, Console(file=file, force_terminal=terminal, width=150, highlight=False)
    ) as screen:
        for number, score in enumerate((0.5, None, 0.25)):
            values = {"peak": 0.1, "batch_size": 2**number}
            hp = types.SimpleNamespace(values=values)
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
    screen = Screen(SearchResult("x", direction, 1, (1,), ()), None, False)
    for score in (0.5, 0.25, 0.75, 0.5):
        screen.trial_ended(Outcome("0", FINISHED, {}, None, score))
    assert screen._best == (0.25 if direction == "min" else 0.75)


def test_of_workers_each_trial_is_shown_once_whichever_ends_first(tmp_path, monkeypatch):
    """Three trials, the last of which ends first; one was there before."""

    def ends(*names):
        for name in names:
            values = {"peak": 0.1, "batch_size": 2}
            outcome.write(tmp_path / f"trial_{name}", Outcome(name, FINISHED, values, None, 0.5, seconds=2.0))

    ends("0")
    later = iter([("3",), (), ("1", "2"), ()])
    codes = iter([None, None, None, 0])
    process = types.SimpleNamespace(poll=lambda: None, terminate=lambda: None, wait=lambda timeout=None: 0)
    worker = types.SimpleNamespace(poll=lambda: next(codes, 0), terminate=lambda: None)
    monkeypatch.setattr(workers, "_begin", lambda name, *_: process if name == "chief" else worker)
    monkeypatch.setattr(workers.time, "sleep", lambda _: ends(*next(later)))
    file = io.StringIO()
    before = SearchResult("val_loss", "min", 1, (2,), tuple(outcome.read_all(tmp_path)))
    with Screen(before, 4, True, Console(file=file, width=150, highlight=False)) as screen:
        assert workers.run(1, tmp_path, tmp_path / "logs", screen) == 0
    assert [line.split(":")[0] for line in file.getvalue().splitlines()] == ["trial 3", "trial 1", "trial 2"]
    assert screen._done == 4
