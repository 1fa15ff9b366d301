"""A model is used inside and is as before behind it: every variable, attribute and random number."""

import random

import keras
import numpy as np
import pytest
from keras import ops

from kwarmup import private, state, untouched
from kwarmup.private import build

pytestmark = pytest.mark.backend

X, Y = np.ones((8, 2), "float32"), np.zeros((8, 3), "float32")


class Drawing(keras.layers.Layer):
    """Draws from the generator that all of Keras shares."""

    def call(self, x):
        # JAX refuses this one while it compiles.
        return x if keras.backend.backend() == "jax" else x + 0.1 * keras.random.normal(ops.shape(x))


def make_model(optimizer=None):
    layers = [keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), Drawing()]
    model = keras.Sequential(layers)
    model.compile(optimizer or keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
    build(model, (X, Y))
    return model


def values(model):
    groups = state.variables(model).values()
    return [ops.convert_to_numpy(variable).tolist() for group in groups for variable in group]


def attributes(model):
    """Every attribute by its identity, and what is in the lists of them."""
    found = {}
    for thing in (model, model.optimizer):
        for name, value in {**vars(thing), **{f"{n} tracked": v for n, (_, v) in lists(thing)}}.items():
            inside = [id(member) for member in value] if isinstance(value, list) else []
            found[type(thing).__name__, name] = id(value), inside
    return found


def lists(thing):
    return private.tracked(thing)["config"].items()


def train(model):
    model.fit(X, Y, batch_size=2, epochs=2, verbose=0)


def recompile(model):
    train(model)
    model.compile(keras.optimizers.SGD(0.5), "mae", run_eagerly=True)
    model.note = "mine"
    train(model)


def set_learning_rate(model):
    model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    model.make_train_function(force=True)
    model.stop_training = True


def fail(model):
    train(model)
    raise RuntimeError("planted")


def interrupt(model):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model.fit(X, Y, batch_size=2, verbose=0, callbacks=[Interrupt()])


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("use", [train, recompile, set_learning_rate, fail, interrupt])
def test_everything_is_as_before(use, trained):
    model = make_model()
    if trained:
        train(model)
    before = values(model), attributes(model)
    try:
        with untouched.untouched(model):
            use(model)
            assert (values(model), attributes(model)) != before
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert (values(model), attributes(model)) == before


def test_what_happens_inside_is_raised():
    with pytest.raises(RuntimeError, match="planted"), untouched.untouched(model := make_model()):
        fail(model)


def test_a_loss_scale_and_the_optimizer_in_it_are_as_before():
    model = make_model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)))
    before = values(model), attributes(model), dict(vars(model.optimizer.inner_optimizer))
    with untouched.untouched(model):
        train(model)
        model.optimizer.inner_optimizer.learning_rate = 0.5
    assert (values(model), attributes(model), dict(vars(model.optimizer.inner_optimizer))) == before


def test_training_goes_on_as_if_nothing_had_been():
    trained = []
    for use in (train, lambda model: None):
        keras.utils.set_random_seed(1)
        model = make_model()
        train(model)
        with untouched.untouched(model):
            use(model)
        train(model)  # shuffled, with dropout and a layer that draws from the shared generator
        trained.append(values(model))
    assert trained[0] == trained[1]


def drawn():
    numbers = [random.random(), np.random.random()]
    if keras.backend.backend() == "torch":
        import torch

        numbers.append(torch.rand(()).item())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        numbers += list(tf.data.Dataset.range(100).shuffle(100).take(3).as_numpy_iterator())
    return numbers + ops.convert_to_numpy(keras.random.uniform((2,))).tolist()


def test_random_numbers_are_those_that_would_have_been_drawn():
    model = make_model()
    keras.utils.set_random_seed(1)
    drawn()
    with untouched.untouched(model):
        inside = drawn()
    assert drawn() == inside


def test_torch_modes_are_as_before():
    if keras.backend.backend() != "torch":
        return
    model = make_model()
    layers = [model, *model.layers]
    for layer, training in zip(layers, (False, True, False, True, False), strict=True):
        layer.training = training
    with untouched.untouched(model):
        for layer in layers:
            layer.train()
    assert [layer.training for layer in layers] == [False, True, False, True, False]


@pytest.mark.parametrize("part", ["_attributes", "_variables", "_random_numbers"])
def test_a_part_that_is_forgotten_is_found(part, monkeypatch):
    monkeypatch.setattr(untouched, part, lambda *_: ())
    with pytest.raises(AssertionError):
        test_everything_is_as_before(recompile, trained=True)
        test_random_numbers_are_those_that_would_have_been_drawn()


def test_a_model_without_variables_is_refused():
    model = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="without the variables of its layers"), untouched.untouched(model):
        pass
    model.build((None, 2))
    with (
        pytest.raises(ValueError, match="without the variables of its optimizer"),
        untouched.untouched(model),
    ):
        pass
