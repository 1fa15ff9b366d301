"""`kwarmup train`: the default run, data and models of the user, Ctrl-C, and what it refuses."""

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import kwarmup
from kwarmup import Plan, Schedule, cosine, hold, linear, warmup
from kwarmup.cli import along_workers, main, models, training, unfinished
from kwarmup.cli.data import Data
from kwarmup.cli.errors import UserError
from kwarmup.cli.interrupt import Interrupt
from kwarmup.distribute.cluster import Cluster
from kwarmup.identity import differences, of_model

COMMAND = [sys.executable, "-m", "kwarmup", "train"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(kwarmup.__file__).parents[1])}
FILES = {
    "saved_model.pb", "variables", "assets", "fingerprint.pb", "model.keras", "signatures.json", "training.png",
}  # fmt: skip

X = np.random.default_rng(0).random((40, 6, 6)).astype("float32")
Y = (X.mean(axis=(1, 2)) > 0.5).astype("int32")
DATA = Data("squares", X, Y, X[:8], Y[:8])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with data and code of a user in it."""
    np.savez(tmp_path / "squares.npz", x_train=X, y_train=Y, x_val=X[:8], y_val=Y[:8])
    (tmp_path / "my_networks.py").write_text(
        "import keras\n"
        "def flat(units=2, activation=None, shape=(6, 6)):\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(),\n"
        "                             keras.layers.Dense(units, activation)])\n"
        "def softmax(): return flat(activation='softmax')\n"
        "def compiled():\n"
        "    model = flat(units=1)\n"
        "    model.compile(keras.optimizers.Adam(0.003, beta_1=0.8), 'mse', metrics=['mae'])\n"
        "    return model\n"
        "def own_loss(y, p): return keras.ops.mean(keras.ops.abs(y - p))\n"
        "def own():\n"
        "    model = flat(units=1)\n"
        "    model.compile('sgd', own_loss)\n"
        "    return model\n"
        "def unfit():\n"
        "    model = flat(units=3)\n"
        "    model.compile('sgd', 'categorical_crossentropy')\n"
        "    return model\n"
        "def accumulating():\n"
        "    model = flat()\n"
        "    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)\n"
        "    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), loss)\n"
        "    return model\n"
        "def at_risk():\n"
        "    import lost\n"
        "    return flat()\n"
        "def large(): return flat(shape=(9, 6, 1))\n"
        "def one(): return flat(units=1)\n"
        "def nothing(): return None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_networks", None)
    return tmp_path


@pytest.fixture
def unchecked(monkeypatch):
    """Leave out the fresh process of the export's check, which has its own tests."""
    monkeypatch.setattr(sys.modules["kwarmup.export"], "check", lambda *_: None)


def run(*arguments):
    return CliRunner().invoke(main, ["train", *arguments])


