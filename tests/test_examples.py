"""Every program of examples/ runs, and README's picture is the one that quickstart.py draws."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_runs(run, path):
    _, printed = run(path)
    assert printed.strip()


def test_quickstart_learns_the_digits(run):
    _, printed = run(ROOT / "examples" / "quickstart.py")
    accuracy = float(re.findall(r"validation accuracy (\S+),", printed)[-1])
    assert accuracy >= 0.98


def curve(picture: Path) -> np.ndarray:
    """Return the corners of the longest line of an SVG file."""
    paths = re.findall(r'<path d="([^"]+)"', picture.read_text())
    return max((np.array(re.findall(r"[ML] (\S+) (\S+)", path), float) for path in paths), key=len)


def off(drawn: Path, committed: Path) -> float:
    """Return how far one line is from the other, in points; they may have different corners."""
    new, old = curve(drawn), curve(committed)
    return float(np.abs(np.interp(old[:, 0], new[:, 0], new[:, 1]) - old[:, 1]).max())


def test_the_picture_of_the_readme_is_what_quickstart_draws(run):
    folder, _ = run(ROOT / "examples" / "quickstart.py")
    assert off(folder / "quickstart.svg", PICTURE) < 1


def test_another_picture_would_be_seen(tmp_path):
    import kwarmup as kw

    profile = 0.1 * (kw.warmup(epochs=3) >> kw.cosine())
    kw.Plan(learning_rate=profile, batch_size=32, examples=1437, epochs=20).plot(tmp_path / "other.svg")
    assert off(tmp_path / "other.svg", PICTURE) > 10
