"""`kwarmup find-lr`: the default run, JSON, a picture, Ctrl-C and what it refuses."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from kwarmup import Sweep
from kwarmup.cli import find_lr, main
from kwarmup.measure import find_lr as measure

RATES = np.geomspace(1e-5, 10, 61)
LOSSES = tuple(2.0 - 1.5 / (1 + (0.01 / RATES) ** 2) + 9 * RATES**2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 4)).astype("float32")
    np.savez(tmp_path / "numbers.npz", x_train=x, y_train=x @ np.ones((4, 1), "float32"))
    (tmp_path / "my_regression.py").write_text(
        "import keras\n"
        "def build():\n"
        "    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])\n"
        "    model.compile(keras.optimizers.SGD(), 'mse')\n"
        "    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_regression", None)  # another test's, of the same name
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, ["find-lr", *map(str, arguments)])


OWN = ("--data", "numbers.npz", "--model", "my_regression:build", "--batch-size", 40, "--repeats", 2)


@pytest.mark.slow
def test_the_default_is_digits():
    shown = run("--repeats", 1)
    assert shown.exit_code == 0, shown.output
    for word in ("learning rate", "steepest", "valley", "minimum", "slide", "SGD, batch size 64, 1 repeat."):
        assert word in shown.output


def test_data_and_models_of_the_user(folder):
    shown = run(*OWN, "--low", 1e-4, "--steps", 60, "--plot", "sweep.svg", "--optimizer", "adam")
    assert shown.exit_code == 0, shown.output
    assert "Adam, batch size 40, 2 repeats.\nDrawn into sweep.svg\n" in shown.output
    assert "50 % interval" in shown.output
    assert (folder / "sweep.svg").read_text().startswith("<?xml")


def test_json_is_the_whole_sweep(folder):
    shown = run(*OWN, "--low", 1e-4, "--steps", 30, "--json")
    assert shown.exit_code == 0, shown.output
    sweep = Sweep.from_dict(json.loads(shown.stdout))
    assert len(sweep.losses) == 2 and len(sweep.learning_rates) == 30 and sweep.batch_size == 40


def test_ctrl_c_shows_what_there_is(folder, monkeypatch):
    sweep = Sweep(RATES, [LOSSES, LOSSES[:30]], 40, interrupted=True)
    monkeypatch.setattr(measure, "find_lr", lambda *_, **__: sweep)
    shown = run(*OWN)
    assert shown.exit_code == 130
    assert "steepest" in shown.output and "1 repeat, then stopped by Ctrl-C." in shown.output


def test_ctrl_c_at_once_is_told(folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "find_lr", interrupted)
    shown = run(*OWN)
    assert (shown.exit_code, shown.output) == (130, "Stopped; nothing was measured.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--low", 1, "--high", 0.1),
            "--low 1 and --high 0.1: learning rates above 0, the second the larger.",
        ),
        (("--plot", "sweep.xyz"), "--plot: `path`: expected a name that ends in .png, .svg or .pdf."),
        (("--batch-size", 5_000), "--batch-size 5,000 is more than the 1,438 training examples of digits."),
        (("--data", "nowhere.npz"), "There is no file nowhere.npz."),
        ((*OWN, "--optimizer", "sdg"), "There is no optimizer 'sdg'."),
        (
            (*OWN, "--low", 1e-9, "--high", 1e-7),
            "There is nothing to suggest. Expected are losses that fall clearly further than their noise.",
        ),
    ],
)
def test_what_is_wrong_is_said(folder, arguments, said):
    shown = run(*arguments)
    assert shown.exit_code == 2 and said in " ".join(shown.output.split()), shown.output


def test_the_chart_cuts_off_the_explosion_and_fits():
    sweep = Sweep(RATES, [LOSSES, LOSSES[:50]], 40)
    lines = find_lr.chart(sweep, 40).splitlines()
    assert len(lines) == 7 and max(map(len, lines)) <= 40
    assert lines[0].startswith("3 │") and lines[-1].split() == ["1e-05", "10", "learning", "rate"]
    # Flat, down, and up again.
    heights = [
        sum(line[column : column + 1] not in ("", " ") for line in lines[:-1]) for column in (4, 24, 38)
    ]
    assert heights[1] < heights[0] < heights[2]


def test_help_names_every_option():
    shown = run("--help").output
    for option in ("--data", "--model", "--batch-size", "--optimizer", "--low", "--high", "--plot", "--json"):
        assert option in shown
