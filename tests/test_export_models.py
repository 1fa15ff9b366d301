"""export over kinds of models: each is checked in a process without Keras, which loads and compares it."""

import importlib

import keras
import numpy as np
import pytest

from kwarmup import ExportError, Plan, cosine, export, load, warmup
from kwarmup.saved_model import check as checking

exporting = importlib.import_module("kwarmup.export")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8, 4)).astype("float32")
WORDS = RANDOM.integers(0, 5, (8, 3)).astype("int32")
PLAN = Plan(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=4, examples=8, epochs=3)


@pytest.fixture(autouse=True)
def one_process(monkeypatch, fresh):
    monkeypatch.setattr(checking, "subprocess", fresh)
    keras.utils.set_random_seed(0)


@keras.saving.register_keras_serializable("test_export_models")
class Scale(keras.layers.Layer):
    """A layer of a user's own, with a weight."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="random_normal", name="factor")

    def call(self, x):
        return x * self.factor


@keras.saving.register_keras_serializable("test_export_models")
class Residual(keras.Model):
    """A subclassed model, with a custom layer and dropout in it."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense, self.scale = keras.layers.Dense(4, "relu"), Scale()
        self.drop, self.head = keras.layers.Dropout(0.5), keras.layers.Dense(3)

    def call(self, x, training=False):
        return self.head(self.drop(x + self.scale(self.dense(x)), training=training))


def sequential():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "gelu"), keras.layers.Dense(3)]), X


def functional():
    x = keras.Input((4,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(4)(x))
    return keras.Model(x, keras.layers.Dense(3)(keras.layers.add([x, hidden]))), X


def subclassed():
    model = Residual()
    model(X)
    return model, X


def custom_layer():
    return keras.Sequential([keras.Input((4,)), Scale(), keras.layers.Dense(3)]), X


def inputs_by_name():
    number, word = keras.Input((4,), name="number"), keras.Input((3,), dtype="int32", name="word")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(word))
    y = keras.layers.Dense(2)(keras.layers.Concatenate()([number, embedded]))
    return keras.Model({"word": word, "number": number}, {"y": y, "half": y / 2}), {
        "number": X,
        "word": WORDS,
    }


def inputs_in_order():
    a, b = keras.Input((4,)), keras.Input((4,))
    y = keras.layers.Dense(2)(a - b)
    return keras.Model([a, b], [y, keras.ops.mean(y, axis=-1)]), [X, X[::-1].copy()]


def half_precision():
    half = keras.DTypePolicy("mixed_float16")
    layers = [keras.layers.Dense(8, "relu", dtype=half), keras.layers.Dense(3, dtype="float32")]
    return keras.Sequential([keras.Input((4,)), *layers]), X


def bfloat16_to_the_end():
    policy = keras.DTypePolicy("mixed_bfloat16")
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype=policy)]), X


def sequences_of_any_length():
    layers = [keras.layers.LSTM(4, return_sequences=True), keras.layers.GlobalAveragePooling1D()]
    return keras.Sequential([keras.Input((None, 2)), *layers]), RANDOM.normal(size=(8, 5, 2)).astype(
        "float32"
    )


def whole_numbers():
    """The model takes float32; who calls it may have other numbers."""
    return sequential()[0], RANDOM.integers(0, 5, (5, 4)).astype("uint8")


def inputs_in_a_tuple():
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model((a, b), keras.layers.Dense(2)(a * b)), (X, X[::-1].copy())


def convolution():
    layers = [keras.layers.Conv2D(2, 3, padding="same"), keras.layers.MaxPooling2D(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers]), RANDOM.random((8, 4, 4, 1)).astype("float32")


def no_weights():
    return keras.Sequential([keras.Input((4,)), keras.layers.Softmax()]), X


