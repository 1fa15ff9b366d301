"""Memory by batch size: a planted number of bytes for each example, and a model left as it was."""

import keras
import numpy as np
import pytest
from keras import ops

import kwarmup as kw
from kwarmup.measure import memory_use as module

MEGABYTE = 2**20
X, Y = np.ones((256, 4), "float32"), np.ones((256, 1), "float32")


class Greedy(keras.layers.Layer):
    """Holds three megabytes for each example while it is called, and asks for far too much beyond a number of them."""

    def __init__(self, most=10**9):
        super().__init__()
        self.most = most

    def call(self, inputs):
        import tensorflow as tf

        def hold(inputs):
            held = np.ones(len(inputs) * 3 * MEGABYTE, "uint8")
            if len(inputs) > self.most:
                np.empty(2**60, "uint8")
            return np.float32(0 * len(held))

        return inputs + tf.ensure_shape(tf.numpy_function(hold, [inputs], "float32", stateful=True), ())


def network(*layers):
    keras.utils.set_random_seed(0)
    inner = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers, *inner])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X[:64], Y[:64], batch_size=4, verbose=0)
    return model


def values(model):
    return [
        np.array(ops.convert_to_numpy(v)).tolist() for v in [*model.variables, *model.optimizer.variables]
    ]


def test_planted_bytes_are_found_and_the_model_is_as_it_was():
    model = network(Greedy())
    before = values(model)
    found = kw.memory_use(model, X, Y, batch_sizes=[64, 8, 16, 32])
    assert found.batch_sizes == (8, 16, 32, 64) and not found.out_of_memory and not found.interrupted
    assert found.line.per_example == pytest.approx(3 * MEGABYTE, rel=0.15)
    assert found.line.error < 0.3 and found.memory > found.peaks[-1]
    assert values(model) == before
    assert kw.MemoryUse.from_dict(found.to_dict()) == found


def test_a_size_that_does_not_fit_ends_it():
    found = kw.memory_use(network(Greedy(20)), X, Y, batch_sizes=[8, 16, 32, 64])
    assert found.batch_sizes == (8, 16) and found.out_of_memory == (32,)
    with pytest.raises(ValueError, match="`batch_sizes`: expected a batch size that fits"):
        kw.memory_use(network(Greedy(4)), X, Y, batch_sizes=[8, 16])


def test_ctrl_c_keeps_what_was_measured(monkeypatch):
    real, calls = module.BatchTrials.try_out, []

    def try_out(self, size):
        calls.append(size)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(self, size)

    monkeypatch.setattr(module.BatchTrials, "try_out", try_out)
    model = network()
    before = values(model)
    found = kw.memory_use(model, X, Y, batch_sizes=[4, 8, 16])
    assert found.interrupted and found.batch_sizes == (4, 8) and values(model) == before
    with pytest.raises(KeyboardInterrupt):
        kw.memory_use(model, X, Y, batch_sizes=[4, 8, 16])


def test_what_is_wrong_is_said(monkeypatch):
    for sizes in ([0], [2.5], []):
        with pytest.raises(ValueError, match="`batch_sizes`: expected "):
            kw.memory_use(network(), X, Y, batch_sizes=sizes)
    monkeypatch.setattr(module, "device_memory", lambda model: None)
    with pytest.raises(ValueError, match="`model`: expected Linux, or a model on an accelerator"):
        kw.memory_use(network(), X, Y)


def test_the_line_has_no_part_below_nothing():
    rising = kw.MemoryUse((10, 20, 40), (1_050, 1_150, 1_350), held=1_000)
    # The least squares line through 50, 150 and 350 begins at -50.
    assert rising.line.fixed == 0 and rising.line.per_example == pytest.approx(17_500 / 2_100)
    flat = kw.MemoryUse((10, 20, 40), (1_300, 1_200, 1_100), held=1_000, memory=5_000)
    assert flat.line == (pytest.approx(200), 0, pytest.approx(0.5)) and flat.expected_to_fit is None
    with pytest.raises(ValueError, match="`batch_sizes`: expected two or more"):
        _ = kw.MemoryUse((10,), (1_300,), held=1_000).line
    with pytest.raises(ValueError, match="`batch_size`: expected one that was measured: 10, 20, 40"):
        flat.bytes(30)
