"""What the terminal shows of a study."""

import made_up

from kwarmup.studies import text


def test_the_table_has_medians_and_ranges():
    rows = text.table(made_up.study()).splitlines()
    assert rows[0].split() == [
        "batch", "size", "examples/s", "updates", "to", "target", "seconds", "to", "target", "accuracy", "gap", "seeds",
    ]  # fmt: skip
    assert "64      39,024" in rows[3] and "295 [290, 301]" in rows[3] and len(rows) == 7


def test_what_is_missing_shows():
    runs = [
        made_up.run(16), made_up.run(16, 1, reaches=False), made_up.run(32, reaches=False),
        made_up.run(64, diverged=True),
    ]  # fmt: skip
    rows = text.table(made_up.study(runs)).splitlines()
    assert "(1 of 2)" in rows[1] and "–" in rows[2] and "1, 1 diverged" in rows[3]
    words = text.lines(made_up.study(missing=("Ctrl-C ended the study.",)), "time")
    assert "Not measured: Ctrl-C ended the study." in words


def test_the_findings_are_made_from_the_figures():
    found = "\n".join(text.findings(made_up.study()))
    assert "1.00 ms and 10 µs" in found and "from 512 on" in found
    assert "400 after 0 examples" in found and "at the target 400 [320, 500]" in found
    assert "no difference between batch sizes that 3 seeds could tell" in found
    lines = text.lines(made_up.study(), "memory", 80)
    assert "Recommended, for memory:" in lines and "Plan(learning_rate=" in lines
    prose = [line for line in lines.splitlines()[8:] if not line.startswith("Plan(")]
    assert max(map(len, prose)) <= 80


def test_a_difference_is_said_where_every_seed_tells_it():
    runs = [
        made_up.run(s, seed, validation=0.8 if s == 512 else 0.9 + 0.01 * seed)
        for s in made_up.SIZES for seed in range(3)
    ]  # fmt: skip
    assert "512 to 0.8, every seed" in text.quality(made_up.study(runs))
    assert text.quality(made_up.study([made_up.run(16)])) == "there is only one batch size to look at."
    assert "no difference" in text.quality(made_up.study([made_up.run(16), made_up.run(32, validation=0.5)]))
