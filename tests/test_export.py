"""export: numbered versions, complete and checked, or none; served by a process that knows no kwarmup."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kwarmup import Plan, cosine, warmup
from kwarmup.saved_model import archive
from kwarmup.saved_model import check as checking
from kwarmup.saved_model.check import Expected

exporting = importlib.import_module("kwarmup.export")  # `kwarmup.export` itself is the function
export, ExportError = exporting.export, exporting.ExportError

PLAN = Plan(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=5, examples=10, epochs=3)


def small_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2)])


@pytest.fixture
def unchecked(monkeypatch):
    """Leave out the fresh process, where a test is about something else: it takes seconds."""
    asked = []
    monkeypatch.setattr(exporting, "check", lambda *arguments: asked.append(arguments) or {})
    return asked


def versions(path):
    return sorted(entry.name for entry in Path(path).iterdir())


# What a version holds


@pytest.mark.slow
def test_a_trained_model_is_served_by_a_process_that_never_imported_kwarmup(tmp_path):
    model = small_model()
    model.compile(keras.optimizers.SGD(PLAN.learning_rate, momentum=0.9), "mse")
    x = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
    history = model.fit(x, x[:, :2], verbose=0, **PLAN.fit_arguments)
    version = export(
        model, tmp_path, PLAN, history, {"loss": np.float32(0.5), "bad": float("nan"), "ok": True}
    )
    assert version == tmp_path / "1"
    assert versions(tmp_path) == ["1"]

    np.save(tmp_path / "x.npy", x[:7])
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        f"model = tf.saved_model.load({str(version)!r})\n"
        f"x = np.load({str(tmp_path / 'x.npy')!r})\n"
        "np.save(sys.argv[1], model.serve(x).numpy())\n"
        "named = model.signatures['serving_default'](tf.constant(x[:1]))\n"
        "steps = np.arange(12).reshape(3, 4)\n"
        "np.save(sys.argv[2], model.learning_rate(steps).numpy())\n"
        "plan = tf.io.read_file(model.plan.asset_path).numpy()\n"
        "print('kwarmup' in sys.modules, len(named), float(model.learning_rate(4)), len(plan))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "y.npy"), str(tmp_path / "rates.npy")]
    run = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    imported, outputs, rate, plan = run.stdout.split()
    assert (imported, outputs) == ("False", "1")
    assert float(rate) == pytest.approx(PLAN.curve(4), abs=1e-7)
    assert int(plan) == (version / "assets" / "plan.json").stat().st_size
    steps = np.arange(12).reshape(3, 4)
    np.testing.assert_allclose(np.load(tmp_path / "rates.npy"), PLAN.curve(steps), atol=1e-7)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(x[:7], verbose=0), atol=1e-6)

    again = keras.models.load_model(version / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert int(again.optimizer.iterations) == 6
    assert again.optimizer.get_config()["momentum"] == 0.9

    assets = {path.stem: json.loads(path.read_text()) for path in (version / "assets").iterdir()}
    assert Plan.from_dict(assets["plan"]) == PLAN
    assert assets["history"] == history.history
    assert assets["metrics"] == {"loss": 0.5, "bad": None, "ok": True}
    assert assets["versions"]["keras"] == keras.__version__
    about = assets["provenance"]
    assert (about["optimizer"], about["updates"], about["weights"]) == ("SGD", 6, 26)
    signatures = json.loads((version / "signatures.json").read_text())
    assert set(signatures) == {"serve", "serving_default", "learning_rate"}
    assert [tensor["shape"] for tensor in signatures["serve"]["inputs"].values()] == [[None, 3]]


def test_what_is_not_given_is_not_written(tmp_path, unchecked):
    version = export(small_model(), tmp_path)
    assert versions(version / "assets") == ["provenance.json", "versions.json"]
    assert {"saved_model.pb", "variables", "model.keras", "signatures.json"} <= set(versions(version))


def test_a_version_can_be_read_by_those_who_may_read_its_folder(tmp_path, unchecked):
    version = export(small_model(), tmp_path / "new")
    assert version.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_the_training_goes_on_as_if_nothing_was_exported(tmp_path, unchecked):
    x = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
    weights = []
    for exported in (False, True):
        model = small_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        model.fit(x, x[:, :2], shuffle=False, verbose=0)
        if exported:
            export(model, tmp_path)
        model.fit(x, x[:, :2], shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


# Numbers


def test_two_exports_in_a_row_are_two_versions(tmp_path, unchecked):
    assert [export(small_model(), tmp_path / "a" / "b").name for _ in range(2)] == ["1", "2"]


def test_the_number_is_the_next_one_whatever_else_is_there(tmp_path, unchecked):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "precious").write_text("old")
    (tmp_path / "11").write_text("a file, and its number is taken")
    for name in ("notes", "3.bak", "-20", "x12"):
        (tmp_path / name).mkdir()
    assert export(small_model(), tmp_path).name == "12"
    assert (tmp_path / "7" / "precious").read_text() == "old"


def test_a_number_that_another_process_took_meanwhile_is_left_to_it(tmp_path, monkeypatch):
    def meanwhile(*_):
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "other").write_text("theirs")
        return {}

    monkeypatch.setattr(exporting, "check", meanwhile)
    assert export(small_model(), tmp_path).name == "2"
    assert versions(tmp_path / "1") == ["other"]


def test_a_race_for_the_same_number_is_lost_without_harm(tmp_path, unchecked, monkeypatch):
    rename, lost = Path.rename, []

    def late(self, target):
        if not lost:
            lost.append(target)
            target.mkdir()
            (target / "other").write_text("theirs")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert export(small_model(), tmp_path).name == "2"
    assert versions(tmp_path) == ["1", "2"]
    assert versions(tmp_path / "1") == ["other"]


# The check


def subclassed():
    class Doubles(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Doubles()
    model(np.ones((7, 3)))
    return model


@pytest.mark.parametrize("fault", ["outputs", "damage"])
def test_a_failing_check_leaves_the_older_versions_and_keeps_the_training(
    tmp_path, monkeypatch, fresh, fault
):
    monkeypatch.setattr(checking, "subprocess", fresh)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "precious").write_text("old")
    model = small_model()
    if fault == "outputs":
        predict = model.predict
        model.predict = lambda *a, **k: predict(*a, **k) + 1
        words = "The SavedModel gives other outputs than model.predict: largest difference 1, allowed"
    else:
        write = archive.write

        def damage(folder, *rest, **arguments):
            names = write(folder, *rest, **arguments)
            (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"gone")
            return names

        monkeypatch.setattr(archive, "write", damage)
        words = "The SavedModel cannot be served in a fresh process"
    with pytest.raises(ExportError) as caught:
        export(model, tmp_path)
    assert words in str(caught.value)
    assert "The older versions are as they were" in str(caught.value)
    left = next(name for name in versions(tmp_path) if name.startswith("unfinished-"))
    assert versions(tmp_path) == ["1", left]
    assert f"{tmp_path / left}" in str(caught.value)
    assert (tmp_path / "1" / "precious").read_text() == "old"
    assert keras.models.load_model(tmp_path / left / "model.keras").count_params() == model.count_params()


CHECKED = [
    ("equal", [[1.0, 2.0]], [[1.0, 2.0]], None),
    ("rounding", [[1.0, 2.0]], [[1.0, 2.0001]], None),
    ("small beside the largest", [[1e-9, 1.0]], [[0.0, 1.0]], None),
    ("not a number in both", [[np.nan, 1.0]], [[np.nan, 1.0]], None),
    ("infinite in both", [[np.inf, 1.0]], [[np.inf, 1.0]], None),
    ("other", [[1.0, 2.0]], [[1.0, 2.01]], "largest difference 0.01"),
    ("scaled", [[1e-6, 2e-6]], [[1e-6, 3e-6]], "largest difference 1e-06"),
    ("not a number in one", [[1.0, 2.0]], [[np.nan, 2.0]], "largest difference nan"),
    ("shape", [[1.0, 2.0]], [[1.0], [2.0]], "shape (2, 1) in place of (1, 2)"),
]


def answering(monkeypatch, signatures=("serve",), **arrays):
    """Put answers in place of those of the fresh process."""

    def answer(command, **_):
        exchange = Path(command[-1])
        np.savez(exchange / "answers.npz", **arrays)
        (exchange / "signatures.json").write_text(json.dumps(dict.fromkeys(signatures)))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(checking.subprocess, "run", answer)


def checked(words, folder, *expected, **more):
    if words is None:
        return checking.check(folder, Expected(*expected, **more))
    with pytest.raises(ExportError) as caught:
        checking.check(folder, Expected(*expected, **more))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "answered", "words"), [row[1:] for row in CHECKED], ids=[r[0] for r in CHECKED]
)
def test_what_counts_as_the_same_outputs(tmp_path, monkeypatch, expected, answered, words):
    answering(monkeypatch, whole_0=answered, first_0=answered[:1])
    checked(words, tmp_path, np.ones((1, 3)), np.array(expected), 1e-4)


def test_the_first_example_alone_is_asked_for_too(tmp_path, monkeypatch):
    answering(monkeypatch, whole_0=[[1.0], [2.0]], first_0=[[5.0]])
    checked("largest difference 4", tmp_path, np.ones((2, 3)), np.array([[1.0], [2.0]]), 1e-4)


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        ([0.0, 0.05, 0.1], None),
        ([0.0, 0.05 + 1e-8, 0.1], None),
        ([0.0, 0.051, 0.1], "0.051 at update 20 in place of 0.05"),
        ([0.0, np.nan, 0.1], "nan at update 20 in place of 0.05"),
        ([0.1, 0.05, 0.0], "0.1 at update 10 in place of 0"),
    ],
)
def test_what_counts_as_the_same_learning_rates(tmp_path, monkeypatch, answered, words):
    answering(monkeypatch, whole_0=[[1.0]], first_0=[[1.0]], rates=answered)
    words = words and f"another learning rate than the plan: {words}"
    asked = {"steps": np.array([10, 20, 30]), "rates": np.array([0.0, 0.05, 0.1])}
    checked(words, tmp_path, np.ones((1, 3)), np.ones((1, 1)), 1e-4, **asked)


def test_every_endpoint_must_be_there(tmp_path, monkeypatch):
    answering(monkeypatch, ["serve", "serving_default"], whole_0=[[1.0]], first_0=[[1.0]])
    words = "lacks the signature classify; it has ['serve', 'serving_default']"
    checked(words, tmp_path, np.ones((1, 3)), np.ones((1, 1)), 1e-4, ["serve", "classify"])


def test_a_training_step_that_does_not_count_on_is_found(tmp_path, monkeypatch):
    answering(monkeypatch, whole_0=[[1.0]], first_0=[[1.0]], updates=[7, 7])
    words = "One call of train_step moved the SavedModel's count of updates from 7 to 7."
    checked(words, tmp_path, np.ones((1, 3)), np.ones((1, 1)), 1e-4, targets=np.ones((1, 1)))


# What is refused


def refused(path, words, model=None, **arguments):
    with pytest.raises((ValueError, TypeError)) as caught:
        export(model or small_model(), path, **arguments)
    assert words in str(caught.value)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "`path`: expected a folder, but there is a file of that name")
    with pytest.raises(OSError, match="file"):
        export(small_model(), tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_no_model_or_not_ready(tmp_path):
    refused(tmp_path, "`model`: expected a Keras model.\nReceived: 'model'", model="model")
    refused(tmp_path, "`model`: expected a built model", model=keras.Sequential([keras.layers.Dense(1)]))
    refused(tmp_path, "Write: export(model, path, batch=x[:8])", model=subclassed())
    open_ended = keras.Sequential([keras.Input((None, 3)), keras.layers.GlobalAveragePooling1D()])
    refused(tmp_path, "inputs of the shapes [(None, None, 3)]", model=open_ended)
    assert list(tmp_path.iterdir()) == []


def test_another_backend(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    refused(tmp_path, "Received: a model of the torch backend\nWrite: KERAS_BACKEND=tensorflow")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    refused(tmp_path, "Received: True, on the jax backend", trainable=True)
    refused(tmp_path, "other formats than the SavedModel are written on TensorFlow", format="onnx")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    refused(tmp_path, "Received: a model of the jax backend\nWrite: KERAS_BACKEND=tensorflow")
    assert list(tmp_path.iterdir()) == []


def test_another_format(tmp_path, monkeypatch):
    refused(tmp_path, '`format`: expected "onnx" or "litert".\nReceived: \'tflite\'', format="tflite")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(ImportError) as caught:
        export(small_model(), tmp_path, format="onnx")
    assert "missing: onnx.\nReceived: 'onnx'\nWrite: pip install \"kwarmup[onnx]\"" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_cannot_be_written_writes_nothing(tmp_path):
    plan = Plan(
        learning_rate=warmup(shape=lambda t: t * t, epochs=2) >> cosine(), batch_size=5, examples=10, epochs=3
    )
    refused(tmp_path / "new", "a shape with a registered name", plan=plan)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["save", "predict", "export"])
@pytest.mark.parametrize(
    "error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_an_export_that_breaks_off_leaves_nothing(tmp_path, monkeypatch, moment, error):
    (tmp_path / "1").mkdir()

    def fail(*_, **__):
        raise error

    if moment == "export":
        monkeypatch.setattr(archive, "write", fail)
    else:
        monkeypatch.setattr(keras.Model, moment, fail)
    with pytest.raises(type(error)):
        export(small_model(), tmp_path)
    assert versions(tmp_path) == ["1"]