def trained(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


SQUARES = ["--data", "squares.npz"]
FLAT = [*SQUARES, "--model", "my_networks:flat"]


def read(version, name):
    return json.loads((Path(version) / "assets" / name).read_text())


# The main job, as a user runs it


@pytest.mark.slow
def test_the_default_run_trains_digits_and_keeps_them(tmp_path):
    began = time.monotonic()
    result = subprocess.run(COMMAND, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert time.monotonic() - began < 180  # a hang, not a slow machine
    version = tmp_path / "saved_models" / "digits" / "1"
    assert {entry.name for entry in version.iterdir()} == FILES
    assert [entry.name for entry in version.parent.iterdir()] == ["1"]

    metrics, history = read(version, "metrics.json"), read(version, "history.json")
    assert metrics["val_accuracy"] >= 0.98
    assert metrics["seconds"] < 60
    assert (metrics["updates"], metrics["interrupted"]) == (460, False)
    plan = Plan.from_dict(read(version, "plan.json"))
    assert plan.profile == 0.1 * (warmup(fraction=0.1) >> cosine())
    # The learning rates of each epoch's last update are those of the plan.
    np.testing.assert_allclose(history["learning_rate"], plan.curve(np.arange(20) * 23 + 22), atol=1e-7)

    lines = result.stdout.splitlines()
    assert re.search(r"20/20 .* 3\.31e-07", result.stdout)
    assert "460 of 460 updates in" in result.stdout
    assert "The SavedModel was loaded in a fresh process and gives the same outputs." in lines
    assert f"Kept in {Path('saved_models/digits/1')}" in lines
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout

    shown = CliRunner().invoke(main, ["show", str(tmp_path / "saved_models" / "digits")])
    assert "Trained for 460 of 460 updates" in shown.output


def test_the_default_network_is_small():
    assert models.convolutional((8, 8, 1), 10).count_params() < 40_000


# Several workers


def test_batch_norm_of_the_default_network_looks_at_all_devices(monkeypatch):
    """So that it is the network that one process trains; a training goes on with another number of them."""
    import tensorflow as tf

    data = Data("squares", X[..., np.newaxis], Y, X[:8, ..., np.newaxis], Y[:8])
    norms, facts = [], []
    for count in (1, 2):
        strategy = types.SimpleNamespace(num_replicas_in_sync=count)
        monkeypatch.setattr(tf.distribute, "get_strategy", lambda strategy=strategy: strategy)
        model = models.load(None, data)
        model.compile("sgd", "mse")
        norms.append({getattr(layer, "synchronized", None) for layer in model.layers} - {None})
        facts.append(of_model(model))
    assert norms == [{False}, {True}]
    assert not list(differences(*facts))


#: Each worker kills itself in the start that has its number, once there are checkpoints that were not there before.
LOST = """
import json, os, pathlib, signal, threading, time
number = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
if os.environ["KWARMUP_RESTARTS"] == str(number):
    checkpoints = pathlib.Path("disturbed/checkpoints")
    before = set(checkpoints.glob("step-*"))
    def watch():
        while not set(checkpoints.glob("step-*")) - before:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()
"""


@pytest.mark.slow
def test_workers_train_to_the_same_network(folder, unchecked):
    """As one process does, up to rounding; and bit for bit where the chief is killed, and then the other one."""
    plan = Plan(learning_rate=0.1 * cosine(), batch_size=8, examples=40, epochs=4)
    Path("plan.json").write_text(plan.to_json())
    arguments = [*FLAT, "--plan", "plan.json", "--optimizer", "sgd"]
    trained(*arguments, "--output", "alone")
    several_command = [*COMMAND, *arguments, "--output", "several", "--workers", "2"]
    result = subprocess.run(several_command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert (
        "Kept in several/1" in lines and len([line for line in lines if line.strip().startswith("4/4")]) == 1
    )
    assert not [line for line in lines if line.startswith("[")], "what the others write is no part of it"
    assert {entry.name for entry in Path("several/1").iterdir()} == FILES
    assert Plan.from_dict(read("several/1", "plan.json")) == plan
    one, two = (read(f"{name}/1", "history.json") for name in ("alone", "several"))
    assert {name: pytest.approx(values, rel=1e-5) for name, values in one.items()} == two
    alone, several = (keras.models.load_model(f"{name}/1/model.keras") for name in ("alone", "several"))
    for mine, theirs in zip(alone.get_weights(), several.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert int(several.optimizer.iterations) == 20

    (folder / "lost.py").write_text(LOST)
    disturbed = [
        word.replace("several", "disturbed").replace(":flat", ":at_risk") for word in several_command
    ]
    result = subprocess.run(
        [*disturbed, "--max-restarts", "2"], env=ENVIRONMENT, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for words in (
        "Worker 0 has ended with code 137.\nAll 2 workers are started again (1 of 2).",
        "Worker 1 has ended with code 137.\nAll 2 workers are started again (2 of 2).",
    ):
        assert words in result.stderr
    assert {entry.name for entry in Path("disturbed").iterdir()} == {"1"}
    assert read("disturbed/1", "history.json") == two
    broken = keras.models.load_model("disturbed/1/model.keras")
    for mine, theirs in zip(several.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_help_names_what_sees_each_worker_by_itself():
    text = " ".join(CliRunner().invoke(main, ["train", "--help"]).output.split())
    option = text.partition("--workers NUMBER")[2].partition("--max-restarts NUMBER")[0]
    assert "Dropout sees each of them by itself, and so does BatchNorm without synchronized=True" in option
    assert "up to rounding; but dropout, which the network without --model has, draws in each worker" in text


def test_another_start_where_it_is_of_use(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    (tmp_path / "1").mkdir()
    settled = along_workers.settled(tmp_path, checkpoints)
    assert settled(2) == 2, "wrong options stay wrong"
    assert settled(137) is None
    (checkpoints / "step-000000000005").mkdir(parents=True)
    assert settled(137) is None
    (tmp_path / "2").mkdir()
    assert settled(137) is None, (
        "the first one was lost before it had cleared up: it writes the version again"
    )
    unfinished.close(checkpoints, tmp_path / "2", interrupted=False)
    assert settled(137) == 0, "kept already"


@pytest.mark.parametrize(
    ("config", "arguments", "said"),
    [
        ("{", [], "`TF_CONFIG`: expected JSON"),
        (Cluster(("a:1", "b:1"), 0).to_json(), ["--workers", "3"], "--workers 3, and TF_CONFIG names 2."),
        ("", ["--max-restarts", "2"], "--max-restarts: of several workers only. Write: --workers 2"),
        ("", ["--workers", "2", "--max-device-batch", "4"], "--max-device-batch: not with several workers"),
    ],
)
def test_workers_that_cannot_be_are_refused(folder, monkeypatch, config, arguments, said):
    monkeypatch.setenv("TF_CONFIG", config)
    result = run(*FLAT, *arguments)
    assert result.exit_code == 2 and said in result.output
    assert not Path("saved_models").exists()


# Ctrl-C


def hear_ctrl_c():
    """In the new process: a shell that runs these tests in the background has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder, *arguments):
    """Start a training that would last for hours; return the process, once it has trained for an epoch."""
    command = [*COMMAND, *FLAT, "--epochs", "100000", "--batch-size", "4", *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True, preexec_fn=hear_ctrl_c
    )
    for line in process.stdout:
        if "2/100000" in line:
            return process
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_trained(folder):
    process = start(folder)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    assert "Stopped by Ctrl-C; what was trained is kept." in out
    assert out.splitlines()[-1] == "The same command with --resume goes on with it."
    version = folder / "saved_models" / "squares" / "1"
    assert {entry.name for entry in version.iterdir()} == FILES | {"checkpoints"}
    assert [entry.name for entry in version.parent.iterdir()] == ["1"]
    metrics, history = read(version, "metrics.json"), read(version, "history.json")
    assert metrics["interrupted"] is True
    assert len(history["loss"]) == len(history["val_loss"]) == -(-metrics["updates"] // 10)
    assert f"{metrics['updates']:,} of 1,000,000 updates in" in out
    model = keras.models.load_model(version / "model.keras")
    assert int(model.optimizer.iterations) == metrics["updates"]


def test_a_second_ctrl_c_stops_at_once(folder):
    process = start(folder)
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if "Stopped by Ctrl-C" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "Stopped at once. The same command with --resume goes on with it.\n"
    assert [entry.name for entry in (folder / "saved_models" / "squares").iterdir()] == ["checkpoints"]


def test_ctrl_c_before_the_training_keeps_nothing(folder):
    process = subprocess.Popen(
        COMMAND, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "Stopped before the training began."
    assert not (folder / "saved_models").exists()


def test_a_terminal_sees_a_bar_and_gets_its_cursor_back(folder):
    main_end, terminal = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "90"}
    command = [*COMMAND, *FLAT, "--epochs", "3", "--batch-size", "4"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = b""
    while True:
        try:
            part = os.read(main_end, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(main_end)
    text = seen.decode()
    assert process.wait(60) == 0
    assert "epoch 3/3" in text
    assert "learning rate" in text
    assert "Starting TensorFlow" in text
    assert "checking it in a fresh process" in text
    assert "oneDNN" not in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


# A batch size that moves

GROWING = ["--batch-size", "4 * (hold(epochs=1) >> linear(to=4, epochs=2) >> hold(4))", "--scaling", "0.5"]


@pytest.mark.usefixtures("unchecked")
def test_a_batch_size_that_moves(folder):
    text = trained(*FLAT, "--epochs", "4", *GROWING)
    assert (
        "Batch size 4 * (hold(epochs=1) >> linear(epochs=2, to=4) >> hold(4)); "
        "the learning rate moves with its square root\n"
    ) in text
    assert "4 → 16" in text
    version = "saved_models/squares/1"
    plan = Plan.from_dict(read(version, "plan.json"))
    profile = 0.1 * (warmup(fraction=0.1) >> cosine())
    size = 4 * (hold(epochs=1) >> linear(to=4, epochs=2) >> hold(4))
    assert plan == Plan(learning_rate=profile, batch_size=size, examples=40, epochs=4, scaling=0.5)
    history = read(version, "history.json")
    assert history["batch_size"] == [4, 9, 15, 16]
    lasts = [plan.clock.step_at(epochs=epoch) - 1 for epoch in range(1, 5)]
    np.testing.assert_allclose(history["learning_rate"], plan.curve(lasts), atol=1e-7)
    assert f"{plan.clock.steps} of {plan.clock.steps} updates" in text
    assert read(version, "metrics.json")["batch_size"] == 16
    assert "batch_size" not in text  # neither a column of the epochs nor a metric


@pytest.mark.usefixtures("unchecked")
def test_the_sizes_of_a_ramp_are_rounded(folder):
    trained(*FLAT, "--epochs", "3", "--batch-size", "4 * linear(to=4)", "--multiple-of", "4")
    clock = Plan.from_dict(read("saved_models/squares/1", "plan.json")).clock
    assert set(clock.batch_size_at(np.arange(clock.steps)).tolist()) == {4, 8, 12, 16}


@pytest.mark.usefixtures("unchecked")
def test_an_optimizer_that_accumulates_is_counted_in_updates(folder):
    arguments = [*SQUARES, "--model", "my_networks:accumulating", "--epochs", "3"]
    assert "15 of 15 updates" in trained(*arguments, "--batch-size", "8")
    assert read("saved_models/squares/1", "plan.json")["gradient_accumulation_steps"] == 2
    assert "sizes that divide by gradient_accumulation_steps" in run(*arguments, "--batch-size", "5").stderr


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("given", "passed"), [([], None), (["--max-device-batch", "4"], 4)])
def test_the_limit_of_the_device_is_handed_on_where_it_is_given(folder, monkeypatch, given, passed):
    def fit(plan, *data, **arguments):
        assert arguments.pop("max_device_batch", None) == passed
        assert arguments["validation_batch_size"] == 40 if passed is None else 32
        return real(plan, *data, **arguments)

    real = Plan.fit
    monkeypatch.setattr(Plan, "fit", fit)
    trained(*FLAT, "--epochs", "1", *given)


@pytest.mark.usefixtures("unchecked")
def test_a_batch_larger_than_the_device_ends_with_the_same_weights(folder):
    arguments = [*FLAT, "--epochs", "2", "--batch-size", "8 * (hold(epochs=1) >> hold(2))"]
    trained(*arguments)
    trained(*arguments, "--max-device-batch", "4")
    whole, parts = (keras.models.load_model(f"saved_models/squares/{n}/model.keras") for n in (1, 2))
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)
    assert read("saved_models/squares/2", "metrics.json")["updates"] == 8


# Training that goes on


def weights(version):
    """Return shape and bytes of everything in the SavedModel of a version; Keras numbers it as it comes."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(Path(version) / "variables" / "variables"))
    # The names of layers, which count up within a process, are in there too.
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return sorted((array.shape, array.tobytes()) for array in map(reader.get_tensor, names))


def assert_same(version, expected):
    """Are two versions of the same training, except for the time that it took?"""
    # In parentheses, so that a difference is not printed: it is a page of bytes.
    assert (weights(version) == weights(expected)) is True
    assert read(version, "history.json") == read(expected, "history.json")
    metrics = [read(folder, "metrics.json") for folder in (version, expected)]
    assert {**metrics[0], "seconds": 0} == {**metrics[1], "seconds": 0}


def entries(folder):
    return sorted(entry.name for entry in Path(folder).iterdir())


SHORT = ["--model", "my_networks:flat", "--optimizer", "adam", *SQUARES, *GROWING, "--epochs", "4"]
RUN, UNDISTURBED = ["--output", "run"], ["--output", "undisturbed"]
AGAIN = "The same command with --resume goes on with it."


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(folder, unchecked):
    arguments = [*FLAT, *GROWING, "--epochs", "30"]
    command = [*COMMAND, *arguments, *RUN]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.split()[:1] == ["3/30"]:
                process.kill()
    assert process.returncode == -signal.SIGKILL
    assert entries("run") == ["checkpoints"]
    assert "Going on behind update " in trained(*arguments, *RUN, "--resume")
    trained(*arguments, *UNDISTURBED)
    assert_same("run/1", "undisturbed/1")
    assert entries("run") == ["1"]
    assert set(entries("run/1")) == FILES


class Pressed(Interrupt):
    """Ctrl-C when it is looked for, for the n-th time: before each pass, and behind each batch."""

    looks = 0

    def __init__(self):
        self._looked = 0
        super().__init__()

    @property
    def requested(self):
        self._looked += 1
        return self._looked >= Pressed.looks

    @requested.setter
    def requested(self, value):
        pass


# At which look, and the updates that were made then. The passes have 10, 7, 4 and 3 batches.
PRESSED = {
    "first batch": (2, 1), "within a pass": (15, 13), "last batch of a pass": (19, 17), "before a pass": (20, 17),
}  # fmt: skip


@pytest.mark.usefixtures("unchecked")
def test_a_stopped_training_is_kept_and_goes_on(folder, monkeypatch):
    monkeypatch.setattr(training, "_laps", lambda: itertools.repeat(1.0))  # a second a batch
    trained(*SHORT, *UNDISTURBED)
    for name, (looks, updates) in PRESSED.items():
        with monkeypatch.context() as patch:
            patch.setattr(training, "Interrupt", Pressed)
            patch.setattr(Pressed, "looks", looks)
            result = run(*SHORT, "--output", name)
        assert result.exit_code == 130, result.output
        assert result.stdout.splitlines()[-1] == AGAIN
        assert set(entries(f"{name}/1")) == FILES | {"checkpoints"}
        metrics = read(f"{name}/1", "metrics.json")
        assert (metrics["interrupted"], metrics["updates"]) == (True, updates)
        # Another training may begin beside it, since nothing is lost by it.
        assert run(*SHORT, "--output", name, "--resume", "--epochs", "5").exit_code == 2

        text = trained(*SHORT, "--output", name, "--resume")
        assert f"Going on behind update {updates} of 24." in text
        assert_same(f"{name}/2", "undisturbed/1")
        seconds = [read(version, "metrics.json")["seconds"] for version in (f"{name}/2", "undisturbed/1")]
        assert seconds[0] == seconds[1]
        assert entries(name) == ["1", "2"]
        assert set(entries(f"{name}/1")) == set(entries(f"{name}/2")) == FILES


@pytest.mark.usefixtures("unchecked")
def test_passes_of_one_batch_can_be_stopped_too(folder, monkeypatch):
    monkeypatch.setattr(training, "Interrupt", Pressed)
    monkeypatch.setattr(Pressed, "looks", 4)
    assert run(*FLAT, "--batch-size", "40", "--epochs", "5", *RUN).exit_code == 130
    assert read("run/1", "metrics.json")["updates"] == 2
    assert len(read("run/1", "history.json")["loss"]) == 2


@pytest.mark.usefixtures("unchecked")
def test_ctrl_c_in_the_very_last_batch_comes_too_late(folder, monkeypatch):
    monkeypatch.setattr(training, "Interrupt", Pressed)
    monkeypatch.setattr(Pressed, "looks", 28)
    assert "24 of 24 updates" in trained(*SHORT, *RUN)
    assert read("run/1", "metrics.json")["interrupted"] is False
    assert entries("run") == ["1"]


@pytest.fixture
def at(monkeypatch):
    """Do something behind the n-th batch."""

    def do(batch, act):
        def batch_ends(self, index, logs=None):
            done.append(index)
            if len(done) == batch:
                act()

        done = []
        monkeypatch.setattr(training._Watch, "batch_ends", batch_ends)

    return do


def stop():
    raise KeyboardInterrupt


@pytest.mark.usefixtures("unchecked")
def test_sigterm_saves_and_says_how_to_go_on(folder, at):
    trained(*SHORT, *UNDISTURBED)
    at(13, lambda: signal.raise_signal(signal.SIGTERM))
    result = run(*SHORT, *RUN)
    assert (result.exit_code, result.stderr) == (143, f"Stopped by SIGTERM; the training is saved. {AGAIN}\n")
    assert entries("run") == ["checkpoints"]
    assert "Going on behind update 13 of 24." in trained(*SHORT, *RUN, "--resume")
    assert_same("run/1", "undisturbed/1")


@pytest.mark.usefixtures("unchecked")
def test_a_training_that_is_left_at_once_goes_on_from_its_last_checkpoint(folder, at):
    trained(*SHORT, *UNDISTURBED)
    at(13, stop)
    result = run(*SHORT, *RUN)
    assert (result.exit_code, result.stderr) == (130, f"Stopped at once. {AGAIN}\n")
    # Forgetting --resume loses nothing.
    again = run(*SHORT, *RUN)
    assert again.exit_code == 2
    assert "run/checkpoints holds a training that has not come to its end" in again.stderr
    assert "Going on behind update 10 of 24." in trained(*SHORT, *RUN, "--resume")
    assert_same("run/1", "undisturbed/1")


def test_a_training_that_is_left_before_its_first_checkpoint_leaves_nothing(folder, at):
    at(3, stop)
    result = run(*SHORT, *RUN)
    assert (result.exit_code, result.stderr) == (130, "Stopped; nothing was kept.\n")
    assert entries("run") == []


@pytest.mark.usefixtures("unchecked")
def test_with_nothing_to_go_on_with_a_training_begins(folder):
    assert "There is nothing to go on with in run: a training begins." in trained(*SHORT, *RUN, "--resume")
    assert "There is nothing to go on with in run: a training begins." in trained(*SHORT, *RUN, "--resume")
    assert entries("run") == ["1", "2"]


OTHER = [
    (["--epochs", "5"], "epochs: 4 in the checkpoint, 5 now"),
    (["--seed", "1"], "seed: 0 in the checkpoint, 1 now"),
    (["--scaling", "1"], "scaling: 0.5 in the checkpoint, 1 now"),
    (["--batch-size", "8"], "batch_size: '4 * (hold(epochs=1)"),
    (["--peak", "0.01"], "learning_rate: '0.001 * (warmup(fraction=0.1) >> cosine())' in the checkpoint"),
    (["--optimizer", "sgd"], "optimizer.class: 'Adam' in the checkpoint, 'SGD' now"),
]


def test_what_is_left_of_a_failed_export_and_other_options(folder, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training, "export", fail)
        result = run(*SHORT, *RUN)
    assert result.exit_code == 2
    assert "No space left on device\nThe training itself is not lost: the same command with" in result.stderr
    kept = entries("run/checkpoints")
    for other, words in OTHER:
        result = run(*SHORT, *RUN, "--resume", *other)
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: --resume: run/checkpoints was begun with other options:\n  ")
        assert words in result.stderr
        assert result.stderr.endswith("to begin another training, another --output.\n")
    assert entries("run/checkpoints") == kept

    monkeypatch.setattr(sys.modules["kwarmup.export"], "check", lambda *_: None)
    assert (
        "epoch  " not in trained(*SHORT, *RUN, "--resume").partition("last epoch")[0].partition("cosine")[2]
    )
    trained(*SHORT, *UNDISTURBED)
    assert_same("run/1", "undisturbed/1")


@pytest.mark.usefixtures("unchecked")
def test_a_disk_that_is_full_for_checkpoints_is_told_and_training_goes_on(folder, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kwarmup.checkpoint._flush", full)
    text = trained(*SHORT, *RUN)
    assert text.count("Warning: No checkpoint was written at step ") == 4
    assert "24 of 24 updates" in text
    assert entries("run") == ["1"]


def test_a_folder_for_checkpoints_that_cannot_be_written(folder):
    (folder / "run").mkdir()
    (folder / "run" / "checkpoints").write_text("a file")
    result = run(*SHORT, *RUN)
    assert result.exit_code == 2
    assert "`checkpoint_dir`: expected a folder that can be written" in result.stderr


# Data and networks of the user


@pytest.mark.usefixtures("unchecked")
def test_data_of_one_channel_fit_networks_with_and_without_it(folder):
    text = trained("--data", "squares.npz", "--epochs", "2", "--batch-size", "8", "--output", "conv")
    assert "Data squares: 40 training and 8 validation examples of 6 × 6 × 1." in text
    assert "Model convolutional" in text
    text = trained(*FLAT, "--epochs", "2", "--output", "flat")
    assert "examples of 6 × 6." in text
    assert keras.models.load_model("flat/1/model.keras").loss.from_logits is True


@pytest.mark.usefixtures("unchecked")
def test_a_softmax_is_not_taken_for_logits(folder):
    trained("--data", "squares.npz", "--model", "my_networks:softmax", "--epochs", "1", "--batch-size", "8")
    assert keras.models.load_model("saved_models/squares/1/model.keras").loss.from_logits is False


@pytest.mark.usefixtures("unchecked")
def test_a_compiled_model_keeps_its_loss_its_metrics_and_its_optimizer(folder):
    arguments = [
        "--data",
        "squares.npz",
        "--model",
        "my_networks:compiled",
        "--epochs",
        "2",
        "--batch-size",
        "8",
    ]
    text = trained(*arguments)
    assert "trained by Adam." in text
    assert "0.003 * (warmup(fraction=0.1) >> cosine())" in text
    assert set(read("saved_models/squares/1", "history.json")) == {
        "loss",
        "mae",
        "val_loss",
        "val_mae",
        "learning_rate",
    }
    model = keras.models.load_model("saved_models/squares/1/model.keras")
    assert model.optimizer.get_config()["beta_1"] == 0.8
    assert int(model.optimizer.iterations) == 10
    assert "trained by Lion." in trained(*arguments, "--optimizer", "lion", "--peak", "0.01")


@pytest.mark.usefixtures("unchecked")
def test_a_keras_file_is_trained_further(folder):
    arguments = ["--data", "squares.npz", "--epochs", "1", "--batch-size", "8"]
    trained(*arguments, "--model", "my_networks:flat", "--optimizer", "adamw", "--output", "first")
    before = keras.models.load_model("first/1/model.keras").get_weights()
    trained(*arguments, "--model", "first/1/model.keras", "--peak", "0", "--output", "second")
    after = keras.models.load_model("second/1/model.keras")
    for one, other in zip(before, after.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert type(after.optimizer) is keras.optimizers.AdamW


@pytest.mark.usefixtures("unchecked")
def test_the_same_seed_gives_the_same_weights(folder):
    arguments = ["--data", "squares.npz", "--model", "my_networks:flat", "--epochs", "2", "--batch-size", "8"]
    weights = []
    for seed in ("1", "1", "2"):
        trained(*arguments, "--seed", seed)
        version = len(weights) + 1
        weights.append(
            keras.models.load_model(f"saved_models/squares/{version}/model.keras").get_weights()[0]
        )
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.allclose(weights[0], weights[2])


PEAKS = [
    ([], 0.1),
    (["--peak", "0.05"], 0.05),
    (["--profile", "0.02 * cosine()"], 0.02),
    (["--profile", "0.02"], 0.02),
    (["--optimizer", "adam"], 0.001),
    (["--optimizer", "AdamW", "--peak", "3e-4"], 3e-4),
]


@pytest.mark.parametrize(("arguments", "peak"), PEAKS, ids=[" ".join(words) for words, _ in PEAKS])
def test_where_the_peak_comes_from(folder, monkeypatch, arguments, peak):
    plans = []

    def export(*_, plan, **__):
        plans.append(plan)
        raise OSError("that is enough")

    monkeypatch.setattr(training, "export", export)
    assert "that is enough" in run(*FLAT, "--epochs", "2", *arguments).stderr
    assert [plan.profile.peak for plan in plans] == [peak]


@pytest.mark.usefixtures("unchecked")
def test_the_warnings_of_the_plan_are_printed(folder):
    text = trained(
        "--data", "squares.npz", "--model", "my_networks:flat", "--epochs", "1", "--profile", "warmup()"
    )
    assert "Warning: The peak of 0.1 is never reached" in " ".join(text.split())


# What is refused: one message each, before anything is trained

REFUSED = [
    (
        ["--profile", "warmpu()"],
        "--profile: `warmpu` cannot be called here; did you mean `warmup`?\n  warmpu()\n",
    ),
    (["--profile", "0.1 * cosine()", "--peak", "0.2"], "There are two peaks: --peak 0.2, and 0.1 in front"),
    (["--peak", "high"], "Invalid value for '--peak'"),
    (["--data", "none.npz"], "There is no file none.npz"),
    (["--data", "cifar"], "There is no data 'cifar'"),
    (["--batch-size", "2000"], "--batch-size 2,000 is more than the 1,438 training examples of digits"),
    (["--batch-size", "0"], "Invalid value for '--batch-size': 0 is not a number of examples"),
    (["--batch-size", "2.5"], "Invalid value for '--batch-size': 2.5 is not a number of examples"),
    (["--batch-size", "nan"], "Invalid value for '--batch-size': nan is not a number of examples"),
    (
        ["--batch-size", "8 * (hold(4) >> hodl(2))"],
        "--batch-size: `hodl` cannot be called here; did you mean `hold`?\n  8 * (hold(4) >> hodl(2))\n",
    ),
    (["--batch-size", "8 * hold(2)", "--profile", "hold(epochs=30)"], "phases that fit into the run"),
    (["--batch-size", "8 * (hold(epochs=30) >> hold(2))"], "`batch_size`: expected phases that fit into the"),
    (["--scaling", "2"], "Invalid value for '--scaling'"),
    (["--max-device-batch", "0"], "Invalid value for '--max-device-batch'"),
    (["--multiple-of", "0"], "Invalid value for '--multiple-of'"),
    (["--epochs", "3", "--profile", "warmup(epochs=5) >> cosine()"], "phases"),
    (
        ["--optimizer", "adamm"],
        "There is no optimizer 'adamm'. Keras has: adadelta, adafactor, adagrad, adam, ",
    ),
    (
        ["--output", "squares.npz"],
        "--output squares.npz: squares.npz is a file, and a folder is needed.",
    ),
    (["--optimizer", "multioptimizer"], "--optimizer multioptimizer: "),
    (["--output", "squares.npz/below"], "squares.npz is a file, and a folder is needed."),
    (["--model", "none.keras"], "There is no file none.keras"),
    (
        ["--model", "squares.npz"],
        "There is no model 'squares.npz'. It may be a .keras file or module:function",
    ),
    (["--model", "broken.keras"], "broken.keras cannot be loaded: "),
    (["--model", "no_such_module:f"], "--model no_such_module:f: there is no module 'no_such_module'"),
    (["--model", "my_networks:missing"], "'missing' does not exist in"),
    (["--model", "my_networks:nothing"], "must return a Keras model; it returned NoneType"),
    (
        [*SQUARES, "--model", "my_networks:large"],
        "takes examples of the shape 9 × 6 × 1, and those",
    ),
    ([*SQUARES, "--model", "my_networks:one"], "has outputs of the shape 1, and squares has 2 classes"),
    (
        ["--data", "flat.npz"],
        "The built-in network takes images of at least 4 × 4 pixels, and those of flat have the shape 3",
    ),
    (["--data", "small.npz"], "those of small have the shape 3 × 3"),
    (
        ["--data", "real.npz"],
        "needs one whole number for each label; those of real are float64 of the shape single",
    ),
    (["--data", "onehot.npz"], "those of onehot are int64 of the shape 2"),
    (["--data", "negative.npz"], "Labels count from 0, and negative has the label -1"),
    (
        [*SQUARES, "--model", "my_networks:unfit"],
        "cannot be trained on squares (inputs (6, 6) float32, labels () int32)",
    ),
    ([*SQUARES, "--model", "my_networks:own"], "Put @keras.saving.register_keras_serializable() above those"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_train_refuses(folder, arguments, words):
    before = {entry.name for entry in folder.iterdir()}
    (folder / "broken.keras").write_text("nothing")
    for name, x, y in [
        ("flat", X[:, 0, :3], Y),
        ("small", X[:, :3, :3], Y),
        ("real", X, Y + 0.5),
        ("onehot", X, np.eye(2, dtype="int64")[Y]),
        ("negative", X, Y - 1),
    ]:
        np.savez(folder / f"{name}.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    before = {entry.name for entry in folder.iterdir()}
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert {entry.name for entry in folder.iterdir()} - before <= {"__pycache__"}


def test_another_backend_is_told_before_the_training(folder, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    result = run(*SQUARES)
    assert result.exit_code == 2
    assert "Only TensorFlow writes a SavedModel, and Keras runs on torch here" in result.stderr


def test_an_export_that_fails_is_one_message(folder, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "export", fail)
    result = run(*SQUARES, "--model", "my_networks:flat", "--epochs", "1")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr


# The steps, called from Python


def small():
    return keras.Sequential([keras.Input((6, 6)), keras.layers.Flatten(), keras.layers.Dense(2)])


def test_a_loss_scale_stays_around_the_new_optimizer():
    model = small()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
    schedule = Schedule(warmup(steps=5))
    models.compiled(model, models.optimizer(None, model), schedule, DATA)
    assert type(model.optimizer) is keras.optimizers.LossScaleOptimizer
    assert type(model.optimizer.inner_optimizer) is keras.optimizers.SGD
    assert model.optimizer.inner_optimizer.momentum == 0.9
    assert float(model.optimizer.learning_rate) == 0


def test_a_schedule_in_the_model_has_no_peak_to_take():
    model = small()
    model.compile(keras.optimizers.SGD(Schedule(warmup(steps=5))), "mse")
    with pytest.raises(UserError, match="has a schedule for a learning rate; give --peak too"):
        models.default_peak(models.optimizer(None, model))


def test_a_model_of_several_inputs_is_refused():
    inputs = [keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(inputs, keras.layers.Add()(inputs))
    with pytest.raises(UserError, match="takes several inputs, and squares has one array of them"):
        models.shaped(DATA, model)


def test_a_model_that_is_built_by_its_first_call(folder):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(2)

        def call(self, x):
            return self.dense(self.flatten(x))

    model, data = Own(), DATA
    assert models.shaped(data, model) is data
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    training.try_out(model, data)
    assert model.built


def test_the_interrupt_is_quiet_outside_of_the_main_thread():
    found = []

    def use():
        with Interrupt() as interrupt:
            found.append(interrupt.requested)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
            assert not interrupt.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_interrupt_gives_the_handler_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert signal.getsignal(signal.SIGINT) is not before
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_plan_with_a_keras_schedule_is_shown(tmp_path):
    profile = warmup(steps=10) >> keras.optimizers.schedules.ExponentialDecay(0.1, 50, 0.5)
    plan = Plan(learning_rate=profile, batch_size=5, examples=100, epochs=10)
    (tmp_path / "plan.json").write_text(plan.to_json())
    # In a process of its own, where nothing has imported Keras yet.
    command = [sys.executable, "-m", "kwarmup", "show", str(tmp_path / "plan.json")]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "200 updates, 10 epochs of 100 examples" in result.stdout
