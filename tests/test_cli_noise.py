"""`kwarmup noise`: the default run, JSON, what is measured and when, Ctrl-C and what it refuses."""

import json
import math
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from kwarmup import NoiseScale
from kwarmup.cli import along, main, noise

X = np.random.default_rng(0).normal(size=(800, 4)).astype("float32")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    np.savez(
        tmp_path / "numbers.npz", x_train=X, y_train=X @ np.ones((4, 1), "float32"), x_val=X, y_val=X[:, :1]
    )
    (tmp_path / "my_regression.py").write_text(
        "import keras\n"
        "def build(steps=None):\n"
        "    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer='zeros')])\n"
        "    model.compile(keras.optimizers.SGD(0.01, gradient_accumulation_steps=steps), 'mse')\n"
        "    return model\n"
        "def accumulating():\n"
        "    return build(2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_regression", None)  # another test's, of the same name
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, ["noise", *map(str, arguments)])


OWN = ("--data", "numbers.npz", "--model", "my_regression:build", "--batch-size", 50)


def scale(value, interval=None, converged=True):
    return NoiseScale(
        value, interval or (0.9 * value, 1.1 * value), 1.0, 1.0, 800, 32, converged, "the data has ended"
    )


@pytest.fixture
def quick(monkeypatch):
    """Measure nothing, and say so many examples each time: 10, 20, 30, …"""
    found = []

    def measure(model, x, y, **arguments):
        found.append({"weights": [w.copy() for w in model.get_weights()], **arguments})
        return scale(10.0 * len(found))

    monkeypatch.setattr(along, "noise_scale", measure)
    return found


@pytest.mark.slow
def test_the_default_is_digits():
    shown = run("--max-examples", 2_000)
    assert shown.exit_code == 0, shown.output
    for word in (
        "examples seen",
        "noise scale",
        "95 % interval",
        "SGD, batch size 64, learning rate up to 0.1.",
    ):
        assert word in shown.output
    seen = [line.split()[:2] for line in shown.output.splitlines() if "–" in line]
    assert seen == [["0", "0"], ["192", "3"], ["384", "6"], ["768", "12"], ["1,438", "23"]]


def test_data_and_models_of_the_user(folder):
    shown = run(*OWN, "--epochs", 2)
    assert shown.exit_code == 0, shown.output
    assert "SGD, batch size 50, learning rate up to 0.01." in shown.output
    rows = [line.split()[:2] for line in shown.output.splitlines() if "–" in line]
    assert rows == [["0", "0"], ["200", "4"], ["400", "8"], ["800", "16"], ["1,600", "32"]]


@pytest.mark.parametrize("build", ["build", "accumulating"])
def test_json_is_all_that_was_measured(folder, build):
    shown = run(*OWN[:3], f"my_regression:{build}", *OWN[4:], "--epochs", 1, "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert [(one["updates"], one["examples_seen"]) for one in found["measured"]] == [
        (0, 0), (2, 100), (4, 200), (8, 400), (16, 800),
    ]  # fmt: skip
    assert found["plan"]["batch_size"] == 50 and found["optimizer"] == "SGD" and not found["interrupted"]
    # At w = 0 the gradient of an example is -2 y for the bias, and that times x for the weights.
    first = found["measured"][0]
    assert first["interval"][0] < first["value"] < first["interval"][1]
    gradients = -2 * X * X.sum(axis=1, keepdims=True)
    gradients = np.concatenate([gradients, -2 * X.sum(axis=1, keepdims=True)], axis=1).astype("float64")
    exact = gradients.var(axis=0, ddof=1).sum() / (gradients.mean(axis=0) ** 2).sum()
    assert first["value"] == pytest.approx(exact, rel=0.1)


def test_measuring_does_not_change_the_training(folder, quick, monkeypatch):
    assert run(*OWN).exit_code == 0
    measured = [one["weights"] for one in quick]
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    real, seen = along.noise_scale, []

    def measure(model, x, y, **arguments):
        seen.append([w.copy() for w in model.get_weights()])
        return real(model, x, y, **arguments)

    monkeypatch.setattr(along, "noise_scale", measure)
    assert run(*OWN).exit_code == 0
    assert len(seen) == len(measured) == len(along.PARTS)
    for one, other in zip(seen, measured, strict=True):
        for weight, other_weight in zip(one, other, strict=True):
            np.testing.assert_array_equal(weight, other_weight)
    assert not np.array_equal(seen[0][0], seen[1][0])


