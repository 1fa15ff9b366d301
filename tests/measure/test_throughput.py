"""How fast a model trains: times that are real, sizes that do not fit, and a model left as it was."""

import time

import keras
import numpy as np
import pytest
from keras import ops

import kwarmup as kw
from kwarmup.measure import throughput as module

X, Y = np.ones((300, 4), "float32"), np.ones((300, 1), "float32")
TENSORFLOW = keras.backend.backend() == "tensorflow"


def network(optimizer=None, **compiled):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(8),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **compiled)
    return model


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(ops.convert_to_numpy(variable)).tolist() for variable in variables]


@pytest.mark.backend
def test_a_model_is_left_as_it_was():
    model = network()
    model.fit(X, Y, verbose=0)
    before = values(model)
    found = kw.throughput(model, X, Y, batch_sizes=[100, 10], repeats=2)
    assert values(model) == before
    assert found.batch_sizes == (10, 100) and np.shape(found.seconds) == (2, 2)
    assert (np.array(found.seconds) > 0).all() and len(found.compile_seconds) == 2


@pytest.mark.skipif(not TENSORFLOW, reason="a step of Python's own, run eagerly")
def test_the_times_are_those_of_the_step():
    class Slow(keras.Model):
        def train_step(self, data):
            time.sleep(0.02 + 0.0005 * len(data[0]))
            return super().train_step(data)

    inputs = keras.Input((4,))
    model = Slow(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", run_eagerly=True)
    found = kw.throughput(model, X, Y, batch_sizes=[10, 100], repeats=1)
    ((small, large),) = found.seconds
    # At least what was slept; how much more, the machine decides.
    assert small > 0.025 and large > 0.07


@pytest.mark.skipif(not TENSORFLOW, reason="an allocation that fails in the graph")
def test_a_batch_size_that_does_not_fit_ends_it_and_the_others_stand():
    class Greedy(keras.layers.Layer):
        """Allocates 2^38 numbers where a batch has more than 100 examples."""

        def call(self, inputs):
            import tensorflow as tf

            rows = tf.shape(inputs)[0]
            wanted = tf.where(rows > 100, 2**38, 1)
            return inputs + 0 * tf.reduce_sum(tf.random.normal([wanted]))

    model = keras.Sequential([keras.Input((4,)), Greedy(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, Y, batch_size=10, verbose=0)
    before = values(model)
    found = kw.throughput(model, X, Y, batch_sizes=[10, 50, 150, 300], repeats=1)
    assert found.batch_sizes == (10, 50) and found.out_of_memory == (150,)
    assert values(model) == before
    with pytest.raises(ValueError, match="`batch_sizes`: expected a batch size that fits into the memory"):
        kw.throughput(model, X, Y, batch_sizes=[150])


def test_another_error_is_raised_as_it_is(monkeypatch):
    def run(*arguments):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(module._Session, "_run", run)
    with pytest.raises(RuntimeError, match="on purpose"):
        kw.throughput(network(), X, Y, batch_sizes=[10])


def test_ctrl_c_keeps_the_rounds_that_were_finished(monkeypatch):
    real, calls = module._Session.seconds, []

    def seconds(self, size):
        calls.append(size)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(self, size)

    monkeypatch.setattr(module._Session, "seconds", seconds)
    model = network()
    model.fit(X, Y, verbose=0)
    before = values(model)
    found = kw.throughput(model, X, Y, batch_sizes=[10, 20], repeats=4)
    assert found.interrupted and np.shape(found.seconds) == (1, 2) and values(model) == before
    with pytest.raises(KeyboardInterrupt):
        kw.throughput(model, X, Y, batch_sizes=[10, 20])


@pytest.mark.parametrize("compiled", [{"steps_per_execution": 4}, {"accumulated": 2}])
def test_several_steps_an_execution_and_accumulation(compiled):
    parts = compiled.pop("accumulated", None)
    model = network(keras.optimizers.SGD(0.01, gradient_accumulation_steps=parts), **compiled)
    found = kw.throughput(model, X, Y, batch_sizes=[10, 100], repeats=1)
    assert found.batch_sizes == (10, 100) and min(found.seconds[0]) > 0


def test_the_sizes_without_a_word():
    assert kw.throughput(network(), X, Y, repeats=1).batch_sizes == (8, 16, 32, 64, 128, 256)


def test_the_sizes_without_a_word_divide():
    model = network(keras.optimizers.SGD(0.01, gradient_accumulation_steps=3))
    assert kw.throughput(model, X, Y, repeats=1).batch_sizes == (12, 24, 48, 96, 192)


def test_a_generator_is_refused():
    with pytest.raises(TypeError, match="`x`: expected data that can be begun anew"):
        kw.throughput(network(), (batch for batch in [(X, Y)]))


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"batch_sizes": [0]}, "`batch_sizes`: expected whole numbers, 1 or more."),
        ({"batch_sizes": []}, "`batch_sizes`: expected one batch size or more."),
        ({"batch_sizes": [400]}, "`batch_sizes`: expected at most the 300 examples"),
        ({"batch_sizes": 10}, "`batch_sizes`: expected a list of whole numbers."),
        ({"batch_sizes": "10"}, "`batch_sizes`: expected a list of whole numbers."),
        (
            {"y": Y[:9]},
            "`x`: expected as many examples in each array.\nReceived: arrays of 9 and 300 examples",
        ),
        ({"x": X[:0], "y": Y[:0]}, "`x`: expected one example or more."),
        ({"x": X.tolist(), "y": Y.tolist()}, "`x`: expected arrays.\nReceived: a list of numbers"),
        ({"repeats": 0}, "`repeats`: expected a whole number, 1 or more."),
        ({"model": keras.Sequential([keras.layers.Dense(1)])}, "`model`: expected a compiled model."),
    ],
    ids=[
        "size 0",
        "no size",
        "too many",
        "a number",
        "a word",
        "lengths",
        "empty",
        "lists",
        "no repeat",
        "not compiled",
    ],
)
def test_what_is_wrong_is_said(change, first):
    with pytest.raises((TypeError, ValueError)) as caught:
        kw.throughput(**{"model": network(), "x": X, "y": Y, "batch_sizes": [10], **change})
    assert str(caught.value).startswith(first)
