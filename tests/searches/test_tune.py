"""`kwarmup tune`: in one process, killed and gone on with, and with workers of which one is killed."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kwarmup import Plan, SearchResult, Sweep, Throughput
from kwarmup.cli import functions, main, tuning, workers
from kwarmup.cli.errors import UserError
from kwarmup.searches import outcome
from kwarmup.searches.outcome import FINISHED
from kwarmup.searches.screen import Screen

DRAW = np.random.default_rng(0)
X = DRAW.random((200, 3, 3)).astype("float32")
Y = (X.mean(axis=(1, 2)) > 0.5).astype("int32")
FLAT = ["--data", "squares.npz", "--model", "my_flats:flat"]
TUNE = [
    "tune",
    *FLAT,
    "--tuner",
    "random",
    "--peak",
    "0.01,1",
    "--batch-sizes",
    "10,40",
    "--trials",
    "3",
    "--epochs",
    "3",
]
pytestmark = pytest.mark.filterwarnings("ignore::kwarmup.PlanWarning")  # three passes are few
#: A network that gives its process a signal in a pass, where it is asked to: once, and of several workers the first.
MODULE = """
import os, signal
import keras

class Flat(keras.Sequential):
    passes = 0

    def fit(self, *arguments, **more):
        Flat.passes += 1
        if Flat.passes == int(os.environ.get("SIGNAL_AT", 0)) and not os.path.exists("signalled"):
            if os.environ.get("KERASTUNER_TUNER_ID", "worker0") == "worker0":
                open("signalled", "w").close()
                os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
        return super().fit(*arguments, **more)

