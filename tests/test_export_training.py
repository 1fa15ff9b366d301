"""Training that goes on from a SavedModel, in a process that has neither Keras nor kwarmup."""

import importlib
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kwarmup import Plan, cosine, export, load, warmup
from kwarmup.saved_model import check as checking

exporting = importlib.import_module("kwarmup.export")

PLAN = Plan(learning_rate=0.05 * (warmup(epochs=1) >> cosine()), batch_size=4, examples=24, epochs=2)
X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")

# n updates are made by Keras; m more by TensorFlow alone; then it is saved again, loaded again, and goes on.
PROGRAM = """
import sys
sys.modules["keras"] = sys.modules["kwarmup"] = None
import numpy as np, tensorflow as tf

folders = sys.argv[1:]
data = np.load("data.npz")
for number, folder in enumerate(folders):
    model = tf.saved_model.load(folder)
    rates, losses = [], []
    for first in (12, 16, 20):
        logs = model.train_step(data["x"][first : first + 4], data["y"][first : first + 4])
        rates.append(float(logs["learning_rate"]))
        losses.append(float(logs["loss"]))
        if first == 12:  # saved in between: what was trained goes along
            again = f"{folder}-again"
            tf.saved_model.save(model, again, signatures=dict(model.signatures))
            model = tf.saved_model.load(again)
    variables = [*model.variables, *model.optimizer_variables]
    arrays = {f"v{i}": tf.cast(v, tf.float64).numpy() for i, v in enumerate(variables)}
    plan = tf.io.read_file(model.plan.asset_path).numpy().decode()
    arrays |= {"rates": rates, "losses": losses, "updates": int(model.iterations), "plan": plan}
    np.savez(f"trained{number}.npz", **arrays)
"""


def model_of(kind):
    keras.utils.set_random_seed(0)
    policy = "mixed_float16" if kind == "float16" else "float32"
    layers = [
        keras.layers.Dense(8, "relu", dtype=policy),
        keras.layers.BatchNormalization(dtype=policy),
        keras.layers.Dropout(0.5, dtype=policy),
        keras.layers.Dense(2, dtype="float32"),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers])
    optimizer = {
        "sgd": keras.optimizers.SGD(PLAN.learning_rate, momentum=0.9, nesterov=True),
        "adam": keras.optimizers.AdamW(PLAN.learning_rate, weight_decay=0.01, use_ema=True, clipnorm=1.0),
        "float16": keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(PLAN.learning_rate), initial_scale=8.0, dynamic_growth_steps=2
        ),
    }[kind]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Without XLA, as the endpoint runs: the two round differently.
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def update(model, first):
    model.reset_metrics()
    return model.train_on_batch(X[first : first + 4], Y[first : first + 4], return_dict=True)


@pytest.mark.slow
def test_updates_after_the_export_are_those_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "check", lambda *_: {})  # the program below loads it
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    straight, folders = [], []
    for kind in ("sgd", "adam", "float16"):
        model = model_of(kind)
        for first in (0, 4, 8):
            update(model, first)
        batch = {"batch": X[:4], "targets": Y[:4], "trainable": True}
        folders.append(str(export(model, tmp_path / kind, PLAN, **batch)))
        losses = [update(model, first)["loss"] for first in (12, 16, 20)]
        variables = [*model.variables, *model.optimizer.variables]
        values = [keras.ops.convert_to_numpy(variable).astype("float64") for variable in variables]
        straight.append((losses, values))
    command = [sys.executable, "-c", PROGRAM, *folders]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    for number, (losses, values) in enumerate(straight):
        with np.load(tmp_path / f"trained{number}.npz") as trained:
            assert int(trained["updates"]) == 6
            np.testing.assert_allclose(trained["rates"], PLAN.curve(np.array([3, 4, 5])), atol=1e-8)
            np.testing.assert_allclose(trained["losses"], losses, rtol=1e-6)
            for index, value in enumerate(values):
                np.testing.assert_allclose(
                    trained[f"v{index}"], value, rtol=1e-5, atol=1e-7, err_msg=f"{number} {index}"
                )
            assert Plan.from_json(str(trained["plan"])) == PLAN


def test_the_model_that_was_exported_is_as_it_was(tmp_path, monkeypatch, fresh):
    """The check trains a copy, in its own process; and what `load` gives back trains on too."""
    monkeypatch.setattr(checking, "subprocess", fresh)
    model, undisturbed = model_of("adam"), model_of("adam")
    update(model, 0), update(undisturbed, 0)
    version = export(model, tmp_path, PLAN, batch=X[:4], targets=Y[:4], trainable=True)
    for trained in (model, undisturbed):
        update(trained, 4)
    loaded = load(version.parent)
    update(loaded.model, 4)
    assert loaded.plan == PLAN
    assert int(loaded.model.optimizer.iterations) == 2
    for one, other in zip(model.variables, undisturbed.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert "train_step" in (version / "signatures.json").read_text()


def refused(words, model=None, **arguments):
    with pytest.raises(ValueError) as caught:
        export(model or model_of("sgd"), "unused", trainable=True, **arguments)
    assert words in str(caught.value)
    assert not Path("unused").exists()


def test_what_cannot_train_on_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("`targets`: expected a batch of targets", batch=X[:4])
    bare = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    refused("`model`: expected a compiled model, so that it can train on", bare, targets=Y[:4])
    other = PLAN.replace(epochs=3)
    refused("one with the learning rate that the optimizer will go on with", plan=other, targets=Y[:4])