MODELS = [
    sequential, functional, subclassed, custom_layer, inputs_by_name, inputs_in_order, half_precision,
    bfloat16_to_the_end, sequences_of_any_length, convolution, whole_numbers, inputs_in_a_tuple, no_weights,
]  # fmt: skip


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_is_served_and_read_back(tmp_path, make):
    model, batch = make()
    version = export(model, tmp_path, batch=batch)
    loaded = load(tmp_path)
    for one, other in zip(
        keras.tree.flatten(loaded.model.predict(batch, verbose=0)),
        keras.tree.flatten(model.predict(batch, verbose=0)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert loaded.folder == version


TRAINED = [functional, subclassed, inputs_by_name, inputs_in_order, half_precision]


@pytest.mark.parametrize("make", TRAINED, ids=lambda make: make.__name__)
def test_a_model_trains_on(tmp_path, make):
    model, batch = make()
    targets = keras.tree.map_structure(np.zeros_like, model.predict(batch, verbose=0))
    losses = keras.tree.map_structure(lambda _: "mse", targets)
    model.compile(keras.optimizers.Adam(PLAN.learning_rate), loss=losses)
    version = export(model, tmp_path, PLAN, batch=batch, targets=targets, trainable=True)
    import tensorflow as tf

    # In this process now, to see that it learns; that no Keras is needed has been checked.
    loaded = tf.saved_model.load(str(version))
    signature = loaded.train_step.input_signature
    parts = [*keras.tree.flatten(batch), *keras.tree.flatten(targets)]
    if isinstance(batch, dict):
        parts = [*[batch[name] for name in sorted(batch)], *[targets[name] for name in sorted(targets)]]
    arguments = tf.nest.pack_sequence_as(signature, [tf.constant(part) for part in parts])
    losses = [float(loaded.train_step(*arguments)["loss"]) for _ in range(6)]
    assert losses[-1] < losses[1]
    assert int(loaded.iterations) == 6


def test_a_batch_size_that_was_frozen_is_found(tmp_path):
    x = keras.Input((4,))
    frozen = keras.Model(x, keras.layers.Lambda(lambda x: x + keras.ops.ones((8, 4)))(x))
    with pytest.raises(ExportError, match=r"shape \(8, 4\) in place of \(1, 4\)"):
        export(frozen, tmp_path, batch=X)


def test_preprocessing_becomes_a_part_of_serving(tmp_path):
    raw = RANDOM.integers(0, 255, (8, 4)).astype("uint8")
    model, _ = sequential()
    version = export(
        model, tmp_path, PLAN, batch=raw, preprocess=lambda x: keras.ops.cast(x, "float32") / 255
    )
    import tensorflow as tf

    served = tf.saved_model.load(str(version))
    np.testing.assert_allclose(served.serve(raw), model.predict(raw / 255, verbose=0), atol=1e-5)
    with pytest.raises(ValueError, match="None, and raw inputs for preprocess"):
        export(model, tmp_path, preprocess=lambda x: x)


def test_words_are_preprocessed_by_a_layer_with_a_table(tmp_path):
    lookup = keras.layers.StringLookup(vocabulary=["cat", "dog"])
    model = keras.Sequential([keras.Input((2,), dtype="int64"), keras.layers.Embedding(3, 2)])
    batch = np.array([["cat", "dog"], ["bird", "cat"]])
    export(model, tmp_path, batch=batch, preprocess=lookup)


def test_classes_have_names(tmp_path):
    model, _ = sequential()
    names = ["a cat", "ein Hund", "鸟"]
    version = export(model, tmp_path, batch=X, class_names=names)
    import tensorflow as tf

    served = tf.saved_model.load(str(version)).signatures["classify"]
    (key,) = served.structured_input_signature[1]
    answer, outputs = served(**{key: X}), model.predict(X, verbose=0)
    found = [name.decode() for name in answer["class_name"].numpy()]
    assert found == [names[index] for index in outputs.argmax(-1)] and len(set(found)) > 1
    np.testing.assert_allclose(answer["score"], outputs.max(-1), rtol=1e-5)
    with pytest.raises(ValueError, match=r"Received: 2 names, for outputs of the shape \(8, 3\)"):
        export(model, tmp_path, batch=X, class_names=names[:2])


SCHEDULES = {
    "of Keras, one step at a time": lambda: keras.optimizers.schedules.CosineDecay(
        0.0, 100, warmup_target=0.1, warmup_steps=10
    ),
    "of Keras, in steps": lambda: keras.optimizers.schedules.PiecewiseConstantDecay(
        [10, 20], [0.1, 0.01, 0.001]
    ),
    "of kwarmup, without a clock": lambda: importlib.import_module("kwarmup").Schedule(
        0.1 * (warmup(steps=5) >> cosine(steps=20))
    ),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_an_optimizer_brings_its_schedule(tmp_path, kind):
    model, _ = sequential()
    schedule = SCHEDULES[kind]()
    model.compile(keras.optimizers.SGD(schedule, gradient_accumulation_steps=2), "mse")
    version = export(model, tmp_path)
    import tensorflow as tf

    rates = tf.saved_model.load(str(version)).learning_rate(np.arange(15)).numpy()
    if hasattr(schedule, "curve"):
        assert rates[5] > rates[3]
    else:
        np.testing.assert_allclose(rates, [float(schedule(2 * step)) for step in range(15)], rtol=1e-6)


def test_a_plain_number_brings_no_learning_rate(tmp_path):
    model, _ = sequential()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    version = export(model, tmp_path)
    assert "learning_rate" not in (version / "signatures.json").read_text()
