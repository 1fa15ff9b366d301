"""What the terminal shows of a study."""

import lively
import made_up

from kwarmup.studies import text
from kwarmup.studies.effects import EFFECTS


def test_the_table_has_medians_and_ranges():
    rows = text.table(made_up.study(), 150).splitlines()
    assert rows[0].split() == [
        "batch", "size", "examples/s", "updates", "to", "target", "seconds", "to", "target", "accuracy", "gap", "seeds",
    ]  # fmt: skip
    assert "64      39,000" in rows[3] and "295 (290 – 301)" in rows[3] and len(rows) == 7
    narrow = text.table(made_up.study(), 100).splitlines()
    assert narrow[0].split() == rows[0].split() and "295 " in narrow[3] and "–" not in narrow[3]
    assert max(map(len, narrow)) <= 100 < max(map(len, rows))


def test_what_is_missing_shows():
    runs = [
        made_up.run(16), made_up.run(16, 1, reaches=False), made_up.run(32, reaches=False),
        made_up.run(64, diverged=True),
    ]  # fmt: skip
    rows = text.table(made_up.study(runs), 150).splitlines()
    assert "1 of 2 seeds" in rows[1] and "–" in rows[2] and "1, 1 diverged" in rows[3]
    words = text.lines(made_up.study(missing=("Ctrl-C ended the study.",)), "time")
    assert "Not measured:\n  Ctrl-C ended the study.\n" in words


def test_the_findings_are_those_of_the_report():
    study = lively.study(gain=lively.gain())
    found = text.findings(study)
    assert found[: len(EFFECTS)] == [f"{effect.title}: {effect.finding(study)}" for effect in EFFECTS]
    assert "The critical batch size is 205 [" in found[7] and "By the stopwatch 256 came" in found[8]


def test_lines_fit_the_terminal():
    lines = text.lines(made_up.study(), "memory", 80).splitlines()
    assert "Recommended, for memory:" in lines and lines[-1] == repr(made_up.study().recommend("memory"))
    assert max(map(len, lines[7:-1])) <= 80


def test_where_there_is_no_plan_it_says_why():
    every = made_up.study([made_up.run(size, seed, diverged=True) for size in (16, 32) for seed in range(2)])
    assert "No plan for the goal 'time': expected a training that does not" in text.lines(every, "time")
    assert "expected one with trainings." in text.lines(made_up.study(()), "time")
