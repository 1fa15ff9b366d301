"""The gradient of a loss: that of training, and whether it is a mean over examples. On any backend."""

import keras
import numpy as np
import pytest
from keras import ops

from kwarmup import gradient, private

pytestmark = pytest.mark.backend

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(9, 4)).astype("float32"), DRAW.normal(size=(9, 2)).astype("float32")
WEIGHT = DRAW.random(9).astype("float32")


def make_model(*layers, loss="mse", optimizer=None):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "tanh"), *layers, keras.layers.Dense(2)]
    )
    model.compile(optimizer or keras.optimizers.SGD(1.0), loss)
    private.build(model, (X, Y))
    return model


def flat(model):
    return np.concatenate([ops.convert_to_numpy(v).ravel() for v in model.trainable_variables])


def test_it_is_what_an_update_of_plain_descent_takes_away():
    decayed = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
    model = make_model(decayed, keras.layers.BatchNormalization(), keras.layers.ActivityRegularization(0.1))
    found = gradient.function(model, training=True)((X, Y, WEIGHT))
    before = flat(model)
    model.fit(X, Y, batch_size=9, sample_weight=WEIGHT, shuffle=False, verbose=0)
    assert found == pytest.approx(before - flat(model), abs=1e-5)


def test_the_mode_of_layers():
    model = make_model(keras.layers.Dropout(0.5))
    trained, probed = (gradient.function(model, training) for training in (True, False))
    assert not np.allclose(trained((X, Y)), trained((X, Y)))
    assert np.array_equal(probed((X, Y)), probed((X, Y)))


def test_a_loss_scale_leaves_the_gradient_as_it_is():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1024.0)
    model, plain = make_model(optimizer=scaled), make_model()
    plain.set_weights(model.get_weights())
    for training in (True, False):
        expected = gradient.function(plain, training)((X, Y))
        assert gradient.function(model, training)((X, Y)) == pytest.approx(expected, abs=1e-6)


class Untaught(keras.layers.Layer):
    """A weight that the loss does not see."""

    def build(self, shape):
        self.idle = self.add_weight(shape=(2,))

    def call(self, x):
        return x


def test_a_weight_that_the_loss_does_not_see_has_a_gradient_of_0():
    model = make_model(Untaught())
    assert gradient.function(model, True)((X, Y))[15:17].tolist() == [0, 0]


class Spread(keras.losses.Loss):
    """Compares examples with each other."""

    def call(self, y, predicted):
        return ops.square(predicted - ops.mean(predicted, 0))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_a_mean_of_examples(size):
    batch = X[:size], Y[:size], WEIGHT[:size]
    model = make_model(keras.layers.LayerNormalization())
    assert gradient.is_mean_of_examples(gradient.function(model, training=True), batch)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(
    "make",
    [
        lambda: make_model(keras.layers.Dropout(0.1)),
        lambda: make_model(keras.layers.BatchNormalization()),
        lambda: make_model(loss=Spread()),
    ],
)
def test_no_mean_of_examples(make, size):
    of_batch = gradient.function(make(), training=True)
    assert not gradient.is_mean_of_examples(of_batch, (X[:size], Y[:size]))