def flat():
    return Flat([keras.Input((3, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])

def wide(hp):
    units = hp.Choice("units", [3, 5])
    return Flat([keras.Input((3, 3)), keras.layers.Flatten(), keras.layers.Dense(units), keras.layers.Dense(2)])

def scored():
    network = Flat([keras.Input((3, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    network.compile("sgd", "mse", metrics=[keras.metrics.R2Score(name="r2_score")])
    return network

def other(first, second):
    return flat()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    np.savez(folder / "squares.npz", x_train=X[:160], y_train=Y[:160], x_val=X[160:], y_val=Y[160:])
    (folder / "my_flats.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def tuned(place):
    """A folder in which a search was made, and what that printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        result = CliRunner().invoke(main, TUNE)
    assert result.exit_code == 0, result.output
    return place, result.stdout


@pytest.fixture
def folder(tuned, monkeypatch):
    monkeypatch.chdir(tuned[0])
    monkeypatch.syspath_prepend(str(tuned[0]))
    monkeypatch.setattr(sys.modules["kwarmup.export"], "check", lambda *_: None)
    return tuned[0]


def without_time(result):
    return [trial._replace(seconds=0.0) for trial in result.trials]


def test_it_prints_a_table_and_keeps_a_plan_and_a_picture(tuned):
    folder, text = tuned
    found = SearchResult.load(folder / "tune" / "trials.json")
    assert [trial.status for trial in found.trials] == [FINISHED] * 3
    assert (found.objective, found.direction, found.reference) == ("val_accuracy", "max", 10)
    assert found.table() in text and repr(found.best_plan()) in text
    assert Plan.from_json((folder / "tune" / "best.json").read_text()) == found.best_plan()
    assert (folder / "tune" / "search.png").read_bytes().startswith(b"\x89PNG")


def test_its_plan_is_trained_by(folder):
    result = CliRunner().invoke(main, ["train", *FLAT, "--plan", "tune/best.json"])
    assert result.exit_code == 0, result.output
    trained = Plan.from_dict(json.loads(Path("saved_models/squares/1/assets/plan.json").read_text()))
    assert trained == SearchResult.load("tune/trials.json").best_plan()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (TUNE, "tune holds a search. Go on with it: --resume."),
        ([*TUNE, "--output", "new", "--peak", "1,0.1"], "two numbers above 0, the smaller one first"),
        ([*TUNE, "--output", "new", "--peak", "high"], "Write: --peak 0.001,1"),
        ([*TUNE, "--output", "new", "--batch-sizes", "10,500"], "500 is more than the 160 training examples"),
        ([*TUNE, "--resume", "--peak", "0.01,2"], "2.0 now"),
        ([*TUNE, "--resume", "--peak", "0.01,2"], "Write: --output another"),
        (
            [*TUNE, "--output", "unheard", "--objective", "val_mae"],
            "--objective: expected one that the training reports: 'accuracy', 'loss', 'val_accuracy', 'val_loss'. "
            "Received: 'val_mae' Write: --objective val_loss",
        ),
        ([*TUNE, "--output", "new", "--objective", "val_nowhere"], "Write: --objective val_loss"),
        ([*TUNE, "--output", "new", "--objective", "val_mean_io_u"], "Write: --objective val_loss"),
        (
            [*TUNE, "--output", "new", "--budget", "updates", "--batch-sizes", "40,10"],
            "passes at batch size 10, for 3 of the plan Write: --epochs ",
        ),
    ],
    ids=[
        "there is one",
        "range",
        "no numbers",
        "too large",
        "another",
        "elsewhere",
        "unreported",
        "no metric",
        "unknown",
        "budget",
    ],
)
def test_what_is_wrong_is_said(folder, arguments, words):
    before = Path("tune/trials.json").read_bytes()
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and words in " ".join(result.output.split()), result.output
    assert not re.search(r"search\(|replace\(|keras_tuner\.", result.output)
    assert Path("tune/trials.json").read_bytes() == before


@pytest.mark.parametrize(
    ("objective", "best"),
    [
        ("val_recall", max),
        ("val_sparse_categorical_accuracy", max),
        ("precision", max),
        ("val_acc", max),
        ("val_auc", max),
        ("val_f1_score", max),
        ("val_pearson_correlation", max),
        ("val_mae", min),
        ("val_loss", min),
    ],
)
def test_the_best_is_what_the_search_takes_for_the_best(folder, tmp_path, monkeypatch, objective, best):
    planted = SearchResult.load("tune/trials.json").trials
    scores = [0.5, 0.9, 0.2]

    def plant(self, trials, number):
        for trial, score in zip(planted, scores, strict=True):
            outcome.write(trials / f"trial_{trial.trial}", trial._replace(score=score))
        return 0

    monkeypatch.setattr(tuning.Tuning, "run", plant)
    result = CliRunner().invoke(main, [*TUNE, "--output", str(tmp_path), "--objective", objective])
    assert result.exit_code == 0, result.output
    wanted = planted[scores.index(best(scores))].plan
    assert Plan.from_json((tmp_path / "best.json").read_text()) == wanted
    assert sum(trial.plan == wanted for trial in planted) == 1


def test_what_cannot_be_searched_for_is_said_before_anything_is_measured(folder, monkeypatch):
    for name in ("find_lr", "throughput", "afresh"):
        monkeypatch.setattr(tuning, name, None)
    result = CliRunner().invoke(main, ["tune", *FLAT, "--output", "no", "--objective", "val_nowhere"])
    assert result.exit_code == 2 and "--objective val_nowhere: keras-tuner does not know" in result.output
    assert "keras_tuner.Objective" not in result.output and not Path("no").exists()


@pytest.mark.parametrize(
    ("part", "workers", "reports"),
    [("chief", (), True), ("worker0", (), False), ("chief", ("--workers", "2"), False)],
)
def test_of_several_machines_the_chief_reports(folder, monkeypatch, part, workers, reports):
    monkeypatch.setenv("KERASTUNER_TUNER_ID", part)
    monkeypatch.setattr(tuning.Tuning, "run", lambda *_: 0)  # the search has ended
    Path("tune/best.json").unlink(missing_ok=True)
    result = CliRunner().invoke(main, [*TUNE, *workers])
    assert result.exit_code == 0, result.output
    assert ("The best, trial" in result.stdout) == Path("tune/best.json").exists() == reports
    CliRunner().invoke(main, [*TUNE, "--resume"], env={"KERASTUNER_TUNER_ID": None})
    assert Path("tune/best.json").exists()  # for other tests


def test_workers_wait_for_what_the_chief_measures(tmp_path, monkeypatch):
    looked, sleep = threading.Event(), time.sleep
    monkeypatch.setattr(tuning.time, "sleep", lambda seconds: (looked.set(), sleep(0.01)))
    file, found = tmp_path / "new" / "speed.json", Throughput((10, 40), [(0.001, 0.002)], (0.0, 0.0))
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker1")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(tuning._once, file, None)
        assert looked.wait(60) and not waiting.done()
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
        assert tuning._once(file, lambda: found) == waiting.result(10)
    assert Throughput.from_dict(tuning._once(file, None)) == found
    with pytest.raises(KeyboardInterrupt):
        tuning._once(tmp_path / "stopped", lambda: dataclasses.replace(found, interrupted=True))
    assert not (tmp_path / "stopped").exists()
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker1")
    monkeypatch.setattr(tuning, "_PATIENCE", 0.05)
    with pytest.raises(UserError, match="After 0.05 s there is no .*lost, which the chief measures"):
        tuning._once(tmp_path / "lost", None)


def test_a_range_test_that_suggests_nothing_is_not_kept(folder, monkeypatch):
    flat = Sweep((1e-3, 1e-2, 1e-1), ((1.0, 1.0, 1.0),), batch_size=10)
    monkeypatch.setattr(tuning, "find_lr", lambda *_, **__: flat)
    words = [word for word in TUNE if word not in ("--peak", "0.01,1")]
    result = CliRunner().invoke(main, [*words, "--output", "flat"])
    assert result.exit_code == 2 and "say where to search: --peak 0.001,1" in result.output
    assert not Path("flat/sweep.json").exists()


TIMED = [*TUNE, "--output", "timed", "--budget", "time"]


def test_a_budget_of_time_is_measured_once(folder, monkeypatch):
    """A pass in batches of 40 takes half as long as one in batches of 10, and so a trial has twice as many."""
    calls = []

    def throughput(model, x, y, batch_sizes, seed):
        calls.append(tuple(batch_sizes))
        return Throughput((10, 40), [(0.001, 0.002)] * 5, (0.0, 0.0))

    monkeypatch.setattr(tuning, "throughput", throughput)
    result = CliRunner().invoke(main, TIMED)
    assert result.exit_code == 0, result.output
    found = SearchResult.load("timed/trials.json")
    assert {trial.values["batch_size"]: trial.plan.clock.epochs for trial in found.trials} == {10: 3, 40: 6}
    result = CliRunner().invoke(main, [*TIMED, "--resume", "--trials", "4"])
    assert result.exit_code == 0, result.output
    assert len(SearchResult.load("timed/trials.json").trials) == 4 and calls == [(10, 40)]


def test_where_one_batch_size_alone_fits_there_is_no_budget_of_time(folder, monkeypatch):
    lost = Throughput((10,), [(0.001,)] * 5, (0.0,), out_of_memory=(40,))
    monkeypatch.setattr(tuning, "throughput", lambda *_, **__: lost)
    result = CliRunner().invoke(main, [*TIMED, "--output", "lost"])
    assert result.exit_code == 2 and "--budget time: a batch of 40 does not fit" in result.output
    monkeypatch.setattr(tuning, "throughput", None)  # of a single batch size nothing is to be measured
    result = CliRunner().invoke(main, [*TIMED, "--output", "single", "--batch-sizes", "40", "--trials", "1"])
    assert result.exit_code == 0, result.output


def test_what_keras_tuner_would_minimise_is_maximised(folder):
    words = [*TUNE, "--output", "score", "--trials", "2", "--epochs", "1", "--objective", "val_r2_score"]
    scored = ["my_flats:scored" if word == "my_flats:flat" else word for word in words]
    result = CliRunner().invoke(main, scored)
    assert result.exit_code == 0, result.output
    state = json.loads(Path("score/trials/state.json").read_text())
    [first, second] = state["trials"].values()
    assert first["metrics"]["metrics"]["val_r2_score"]["direction"] == "max"
    found = SearchResult.load("score/trials.json")
    assert found.best.score == max(first["score"], second["score"]) > min(first["score"], second["score"])
    assert CliRunner().invoke(main, [*scored, "--resume"]).exit_code == 0


def test_what_a_function_chooses_is_searched_too(folder):
    wide = ["my_flats:wide" if word == "my_flats:flat" else word for word in TUNE]
    result = CliRunner().invoke(main, [*wide, "--output", "wide", "--epochs", "1"])
    assert result.exit_code == 0, result.output
    found = SearchResult.load("wide/trials.json")
    assert {trial.values["units"] for trial in found.trials} == {3, 5}
    units = found.best.values["units"]
    assert f"Its network has units {units}: give kwarmup train a --model that" in result.stdout


@pytest.mark.parametrize(
    ("command", "model", "takes", "instead"),
    [
        *((command, "wide", "(hp)", "nothing") for command in ("find-lr", "noise", "study", "train")),
        ("tune", "other", "(first, second)", "hp, which is of a search, or nothing"),
    ],
    ids=["find-lr", "noise", "study", "train", "tune"],
)
def test_a_function_that_takes_what_nobody_gives_is_refused(folder, command, model, takes, instead):
    more = ["--output", "refused"] if command in ("study", "tune") else []
    source = ["--data", "squares.npz", "--model", f"my_flats:{model}"]
    result = CliRunner().invoke(main, [command, *source, *more])
    assert result.exit_code == 2, result.output
    assert (
        f"--model my_flats:{model}: '{model}' takes {takes}, and nobody gives it that here" in result.output
    )
    assert f"Name a function that takes {instead}." in result.output


def takes_nothing():
    return "nothing"


def takes_hp(hp):
    return hp


def takes_hp_or_not(units=64, *, hp="not"):
    return units, hp


def takes_another_name(parameters, units=64):
    return parameters, units


def takes_hp_by_place(hp, /):
    return hp


@pytest.mark.parametrize(
    ("name", "searched", "alone"),
    [
        ("takes_nothing", "nothing", "nothing"),
        ("takes_hp", "hp", None),
        ("takes_hp_or_not", (64, "hp"), (64, "not")),
        ("takes_another_name", ("hp", 64), None),
        ("takes_hp_by_place", "hp", None),
    ],
)
def test_hp_goes_to_whom_it_is_for(name, searched, alone):
    source = f"{__name__}:{name}"
    assert functions.call("--model", source, "hp") == searched
    if alone is None:
        with pytest.raises(UserError, match=f"'{name}' takes .*nobody gives it that"):
            functions.call("--data", source)
    else:
        assert functions.call("--model", source) == alone


def test_resume_where_there_is_nothing_says_so(folder):
    result = CliRunner().invoke(main, [*TUNE, "--output", "fresh", "--resume", "--trials", "1"])
    assert result.exit_code == 0, result.output
    assert "There is nothing to go on with in fresh: a search begins." in result.stdout
    assert "nothing to go on" not in CliRunner().invoke(main, [*TUNE, "--output", "fresh", "--resume"]).stdout


@pytest.mark.parametrize("ends", ["worker1", "chief"])
@pytest.mark.parametrize(
    ("says", "shown"),
    [
        ("Error: an old one\\nStarting.\\nError: --objective val_mae\\nWrite: --objective val_loss\\n",
         "--objective val_mae\nWrite: --objective val_loss"),
        ("one\\ntwo\\n", "one\ntwo"),
    ],
    ids=["error", "no error"],
)  # fmt: skip
def test_what_the_user_did_wrong_ends_all_workers_at_once(tmp_path, monkeypatch, ends, says, shown):
    begun = []

    def begin(name, port, number, logs):
        does = f"printf '{says}'; exit 2" if name == ends else "exec sleep 60"
        with open(logs / f"{name}.txt", "ab") as log:
            begun.append((name, subprocess.Popen(["sh", "-c", does], stdout=log)))
        return begun[-1][1]

    monkeypatch.setattr(workers, "_begin", begin)
    screen = Screen(SearchResult("val_loss", "min", 10, (10, 40), ()), 3, False)
    with pytest.raises(UserError) as caught:
        workers.run(2, tmp_path / "trials", tmp_path / "logs", screen)
    log = tmp_path / "logs" / f"{ends}.txt"
    assert caught.value.message == f"{shown}\nSo ended {ends}; all of its words: {log}"
    assert sorted(name for name, _ in begun) == ["chief", "worker0", "worker1"]  # none a second time
    assert all(process.poll() is not None for _, process in begun)


def start(arguments, **environment):
    """Run a command in a process of its own; return its exit code and what it wrote."""
    path = os.pathsep.join([os.getcwd(), *sys.path])
    run = subprocess.run(
        [sys.executable, "-m", "kwarmup", *arguments], env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


@pytest.mark.slow
def test_a_search_that_was_stopped_and_killed_goes_on_to_the_same_result(forks, folder):
    """Ctrl-C in the second pass of the second trial; behind it a kill in the first pass of the third."""
    stopped = [*TUNE, "--output", "stopped"]
    code, text = run(forks, folder, stopped, SIGNAL="SIGINT", SIGNAL_AT="5")
    assert code == 130, text
    first = SearchResult.load("stopped/trials.json")
    assert first.table() in text and repr(first.best_plan()) in text and "Traceback" not in text
    assert (
        "Stopped by Ctrl-C; the trial at hand is kept." in text and "the same command with --resume" in text
    )
    code, text = run(forks, folder, [*stopped, "--resume"], SIGNAL="SIGKILL", SIGNAL_AT="3")
    assert code == -signal.SIGKILL, text
    code, text = run(forks, folder, [*stopped, "--resume"])
    assert code == 0, text
    again = SearchResult.load("stopped/trials.json")
    assert without_time(again) == without_time(SearchResult.load("tune/trials.json"))
    assert without_time(first) == without_time(again)[:1]
    # The first was not begun again, the second went on behind its first pass, and Ctrl-C is no fault of it.
    step = 160 // again.trials[1].values["batch_size"]
    assert begun("stopped") == [[[]], [[f"training0/step-{step:012}"]], [[], []]]
    # What they went on from is not kept for ever; the best weights are.
    assert not list(Path("stopped/trials").glob("trial_*/training*"))
    assert len(list(Path("stopped/trials").glob("trial_*/checkpoint.weights.h5"))) == 3


@pytest.mark.slow
def test_ctrl_c_before_a_trial_has_ended(forks, folder):
    code, text = run(forks, folder, [*TUNE, "--output", "early"], SIGNAL="SIGINT", SIGNAL_AT="1")
    assert code == 130 and "the trial at hand, the first, is kept" in text, text
    assert not Path("early/trials.json").exists()


def run(forks, folder, arguments, **settings):
    """Run a command in a forked process; return its exit code and what it wrote."""
    Path("signalled").unlink(missing_ok=True)
    code, said = forks.run("command", folder, json.dumps(settings), *arguments)
    return code, said + Path("out.txt").read_text()


def begun(folder):
    """At which checkpoints each trial was begun."""
    paths = sorted(Path(folder).glob("trials/trial_*/begun.json"))
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_its_trial_only(folder):
    Path("signalled").unlink(missing_ok=True)
    code, text = start(
        [*TUNE, "--output", "workers", "--workers", "2", "--trials", "4"], SIGNAL="SIGKILL", SIGNAL_AT="2"
    )
    assert code == 0, text + "".join(path.read_text() for path in Path("workers/logs").iterdir())
    assert "worker0 ended with -9; it is begun again, and so is its trial." in text
    found = SearchResult.load("workers/trials.json")
    assert [trial.status for trial in found.trials] == [FINISHED] * 4
    tries = begun("workers")
    assert sorted(map(len, tries)) == [1, 1, 1, 2]
    assert all(more[-1] for more in tries if len(more) == 2)  # behind its checkpoint
    assert not list(Path("workers/trials").glob("trial_*/training*"))
