"""Every program of examples/ runs, and README's picture is the one that quickstart.py draws."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from svg import curve

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PICTURE = ROOT / "docs" / "images" / "quickstart.svg"
pytestmark = pytest.mark.examples


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Run a program of examples/ once, in an empty folder; return the folder and what it printed."""
    done: dict[Path, tuple[Path, str]] = {}

    def once(path: Path) -> tuple[Path, str]:
        if path not in done:
            folder = tmp_path_factory.mktemp(path.stem)
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MATPLOTLIBRC": str(PICTURE.with_name("matplotlibrc")),
            }
            ended = subprocess.run(
                [sys.executable, str(path)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert ended.returncode == 0, ended.stderr
            done[path] = folder, ended.stdout
        return done[path]

    return once


each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)


def ends_in(folder: Path, printed: str) -> set[str]:
    """Return what a program has left for the eye: a picture with a line in it, a table of three rows or more."""
    found = set()
    if any(len(curve(picture.read_text())) > 10 for picture in folder.glob("*.svg")):
        found.add("picture")
    # Rows that are broken into as many cells, one under another.
    cells = [len(re.split(r"\s{2,}", line.strip())) for line in printed.splitlines()]
    if any(cells[i] == cells[i + 1] == cells[i + 2] > 1 for i in range(len(cells) - 2)):
        found.add("table")
    return found


@each_example
def test_it_runs_and_ends_in_a_picture_or_a_table(run, path):
    assert ends_in(*run(path))


def test_an_example_that_shows_nothing_would_be_found(tmp_path):
    (tmp_path / "empty.svg").write_text('<svg><path d="M 0 0 L 1 1"/></svg>')
    assert ends_in(tmp_path, "loss 0.1\naccuracy 0.9\ndone\n") == set()


@each_example
def test_it_is_short_and_says_how_to_run_it(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"\n    python examples/{path.name}\n" in text


@pytest.mark.parametrize("name", ["batch_warmup", "the_article"])
def test_a_batch_that_grows_takes_fewer_updates_and_learns(run, name):
    """Its row beside that of the small batch: the first and the last of the table."""
    folder, printed = run(ROOT / "examples" / f"{name}.py")
    rows = re.findall(r"([\d,]+)(?: +0\.\d+)? +(0\.\d{3})$", printed, re.M)
    updates, accuracy = [int(row[0].replace(",", "")) for row in rows], [float(row[1]) for row in rows]
    assert updates[0] > 4 * updates[-1] and accuracy[0] > 0.95 and accuracy[-1] > 0.95
    # One panel for the learning rate, one for the batch size.
    assert {"learning rate", "batch size"} <= set(
        re.findall(r">([^<]+)</text>", (folder / f"{name}.svg").read_text())
    )


def test_training_goes_on_in_another_process_along_the_same_schedule(run):
    folder, printed = run(ROOT / "examples" / "continue_training.py")
    rows = re.findall(r"^ +(\d+)  +(\S+)  (\S+)  (Keras|TensorFlow)", printed, re.M)
    rates, losses = ([float(row[i]) for row in rows] for i in (1, 2))
    assert [row[3] for row in rows] == ["Keras"] * 5 + ["TensorFlow"] * 5
    # Two epochs up, eight down: what the plan says at the first update of each epoch.
    np.testing.assert_allclose(rates, [0, 0.05, *np.linspace(0.1, 0.0125, 8)], atol=1e-4)
    assert losses == sorted(losses, reverse=True)
    assert float(re.findall(r"validation accuracy (\S+)", printed)[-1]) > 0.95
    assert (folder / "saved_models" / "continued" / "2" / "saved_model.pb").exists()


def test_a_study_gives_its_reasons_and_its_plan_trains(run):
    folder, printed = run(ROOT / "examples" / "from_study_to_plan.py")
    assert "For the goal 'time':" in printed and "\nPlan(learning_rate=" in printed
    assert float(re.findall(r"validation accuracy (\S+),", printed)[-1]) > 0.9
    assert {"study.html", "study.json", "plan.svg"} <= {path.name for path in folder.iterdir()}


def test_quickstart_learns_the_digits(run):
    _, printed = run(ROOT / "examples" / "quickstart.py")
    accuracy = float(re.findall(r"validation accuracy (\S+),", printed)[-1])
    assert accuracy >= 0.98


def off(drawn: Path, committed: Path) -> float:
    """Return how far one line is from the other, in points; they may have different corners."""
    new, old = curve(drawn.read_text()), curve(committed.read_text())
    return float(np.abs(np.interp(old[:, 0], new[:, 0], new[:, 1]) - old[:, 1]).max())


def test_the_picture_of_the_readme_is_what_quickstart_draws(run):
    folder, _ = run(ROOT / "examples" / "quickstart.py")
    assert off(folder / "quickstart.svg", PICTURE) < 1


def test_another_picture_would_be_seen(tmp_path):
    import kwarmup as kw

    profile = 0.1 * (kw.warmup(epochs=3) >> kw.cosine())
    kw.Plan(learning_rate=profile, batch_size=32, examples=1437, epochs=20).plot(tmp_path / "other.svg")
    assert off(tmp_path / "other.svg", PICTURE) > 10
