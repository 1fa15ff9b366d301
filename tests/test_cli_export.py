"""kwarmup export, and what kwarmup show says of a version."""

import importlib
import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from kwarmup import Plan, cosine, export, load, warmup
from kwarmup.cli import main

PLAN = Plan(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=10, examples=40, epochs=2)
X = np.random.default_rng(0).random((40, 3)).astype("float32")
Y = (X.sum(axis=1) > 1.5).astype("int64")
SIGNATURES = {
    "serve": {
        "inputs": {"x": {"dtype": "float32", "shape": [None, 3]}},
        "outputs": {"output_0": {"dtype": "float32", "shape": [None, 2]}},
    },
    "serving_default": {"inputs": {}, "outputs": {}},
    "learning_rate": {
        "inputs": {"step": {"dtype": "int64", "shape": None}},
        "outputs": {"output_0": {"dtype": "float32", "shape": None}},
    },
}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Leave out the fresh process, which has its own tests; return what it would have been asked."""
    asked = []
    check = lambda folder, expected: asked.append(expected) or SIGNATURES  # noqa: E731
    monkeypatch.setattr(importlib.import_module("kwarmup.export"), "check", check)
    return asked


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(2, "softmax")]
    return keras.Sequential([keras.Input((3,)), *layers])


def compiled(rate=PLAN.learning_rate):
    model = network()
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training with its checkpoints and its .keras file, and a user's code and data."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "networks_of_export.py").write_text(
        "import keras\n"
        "def build(units=4):\n"
        "    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, 'relu'),\n"
        "                             keras.layers.Dropout(0.5), keras.layers.Dense(2, 'softmax')])\n"
        "def other(): return build(5)\n"
    )
    np.savez(folder / "data.npz", x_train=X, y_train=Y, x_val=X[:8], y_val=Y[:8])
    (folder / "plan.json").write_text(PLAN.to_json())
    model = compiled()
    PLAN.fit(model, X, Y, verbose=0, checkpoint_dir=folder / "checkpoints")
    model.save(folder / "model.keras")
    np.save(folder / "outputs.npy", model.predict(X, verbose=0))
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_a_keras_file(folder, unchecked):
    text = run("export", "model.keras", "--output", "out", "--plan", "plan.json")
    assert text.splitlines()[-1] == f"Kept in {Path('out/1')}"
    loaded = load("out")
    np.testing.assert_allclose(loaded.model.predict(X, verbose=0), np.load("outputs.npy"), rtol=1e-6)
    assert (loaded.plan, int(loaded.model.optimizer.iterations)) == (PLAN, 8)
    assert list(unchecked[0].endpoints) == ["serve", "learning_rate"]

    options = ["--data", "data.npz", "--trainable", "--class-name", "below", "--class-name", "above"]
    run("export", "model.keras", "--output", "out", *options)
    assert load("out").class_names == ("below", "above")
    assert list(unchecked[1].endpoints) == ["serve", "classify", "learning_rate", "train_step"]
    np.testing.assert_array_equal(unchecked[1].batch, X[:8])
    np.testing.assert_array_equal(unchecked[1].targets, Y[:8])


def test_the_checkpoints_of_a_training(folder, unchecked):
    options = ["--data", "data.npz", "--model", "networks_of_export:build", "--trainable"]
    run("export", "checkpoints", "--output", "out", *options)
    loaded = load("out")
    np.testing.assert_allclose(loaded.model.predict(X, verbose=0), np.load("outputs.npy"), rtol=1e-6)
    assert (loaded.plan, int(loaded.model.optimizer.iterations)) == (PLAN, 8)
    file = keras.models.load_model("model.keras")
    for variable, other in zip(loaded.model.optimizer.variables, file.optimizer.variables, strict=True):
        np.testing.assert_array_equal(variable, other)


REFUSED = [
    (["nowhere"], "There is no file or folder nowhere."),
    (["model.keras", "--model", "a:b"], "--model is for checkpoints; a .keras file is a model already."),
    (["checkpoints", "--plan", "plan.json"], "--plan is for a .keras file; checkpoints have theirs."),
    (["model.keras", "--trainable"], "--trainable needs --data too"),
    (["model.keras", "--plan", "data.npz"], "--plan data.npz: it cannot be read as JSON"),
    (["model.keras", "--data", "none.npz"], "none.npz"),
    (["plan.json"], "plan.json cannot be loaded"),
    (["model.keras", "--class-name", "one"], "`class_names`: expected as many as the model has outputs"),
    (["model.keras", "--output", "plan.json"], "`path`: expected a folder, but there is a file of that name"),
    (["model.keras", "--format", "savedmodel"], "'savedmodel' is not one of 'onnx', 'litert'"),
    (["empty"], "There is no checkpoint in empty.\nGive a .keras file, or the checkpoint_dir of a training."),
    (
        ["checkpoints", "--data", "data.npz", "--model", "networks_of_export:other"],
        "checkpoints holds checkpoints of another model:\n",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_what_is_refused(folder, arguments, words):
    Path("empty").mkdir()
    output = [] if "--output" in arguments else ["--output", "out"]
    assert words in run("export", *arguments, *output, code=2)
    assert not list(Path("out").glob("*"))


def test_damaged_checkpoints_are_told(folder):
    for file in Path("checkpoints").glob("*/arrays.npz"):
        file.write_bytes(b"gone")
    text = run("export", "checkpoints", "--output", "out", "--data", "data.npz", code=2)
    assert "arrays.npz has changed since it was written" in text


def test_show_tells_what_is_in_a_version(folder):
    history = {"loss": [2.0, 1.0], "accuracy": [0.5, 0.75]}
    model = keras.models.load_model("model.keras")
    metrics = {"accuracy": 0.75, "note": "by hand", "worst": float("nan")}
    export(model, "out", PLAN, history, metrics, class_names=["below", "above"])
    text = run("show", "out")
    words = [
        str(Path("out/1")),
        "8 updates, 2 epochs of 40 examples",
        "Classes: below, above",
        "8 updates by SGD, exported 20",
        f"Made with kwarmup {importlib.import_module('kwarmup').__version__}, keras {keras.__version__}",
    ]
    for word in words:
        assert word in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "serve x float32 (any, 3) output_0 float32 (any, 2)" in rows
    assert "learning_rate step int64 (of any shape) output_0 float32 (of any shape)" in rows
    assert "serving_default" not in text
    assert {"accuracy 0.75", "note by hand", "worst not finite"} <= set(rows)
    assert Plan.from_json(run("show", "out", "--json")) == PLAN
    assert "Drawn into run.png" in run("show", "out/1", "--plot", "run.png")


def test_show_tells_what_is_known_without_a_plan(folder):
    export(network(), "out")
    text = run("show", "out")
    assert "26 weights, exported 20" in text and "updates" not in text
    for option in (["--json"], ["--plot", "a.png"]):
        assert "was exported without a plan" in run("show", "out", *option, code=2)


def test_show_tells_damage_and_what_is_from_elsewhere(folder):
    export(network(), "out", PLAN)
    for name, text, words in [
        ("assets/provenance.json", "{", "provenance.json cannot be read as JSON"),
        ("assets/plan.json", "[]", "plan.json holds no plan"),
    ]:
        shutil.copytree("out/1", "damaged")
        Path("damaged", name).write_text(text)
        assert words in run("show", "damaged", code=2)
        shutil.rmtree("damaged")
    os.remove("out/1/signatures.json")
    shutil.rmtree("out/1/assets")
    assert "out/1 is a SavedModel from elsewhere" in run("show", "out", code=2)


def test_a_version_that_fails_its_check_is_one_message(folder, monkeypatch):
    def fail(*_):
        raise importlib.import_module("kwarmup.export").ExportError("It gives other outputs.")

    monkeypatch.setattr(importlib.import_module("kwarmup.export"), "check", fail)
    text = run("export", "model.keras", "--output", "out", code=2)
    assert text.startswith(
        "Error: It gives other outputs.\nThe older versions are as they were; this one is left in"
    )
    (left,) = Path("out").iterdir()
    assert json.loads((left / "assets" / "provenance.json").read_text())["updates"] == 8
