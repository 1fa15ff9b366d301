"""Formats beside the SavedModel: written, and checked by their own runtime in a process without TensorFlow."""

import importlib

import keras
import numpy as np
import pytest

from kwarmup import ExportError, export

exporting = importlib.import_module("kwarmup.export")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8, 4)).astype("float32")
# Of Keras's own converter: names that numpy 2 has renamed, and what onnx says of ml_dtypes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def savedmodel_unchecked(monkeypatch):
    monkeypatch.setattr(exporting, "check", lambda *_: {})
    keras.utils.set_random_seed(0)


@pytest.fixture(params=["onnx", "litert"])
def format(request):
    for package in {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "litert": ("ai_edge_litert",)}[request.param]:
        pytest.importorskip(package)
    return request.param


FILES = {"onnx": "model.onnx", "litert": "model.tflite"}


def one():
    layers = [
        keras.layers.Dense(8, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(3, "softmax"),
    ]
    return keras.Sequential([keras.Input((4,)), *layers]), X


def several():
    number, word = keras.Input((4,), name="number"), keras.Input((3,), dtype="int32", name="a_word")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(word))
    y = keras.layers.Dense(2)(keras.layers.Concatenate()([number, embedded]))
    model = keras.Model({"number": number, "a_word": word}, {"y": y, "half": y / 2})
    return model, {"number": X, "a_word": RANDOM.integers(0, 5, (8, 3)).astype("int32")}


def in_order():
    a, b = keras.Input((4,), name="z"), keras.Input((4,), name="a")  # not in the order of their names
    return keras.Model([a, b], [keras.layers.Dense(2)(a - b), a + 2 * b]), [X, X[::-1].copy()]


@pytest.mark.parametrize("make", [one, several, in_order], ids=lambda make: make.__name__)
def test_a_model_runs_in_the_runtime_of_the_format(tmp_path, format, make):
    model, batch = make()
    version = export(model, tmp_path, batch=batch, format=format)
    assert (version / FILES[format]).stat().st_size > 500
    assert (version / "saved_model.pb").exists()


def test_other_outputs_are_found(tmp_path, format, monkeypatch):
    model, _ = one()
    write = exporting.formats.write

    def other(folder, model, format, expected):
        write(folder, model, format, exporting.replace(expected, outputs=expected.outputs + 0.1))

    monkeypatch.setattr(exporting.formats, "write", other)
    with pytest.raises(ExportError, match=f"{FILES[format]} gives other outputs than model.predict: largest"):
        export(model, tmp_path, batch=X, format=format)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.isdecimal()]


def test_what_cannot_be_converted_is_told(tmp_path, format, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("op FancyOp is not supported\nand a page more")

    monkeypatch.setattr(keras.Model, "export", fail)
    words = f"The model cannot be converted to {FILES[format]}: op FancyOp is not supported\n"
    with pytest.raises(ExportError, match=words):
        export(one()[0], tmp_path, batch=X, format=format)
