"""What is measured on a model of two replicas: batches that they share, and what one of them alone measures."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's"),
]

PROGRAM = """
import json
import keras, numpy as np, tensorflow as tf, kwarmup as kw
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(96, 3)).astype("float32")
y = np.zeros((96, 1), "float32")
one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def model(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
        model.compile(keras.optimizers.SGD(momentum=0.9), "mse", jit_compile=False)
    return model

found = {}
rates = dict(low=1e-3, high=0.1, steps=20, batch_size=32, repeats=1)
found["losses"] = [kw.find_lr(model(strategy), x, y, **rates).losses[0] for strategy in (one, two)]
largest = kw.max_batch_size(model(two), x[:65], y[:65])
found["largest"] = [largest.value, [trial.batch_size for trial in largest.trials]]
found["speeds"] = kw.throughput(model(two), x, y, batch_sizes=[8, 32], repeats=1).batch_sizes
try:
    kw.throughput(model(two), x, y, batch_sizes=[9])
except ValueError as error:
    found["refused"] = str(error).splitlines()[0]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    # One process of its own for all: devices can only be split before TensorFlow is used, and it takes long to start.
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_two_replicas_measure_the_losses_of_one(found):
    one, two = found["losses"]
    np.testing.assert_allclose(one, two, rtol=1e-4)


def test_the_largest_batch_divides_by_the_replicas(found):
    assert found["largest"] == [64, [2, 4, 16, 64]]


def test_the_batches_whose_speed_is_measured_divide_by_the_replicas(found):
    assert found["speeds"] == [8, 32]
    assert found["refused"] == "`batch_sizes`: expected multiples of 2."
