"""The commands without TensorFlow: help, `kwarmup show` and its errors."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

import kwarmup
from kwarmup import Plan, Profile, cosine, hold, inverse_sqrt, multistep, warmup
from kwarmup.cli import main
from kwarmup.cli.errors import UserError
from kwarmup.cli.tensorflow import import_quietly
from kwarmup.cli.terminal import chart, plan_chart

PROFILE = 0.1 * (warmup(steps=500) >> cosine(steps=9_500))
EXPRESSION = "0.1 * (warmup(steps=500) >> cosine(steps=9_500))"
CLOCKED = "0.1 * (warmup(epochs=5) >> cosine())"
CLOCK = ["--examples", "50000", "--epochs", "90", "--batch-size", "256"]
# Where the package was imported from, for the processes that are started from other folders.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(kwarmup.__file__).parents[1])}


def run(*arguments, **keywords):
    return CliRunner().invoke(main, arguments, **keywords)


def shown(*arguments, **keywords):
    result = run("show", *arguments, **keywords)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments):
    """Return the one message of a command that ends with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    return result.stderr


# Start-up

HEAVY = ["keras", "tensorflow", "jax", "torch", "matplotlib", "sklearn", "keras_tuner"]


def loaded(*command, cwd=None):
    """Return which of the heavy libraries a command imported, and what it wrote."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kwarmup", *command],
        cwd=cwd, capture_output=True, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    return imported & set(HEAVY), result.stdout


@pytest.mark.parametrize(
    "command", [["--help"], ["show", "--help"], ["train", "--help"], ["--version"], ["show", EXPRESSION]]
)
def test_what_needs_nothing_heavy_imports_nothing_heavy(command):
    heavy, text = loaded(*command)
    assert heavy == set()
    assert text


def test_an_import_would_be_seen(tmp_path):
    heavy, _ = loaded("show", EXPRESSION, "--plot", "a.png", cwd=tmp_path)
    assert heavy == {"matplotlib"}


def test_help_feels_instant():
    # The best of a few: what is asked is how much there is to do, not how busy the machine is.
    times = []
    for _ in range(5):
        began = time.perf_counter()
        loaded("--help")
        times.append(time.perf_counter() - began)
    assert min(times) < 1


def test_the_package_runs_as_the_command():
    assert loaded("--version")[1].split() == ["kwarmup,", "version", kwarmup.__version__]


# What show prints


def test_a_profile_in_steps():
    text = shown(EXPRESSION)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == repr(PROFILE)
    assert lines[1].startswith("0.1 │")
    assert lines[-1] == "10,000 updates"
    (row,) = [line.split() for line in lines if line.startswith(" warmup")]
    assert row == ["warmup(steps=500)", "0", "–", "499", "0", "→", "0.0998"]
    assert "epoch" not in text
    assert "batch" not in text
    assert "\x1b" not in text


def test_a_plan():
    text = shown(CLOCKED, *CLOCK)
    assert "17,640 updates, 90 epochs of 50,000 examples" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith(" cosine")]
    assert row == ["cosine()", "980", "–", "17,639", "5", "–", "90", "256", "0.1", "→", "8.743e-11"]


def test_the_warnings_of_a_plan():
    assert "Warning: The peak of 0.1 is never reached" in shown(
        "0.1 * warmup(epochs=90)", *CLOCK, "--batch-size", "50000"
    )
    assert "Warning" not in shown(CLOCKED, *CLOCK)


def test_a_fraction_of_a_number_of_steps():
    text = shown("0.1 * (warmup(fraction=0.1) >> cosine())", "--steps", "200")
    assert "200 updates" in text
    assert "0 – 19" in text


def test_what_comes_behind_the_end_is_held():
    assert "(held)" in shown("warmup(steps=50)", "--steps", "200")


@pytest.mark.parametrize(
    ("profile", "last"), [(inverse_sqrt(steps=4_000), "4,000 – …"), (multistep(steps=[30]), "30 – …")]
)
def test_a_profile_without_an_end(profile, last):
    text = shown(repr(profile))
    assert "It goes on for ever." in text
    assert last in text


@pytest.mark.parametrize("width", [30, 46, 60, 80, 200])
def test_it_fits_the_terminal(width):
    for arguments in ([EXPRESSION], [CLOCKED, *CLOCK]):
        text = shown(*arguments, env={"COLUMNS": str(width)})
        # The profile itself is code, to be copied: it is not broken into lines.
        assert max(len(line.rstrip()) for line in text.splitlines()[1:] if "of 50,000" not in line) <= width


def test_a_table_is_whole_where_the_output_is_no_terminal():
    text = shown("0.1 * (warmup(steps=500, start=0.0123456789) >> exponential(to=0.0123456789, steps=9_500))")
    assert "exponential(steps=9500, to=0.0123456789) " in text


def test_an_encoding_without_blocks_is_no_error(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "kwarmup", "show", EXPRESSION], capture_output=True, check=True,
        env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert b"10,000 updates" in result.stdout


def test_a_pipe_that_is_closed_early_is_no_traceback():
    command = f"{sys.executable} -m kwarmup show '{EXPRESSION}' | head -c 10"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert "Traceback" not in result.stderr


CHARTS = [
    ([0, 1, 2, 3, 4, 3, 2, 1, 0], 1, ["▁▃▄▆█▆▄▃▁"]),
    ([0, 1], 2, [" █", "▁█"]),
    ([0, 0, 0], 2, ["   ", "▁▁▁"]),
    ([5, 5], 1, ["██"]),
    ([-1, 0, 1], 1, ["▁▄█"]),
]


@pytest.mark.parametrize(("values", "rows", "drawn"), CHARTS)
def test_a_chart_of_blocks(values, rows, drawn):
    assert chart(values, rows) == drawn


@pytest.mark.parametrize("width", [20, 60, 200])
def test_a_chart_has_its_peak_and_its_updates(width):
    # The peak of update 333 lies between two columns.
    plan = Plan(learning_rate=0.1 * (warmup(steps=333) >> cosine()), batch_size=1, examples=10_000, epochs=1)
    lines = plan_chart(plan, width).splitlines()
    assert lines[0].startswith("0.1 │")
    assert lines[-2].startswith("  0 │")
    assert lines[-1].endswith("10,000 updates")
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [20, 60, 200])
def test_a_batch_size_that_moves_has_a_chart_of_its_own(width):
    plan = Plan(learning_rate=0.1, batch_size=50 * (hold(epochs=1) >> hold(20)), examples=10_000, epochs=3)
    lines = plan_chart(plan, width).splitlines()
    assert (lines[0], lines[5]) == ("learning rate", "batch size")
    assert lines[1].startswith("  0.1 │")
    assert lines[6].startswith("1,000 │")
    assert lines[7].startswith("    0 │")
    # 200 updates of 50, then 20 of 1,000: what is drawn is as long as the updates are many.
    drawn = lines[6].partition("│")[2]
    assert set(drawn) == {" ", "█"}
    assert drawn.count("█") / len(drawn) == pytest.approx(20 / 220, abs=1 / len(drawn))
    assert lines[-1].endswith("220 updates")
    assert max(map(len, lines)) <= width


GROWING = ["--examples", "10000", "--epochs", "3", "--batch-size", "50 * (hold(epochs=1) >> hold(4))"]


def test_a_plan_whose_batch_size_moves():
    lines = shown(CLOCKED.replace("=5", "=1"), *GROWING, "--scaling", "1").splitlines()
    words = "batch size 50 * (hold(epochs=1) >> hold(4)); the learning rate moves with it"
    assert lines[1:3] == [words, "learning rate"]
    assert any(line.split()[-4:] == ["200", "0.4", "→", "9.869e-05"] for line in lines)
    assert "300 updates, 3 epochs of 10,000 examples" in lines
    plan = Plan.from_json(shown("0.1", *GROWING, "--scaling", "0.5", "--multiple-of", "25", "--json"))
    size = 50 * (hold(epochs=1) >> hold(4))
    made = Plan(learning_rate=0.1, batch_size=size, examples=10_000, epochs=3, scaling=0.5, multiple_of=25)
    assert plan == made


def test_a_plan_is_given_a_batch_size_that_moves(tmp_path, plan):
    (tmp_path / "plan.json").write_text(plan.to_json())
    text = shown(str(tmp_path / "plan.json"), "--batch-size", "250 * (hold(epochs=1) >> hold(4))")
    assert "6 updates, 3 epochs of 1,000 examples" in text


# Files and folders


@pytest.fixture
def plan():
    return Plan(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=250, examples=1_000, epochs=3)


def write_run(folder, plan, **metrics):
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json())
    history = {
        "accuracy": [0.5, 0.75],
        "loss": [2.0, 1.0],
        "val_loss": [1.5, None],
        "learning_rate": [0.1, 0.05],
    }
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_json_is_read_again(tmp_path, plan):
    text = shown(EXPRESSION, "--json")
    assert Profile.from_json(text) == PROFILE
    (tmp_path / "profile.json").write_text(text)
    assert shown(str(tmp_path / "profile.json"), "--json") == text
    text = shown(repr(plan.profile), "--examples", "1000", "--epochs", "3", "--batch-size", "250", "--json")
    assert Plan.from_json(text) == plan
    (tmp_path / "plan.json").write_text(text)
    assert shown(str(tmp_path / "plan.json"), "--json") == text
    assert "12 updates, 3 epochs of 1,000 examples" in shown(str(tmp_path / "plan.json"))


def test_a_plan_with_another_clock(tmp_path, plan):
    (tmp_path / "plan.json").write_text(plan.to_json())
    text = shown(str(tmp_path / "plan.json"), "--epochs", "6", "--batch-size", "500")
    assert "12 updates, 6 epochs of 1,000 examples" in text


def test_a_finished_run(tmp_path, plan):
    run_folder = write_run(tmp_path / "run", plan, updates=12, seconds=3.21, interrupted=False)
    text = shown(str(run_folder))
    assert "12 updates, 3 epochs of 1,000 examples" in text
    assert "Trained for 12 of 12 updates in 3.2 s\n" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["last", "epoch", "training", "validation"] in rows
    assert ["loss", "1.0000"] in rows
    assert ["accuracy", "0.7500"] in rows


def test_a_run_that_was_stopped(tmp_path, plan):
    folder = write_run(tmp_path / "run", plan, updates=7, seconds=3.21, interrupted=True)
    assert "Trained for 7 of 12 updates in 3.2 s, then stopped by Ctrl-C" in shown(str(folder))


def test_the_newest_version_of_a_folder_of_runs(tmp_path, plan):
    for version in ("2", "10", "9"):
        write_run(tmp_path / "digits" / version / "assets", plan.replace(epochs=int(version)))
    (tmp_path / "digits" / "11").mkdir()
    assert "10 epochs of 1,000" in shown(str(tmp_path / "digits"))
    assert "9 epochs of 1,000" in shown(str(tmp_path / "digits" / "9"))


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_a_picture_of_each(tmp_path, plan, name):
    folder = write_run(tmp_path / "run", plan, updates=8)
    for index, arguments in enumerate([[EXPRESSION], [CLOCKED, *CLOCK], [str(folder)]]):
        picture = tmp_path / f"{index}{name}"
        assert f"Drawn into {picture}" in shown(*arguments, "--plot", str(picture))
        assert picture.stat().st_size > 5_000
    assert shown(EXPRESSION, "--json", "--plot", str(tmp_path / name)).startswith("{")


# What is refused

EPOCHS = "Lengths in epochs or examples need a clock: give --examples, --epochs and --batch-size too."
LENGTH = "to know how long the run is: give --steps, or --examples, --epochs and --batch-size."
NOWHERE = ", and it is no expression either:\n"
WRONG = [
    (
        ["warmpu(steps=5)"],
        "`warmpu` cannot be called here; did you mean `warmup`?\n  warmpu(steps=5)\n  ^^^^^^\n",
    ),
    (["warmup(5)"], "`length`: expected a keyword that names the unit."),
    ([CLOCKED], EPOCHS),
    (["hold(examples=5)"], EPOCHS),
    ([CLOCKED, "--steps", "9"], EPOCHS),
    ([CLOCKED, "--epochs", "3"], "The clock is not complete: give --examples and --batch-size too."),
    (["warmup(fraction=0.1)"], LENGTH),
    (["warmup(steps=5) >> cosine()"], LENGTH),
    (["hold() >> cosine(steps=5)"], LENGTH),
    (
        ["0.1", "--steps", "9", "--epochs", "2"],
        "--steps is for profiles without a clock; leave it out, or --epochs.",
    ),
    (["warmup(steps=50)", "--steps", "9"], "phases"),
    (["warmup(epochs=99)", *CLOCK], "phases"),
    (["no/such/plan.json"], f"There is no file or folder no/such/plan.json{NOWHERE}"),
    (["saved_models"], f"There is no file or folder saved_models{NOWHERE}`saved_models` means nothing here."),
    ([EXPRESSION, "--plot", "a.xyz"], "--plot: `path`: expected a name that ends in .png, .svg or .pdf."),
    ([EXPRESSION, "--plot", "no/such/folder/a.png"], "--plot: "),
    (["0.1", "--epochs", "0"], "Invalid value for '--epochs'"),
    (["0.1", *CLOCK, "--batch-size", "0"], "Invalid value for '--batch-size': 0 is not a number of examples"),
    (
        ["0.1", *CLOCK, "--batch-size", "6 * hodl()"],
        "--batch-size: `hodl` cannot be called here; did you mean",
    ),
    (["0.1", *CLOCK, "--scaling", "3"], "Invalid value for '--scaling'"),
    (
        ["0.1", "--steps", "9", "--scaling", "1"],
        "--steps is for profiles without a clock; leave it out, or --scaling.",
    ),
    (["x" * 5_000], "means nothing here"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), WRONG, ids=[" ".join(arguments)[:60] for arguments, _ in WRONG]
)
def test_what_show_refuses(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    message = refused("show", *arguments)
    assert message.startswith(("Error: ", "Usage: "))
    assert words in message


FILES = [
    ("{", "plan.json cannot be read as JSON"),
    ("[]", "plan.json holds no plan and no profile"),
    ("{}", "expected the keys 'scale' and 'phases'"),
    ('{"learning_rate": {}}', "expected the data of a plan"),
    (
        '{"scale": 1, "phases": [{"shape": "mine", "to": 0, "steps": 5}]}',
        "import the module that registers 'mine'",
    ),
]


@pytest.mark.parametrize(("text", "words"), FILES)
def test_a_file_that_holds_something_else(tmp_path, text, words):
    (tmp_path / "plan.json").write_text(text)
    assert words in refused("show", str(tmp_path / "plan.json"))
    assert words in refused("show", str(tmp_path))


def test_a_folder_that_is_no_run(tmp_path, plan):
    assert "nor in a version 1, 2, … of it: it is not a run" in refused("show", str(tmp_path))
    (tmp_path / "plan.json").write_text(plan.profile.to_json())
    assert "plan.json is a profile, not a plan" in refused("show", str(tmp_path))
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert "this plan has one: use --epochs" in refused("show", str(tmp_path), "--steps", "5")


def test_a_bracket_is_no_markup(tmp_path, plan):
    name = tmp_path / "[bold]a.png"
    assert f"Drawn into {name}" in shown(repr(0.1 * hold(steps=3)), "--plot", str(name))


def test_a_backend_that_is_not_installed_is_said(monkeypatch):
    # Not Keras's own, of which a failed import would leave a half.
    backend = types.SimpleNamespace(backend=lambda: "tensorflow")
    monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace(backend=backend))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(
        UserError, match="(?s)tensorflow, the backend .* install tensorflow, or KERAS_BACKEND=jax"
    ):
        import_quietly()
