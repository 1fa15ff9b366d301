"""Exports from other places than one device and TensorFlow: several replicas, and JAX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kwarmup

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(kwarmup.__file__).parents[1])}

SCOPES = """
import importlib, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, kwarmup as kw
importlib.import_module("kwarmup.export").check = lambda folder, expected: seen.append(expected) or {}
seen = []
x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
y = x[:, :2].copy()
rate = kw.Schedule(0.1 * (kw.warmup(steps=5) >> kw.cosine(steps=20)))

def network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(keras.optimizers.Adam(rate), "mse", jit_compile=False)
    return model

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = network()
model.fit(x, y, batch_size=8, verbose=0)
# The same values on one device, and one more update there.
single = network()
single.optimizer.build(single.trainable_variables)
for one, several in ((single, model), (single.optimizer, model.optimizer)):
    for own, mirrored in zip(one.variables, several.variables, strict=True):
        own.assign(keras.ops.convert_to_numpy(mirrored))
outputs = single.predict(x, verbose=0)
loss = single.train_on_batch(x, y)
after = single.predict(x, verbose=0)
arguments = dict(batch=x, targets=y, trainable=True)
versions = [kw.export(model, "outside", **arguments)]
with strategy.scope():
    versions.append(kw.export(model, "inside", **arguments))
for version, expected in zip(versions, seen, strict=True):
    np.testing.assert_allclose(expected.outputs, outputs, atol=1e-6)
    loaded = tf.saved_model.load(str(version))
    np.testing.assert_allclose(loaded.serve(x), outputs, atol=1e-6)
    np.testing.assert_allclose(float(loaded.train_step(x, y)["loss"]), loss, rtol=1e-6)
    np.testing.assert_allclose(loaded.serve(x), after, atol=1e-5)
    assert int(loaded.iterations) == 3
with strategy.scope():
    kw.export(single, "single", batch=x)  # made outside, exported inside
loaded = tf.saved_model.load("single/1")
np.testing.assert_allclose(loaded.serve(x), after, atol=1e-6)
"""

JAX = """
import keras, numpy as np, kwarmup as kw
assert keras.backend.backend() == "jax"
plan = kw.Plan(learning_rate=0.1 * (kw.warmup(epochs=1) >> kw.cosine()), batch_size=5, examples=10, epochs=3)
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5),
                          keras.layers.Dense(2)])
model.compile(keras.optimizers.Adam(plan.learning_rate), "mse")
x = np.random.default_rng(0).random((10, 3)).astype("float32")
plan.fit(model, x, x[:, :2], verbose=0)
version = kw.export(model, "jax", plan, class_names=["a", "b"])  # checked: outputs, and learning rates
loaded = kw.load("jax")
assert loaded.plan == plan and "jax" in loaded.packages
np.testing.assert_allclose(loaded.model.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
"""


def run(code, folder, **environment):
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.slow
def test_inside_and_outside_the_scope_of_a_strategy(tmp_path):
    run(SCOPES, tmp_path)


@pytest.mark.slow
def test_a_model_on_jax(tmp_path):
    pytest.importorskip("jax")
    run(JAX, tmp_path, KERAS_BACKEND="jax")
