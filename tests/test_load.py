"""load: model and plan of a version; what is damaged or from elsewhere is told apart."""

import importlib
import json
import shutil

import keras
import numpy as np
import pytest

from kwarmup import ExportError, Plan, cosine, export, load, warmup

PLAN = Plan(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=5, examples=10, epochs=3)
METRICS = {"accuracy": 0.5, "bad": float("nan")}


def small_model(units=2):
    keras.utils.set_random_seed(units)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    model.compile(keras.optimizers.SGD(PLAN.learning_rate, momentum=0.9), "mse")
    return model


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two versions, exported once: unchecked, since the check has its own tests."""
    path = tmp_path_factory.mktemp("written") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("kwarmup.export"), "check", lambda *_: {})
        export(small_model(1), path)
        export(small_model(2), path, PLAN, {"loss": [2.0, 1.0]}, METRICS, class_names=["cat", "dog"])
    return path


@pytest.fixture
def versions(written, tmp_path):
    return shutil.copytree(written, tmp_path / "digits")


def test_the_newest_version_and_a_named_one(versions):
    (versions / "notes").mkdir()
    (versions / "9").write_text("a file is no version")
    loaded = load(versions)
    assert loaded.folder == versions / "2"
    assert (loaded.plan, loaded.history) == (PLAN, {"loss": [2.0, 1.0]})
    assert loaded.metrics == {"accuracy": 0.5, "bad": None}
    assert loaded.class_names == ("cat", "dog")
    assert loaded.packages["keras"] == keras.__version__
    assert loaded.model.optimizer.momentum == 0.9
    x = np.random.default_rng(0).random((4, 3))
    np.testing.assert_array_equal(loaded.model.predict(x, verbose=0), small_model().predict(x, verbose=0))

    older = load(versions, version=1)
    assert older.folder == versions / "1"
    assert (older.plan, older.history, older.metrics, older.class_names) == (None, {}, {}, None)
    assert older.model.output_shape == (None, 1)
    assert load(str(versions / "1")).folder == versions / "1"  # a version by itself


def remove(name):
    return lambda version: (version / name).unlink()


def cut(name):
    return lambda version: (version / name).write_bytes((version / name).read_bytes()[:100])


def put(name, text):
    return lambda version: (version / name).write_text(text)


FAULTS = [
    (
        remove("model.keras"),
        "no model.keras in it, as in a SavedModel from elsewhere",
        "tf.saved_model.load(",
    ),
    (remove("saved_model.pb"), "it is damaged: there is no saved_model.pb in it", "version=1)"),
    (cut("model.keras"), "expected a whole file, with layers that Keras knows", "tf.saved_model.load("),
    (put("model.keras", ""), "expected a whole file, with layers that Keras knows", "tf.saved_model.load("),
    (
        put("assets/plan.json", "{"),
        "plan.json'\nWrite: plan.json from a copy",
        "expected JSON that `export` wrote",
    ),
    (put("assets/plan.json", '{"epochs": 3}'), "expected a plan that `export` wrote", "version=...)"),
    (put("assets/plan.json", "[]"), "expected a plan that `export` wrote", "version=...)"),
    (
        put("assets/history.json", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
        "history.json",
        "",
    ),
]


@pytest.mark.parametrize(("damage", "words", "write"), FAULTS)
def test_a_damaged_version_is_told(versions, damage, words, write):
    damage(versions / "2")
    with pytest.raises(ValueError) as caught:
        load(versions)
    assert words in str(caught.value) and write in str(caught.value)
    assert load(versions, version=1).folder == versions / "1"


def test_a_place_without_versions_is_told(versions, tmp_path):
    for path, words in [
        (tmp_path / "nowhere", "expected a folder of versions that `export` wrote"),
        (versions / "2" / "model.keras", "expected a folder of versions that `export` wrote"),
        (versions / "2" / "assets", "there is none in it"),
    ]:
        with pytest.raises(ValueError) as caught:
            load(path)
        assert words in str(caught.value) and 'Write: load("saved_models/digits")' in str(caught.value)
    with pytest.raises(ValueError, match=r"`version`: expected one that is there: 1, 2\.\nReceived: 3"):
        load(versions, version=3)
    for version in ("1", 1.0, True):
        with pytest.raises(TypeError, match="`version`: expected a whole number, or None"):
            load(versions, version=version)


def test_layers_that_keras_does_not_know_are_told(versions, monkeypatch):
    monkeypatch.setattr(importlib.import_module("kwarmup.export"), "check", lambda *_: {})

    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    version = export(keras.Sequential([keras.Input((3,)), Doubled()]), versions)
    with pytest.raises(ValueError) as caught:
        load(versions)
    assert "Doubled" in str(caught.value)
    assert f"or tf.saved_model.load({str(version)!r}), which needs neither" in str(caught.value)
    with keras.saving.custom_object_scope({"Doubled": Doubled}):
        assert load(versions).model.predict(np.ones((1, 3)), verbose=0).tolist() == [[2, 2, 2]]


def test_what_a_failed_check_left_can_be_read(tmp_path, monkeypatch):
    def fail(*_):
        raise ExportError("It gives other outputs.")

    monkeypatch.setattr(importlib.import_module("kwarmup.export"), "check", fail)
    with pytest.raises(ExportError):
        export(small_model(), tmp_path, PLAN)
    (left,) = tmp_path.iterdir()
    assert load(left).plan == PLAN
    assert json.loads((left / "assets" / "provenance.json").read_text())["updates"] == 0
