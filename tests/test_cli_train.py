"""`kwarmup train`: the default run, data and models of the user, Ctrl-C, and what it refuses."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import kwarmup
from kwarmup import Plan, Schedule, cosine, warmup
from kwarmup.cli import main, models, training
from kwarmup.cli.data import Data
from kwarmup.cli.errors import UserError
from kwarmup.cli.interrupt import Interrupt

COMMAND = [sys.executable, "-m", "kwarmup", "train"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(kwarmup.__file__).parents[1])}
FILES = {
    "saved_model.pb", "variables", "assets", "fingerprint.pb", "model.keras",
    "plan.json", "history.json", "metrics.json", "versions.json", "training.png",
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
    return json.loads((Path(version) / name).read_text())


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


# Ctrl-C


def hear_ctrl_c():
    """In the new process: a shell that runs these tests in the background has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder, *arguments):
    """Start a training that would last for hours; return the process, once it has trained for an epoch."""
    command = [*COMMAND, "--data", "squares.npz", "--epochs", "100000", "--batch-size", "4", *arguments]
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
    version = folder / "saved_models" / "squares" / "1"
    assert {entry.name for entry in version.iterdir()} == FILES
    metrics, history = read(version, "metrics.json"), read(version, "history.json")
    assert metrics["interrupted"] is True
    assert len(history["loss"]) == len(history["val_loss"]) == -(-metrics["updates"] // 10)
    assert f"{metrics['updates']:,} of 1,000,000 updates in" in out
    model = keras.models.load_model(version / "model.keras")
    assert int(model.optimizer.iterations) == metrics["updates"]


def test_a_second_ctrl_c_gives_it_up(folder):
    process = start(folder)
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if "Stopped by Ctrl-C" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "Stopped; nothing was kept.\n"
    kept = folder / "saved_models" / "squares"
    assert not kept.exists() or list(kept.iterdir()) == []


def test_ctrl_c_before_the_training_keeps_nothing(folder):
    process = subprocess.Popen(
        COMMAND, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "Stopped; nothing was kept."
    assert not (folder / "saved_models").exists()


def test_a_terminal_sees_a_bar_and_gets_its_cursor_back(folder):
    main_end, terminal = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "90"}
    command = [*COMMAND, *SQUARES, "--epochs", "3", "--batch-size", "4"]
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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("arguments", "peak"), PEAKS, ids=[" ".join(words) for words, _ in PEAKS])
def test_where_the_peak_comes_from(folder, arguments, peak):
    trained(*FLAT, "--epochs", "10", *arguments)
    assert Plan.from_dict(read("saved_models/squares/1", "plan.json")).profile.peak == peak


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
    (["--batch-size", "0"], "Invalid value for '--batch-size'"),
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
