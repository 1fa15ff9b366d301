"""`kwarmup study`, and `kwarmup train --plan` behind it."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kwarmup import Plan, Study, cosine
from kwarmup.cli import main
from kwarmup.studies import measure

DRAW = np.random.default_rng(0)
X = DRAW.random((200, 3, 3)).astype("float32")
Y = (X.mean(axis=(1, 2)) > 0.5).astype("int32")
FLAT = ["--data", "squares.npz", "--model", "my_flat:flat"]


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A folder in which a short study was made, and what that printed."""
    folder = tmp_path_factory.mktemp("study")
    np.savez(folder / "squares.npz", x_train=X[:160], y_train=Y[:160], x_val=X[160:], y_val=Y[160:])
    (folder / "my_flat.py").write_text(
        "import keras\n"
        "def flat():\n"
        "    return keras.Sequential([keras.Input((3, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        result = CliRunner().invoke(
            main, ["study", *FLAT, "--batch-sizes", "10,40", "--seeds", "1", "--budget", "120"]
        )
    assert result.exit_code == 0, result.output
    return folder, result.stdout


@pytest.fixture
def folder(studied, monkeypatch):
    monkeypatch.chdir(studied[0])
    monkeypatch.syspath_prepend(str(studied[0]))
    monkeypatch.setattr(sys.modules["kwarmup.export"], "check", lambda *_: None)
    return studied[0]


def test_it_prints_a_table_the_findings_and_a_plan(studied):
    folder, text = studied
    study = Study.load(folder / "study" / "study.json")
    assert study.batch_sizes == (10, 40) and study.settings.examples == 160 and not study.facts["held_out"]
    assert text.splitlines()[0].split()[:3] == ["batch", "size", "examples/s"]
    assert repr(study.recommend()) in text
    assert repr(study.recommend()).split("(")[0] in (folder / "study" / "report.html").read_text()
    assert f"kwarmup train --plan {Path('study/study.json')}" in text


def test_where_there_is_no_plan_yet_it_says_how_to_go_on(folder, monkeypatch):
    part = dataclasses.replace(Study.load("study/study.json"), noise=())
    monkeypatch.setattr(measure, "study", lambda *arguments, **keywords: part)
    text = CliRunner().invoke(main, ["study", *FLAT, "--resume", "--budget", "20"]).stdout
    why = "expected a noise scale, or updates to the target at three batch sizes."
    assert f"No plan for the goal 'time': {why}" in " ".join(text.split())
    assert text.splitlines()[-1] == "kwarmup study --resume --output study --budget 40 goes on with it."


@pytest.mark.filterwarnings("ignore::kwarmup.PlanWarning")  # two passes are few
def test_its_plan_is_trained_by(folder):
    result = CliRunner().invoke(main, ["train", *FLAT, "--plan", "study/study.json", "--epochs", "2"])
    assert result.exit_code == 0, result.output
    plan = Plan.from_dict(json.loads(Path("saved_models/squares/1/assets/plan.json").read_text()))
    assert plan == Study.load("study/study.json").recommend(epochs=2)


def test_a_plan_in_a_file_is_trained_by(folder):
    plan = Plan(learning_rate=0.1 * cosine(), batch_size=20, examples=160, epochs=3)
    Path("plan.json").write_text(plan.to_json())
    result = CliRunner().invoke(main, ["train", *FLAT, "--plan", "plan.json", "--output", "by_file"])
    assert result.exit_code == 0, result.output
    assert Plan.from_dict(json.loads(Path("by_file/1/assets/plan.json").read_text())) == plan


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study", *FLAT], "holds a study. Go on with it: --resume."),
        (["study", *FLAT, "--output", "new", "--batch-sizes", "10,a"], "Write: --batch-sizes 16,64,256"),
        (["study", *FLAT, "--output", "new", "--batch-sizes", "0"], "0 is no batch size"),
        (["study", *FLAT, "--output", "new", "--batch-sizes", "500"], "500 is more than the 160 training examples"),
        (["train", *FLAT, "--plan", "none.json"], "--plan none.json: No such file or directory."),
        (["train", *FLAT, "--plan", "my_flat.py"], "--plan my_flat.py: it cannot be read as JSON"),
        (["train", *FLAT, "--plan", "study/study.json", "--peak", "1", "--batch-size", "8"],
         "--plan decides what --batch-size, --peak would say."),
        (["train", "--plan", "study/study.json"], "is for 160 training examples, and the data has 1,438."),
    ],
    ids=["there is one", "no numbers", "zero", "too large", "no file", "no JSON", "both", "other data"],
)  # fmt: skip
def test_what_is_wrong_is_said(folder, arguments, words):
    before = Path("study/study.json").read_bytes()
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (1, 2) and words in " ".join(result.output.split()), result.output
    assert Path("study/study.json").read_bytes() == before