def test_the_options_reach_the_measurement(folder, quick):
    shown = run(*OWN, "--precision", 0.5, "--max-examples", 640, "--seed", 3, "--peak", 0.02)
    assert shown.exit_code == 0 and "learning rate up to 0.02" in shown.output
    assert {name: quick[0][name] for name in ("precision", "max_examples", "seed")} == {
        "precision": 0.5, "max_examples": 640, "seed": 3,
    }  # fmt: skip


def interrupt_after(monkeypatch, many):
    before = iter(range(100))

    def measure(*_, **__):
        if next(before) == many:
            raise KeyboardInterrupt
        return scale(math.inf, (30.0, math.inf), converged=False)

    monkeypatch.setattr(along, "noise_scale", measure)


def test_ctrl_c_shows_what_there_is(folder, monkeypatch):
    interrupt_after(monkeypatch, 2)
    shown = run(*OWN)
    assert shown.exit_code == 130
    assert shown.output.count("30 – ∞") == 2 and ", then stopped by Ctrl-C." in shown.output
    assert "the noise scale is 30 examples or more" in " ".join(shown.output.split())


def test_ctrl_c_is_in_the_json_which_has_no_infinity(folder, monkeypatch):
    interrupt_after(monkeypatch, 1)
    shown = run(*OWN, "--json")
    found = json.loads(shown.stdout, parse_constant=pytest.fail)
    assert shown.exit_code == 130 and found["interrupted"]
    assert [one["value"] for one in found["measured"]] == ["inf"]
    assert found["measured"][0]["interval"] == [30.0, "inf"]


def test_ctrl_c_at_once_is_told(folder, monkeypatch):
    interrupt_after(monkeypatch, 0)
    shown = run(*OWN)
    assert (shown.exit_code, shown.output) == (130, "Stopped; nothing was measured.\n")


def test_a_training_that_diverges_shows_what_there_is_and_is_told(folder, quick):
    shown = run(*OWN, "--peak", 1e30, "--epochs", 4)
    assert shown.exit_code == 2 and "examples seen" in shown.output
    said = " ".join(shown.output.split())
    assert "The training ended early: the loss is" in said and "a lower --peak may help." in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--precision", 0), "--precision 0: a number above 0."),
        (("--peak", -1), "--peak -1: a learning rate above 0."),
        (("--batch-size", 5_000), "--batch-size 5,000 is more than the 1,438 training examples of digits."),
        (("--data", "nowhere.npz"), "There is no file nowhere.npz."),
        ((*OWN, "--optimizer", "sdg"), "There is no optimizer 'sdg'."),
        ((*OWN, "--max-examples", 20), "`max_examples`: expected 16 micro-batches"),
    ],
)
def test_what_is_wrong_is_said(folder, arguments, said):
    shown = run(*arguments)
    assert shown.exit_code == 2 and said in " ".join(shown.output.split()), shown.output


def point(updates, noise):
    return along.Point(updates, 50 * updates, noise)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([scale(2000.0)], "Up to batches of about 2,000 examples"),
        ([scale(50.0), scale(75.0)], "Up to batches of about 75 examples"),
        ([scale(50.0), scale(400.0)], " At the beginning it was 50: a batch that grows fits that."),
        (
            [scale(400.0), scale(450.0, (300.0, 700.0), False)],
            "The interval is wider than asked for: the data has ended.",
        ),
    ],
)
def test_the_finding_says_what_was_measured(points, said):
    found = noise._finding([point(number, one) for number, one in enumerate(points)])
    assert said in found
    assert ("a batch that grows" in found) == ("a batch that grows" in said)


def test_help_names_every_option():
    shown = run("--help").output
    for option in ("--data", "--model", "--batch-size", "--optimizer", "--peak", "--epochs", "--precision"):
        assert option in shown
    assert "--max-examples" in shown and "--seed" in shown and "--json" in shown
