"""A study's training of the noisy quadratic model, in Keras: its updates to the target are those of the closed form."""

import keras
import numpy as np
import pytest
from keras import ops
from noisy_quadratic import CURVATURES, RATES, TARGET, UPDATES

import kwarmup as kw
from kwarmup.studies.data import Data
from kwarmup.studies.training import train

#: Descents side by side in one model, whose mean loss is the expected one to a per cent.
DESCENTS = 200


class Quadratic(keras.layers.Layer):
    """The summed losses of many descents; in training each update sees noise of the variance c / batch."""

    def build(self, shape):
        self.place = self.add_weight(shape=(DESCENTS, len(CURVATURES)), initializer="ones")
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, inputs, training=None):
        loss = ops.sum(CURVATURES.astype("float32") * ops.square(self.place)) / 2
        if training:
            batch = ops.cast(ops.shape(inputs)[0], "float32")
            spread = ops.sqrt(CURVATURES.astype("float32") / batch)
            loss = loss + ops.sum(
                self.place * spread * keras.random.normal(self.place.shape, seed=self.seeds)
            )
        return ops.zeros_like(inputs) + loss


def build(learning_rate=0.1):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), Quadratic()])
    model.compile(keras.optimizers.SGD(learning_rate), lambda y, loss: ops.mean(loss, axis=-1))
    return model


X = np.zeros((6_400, 1), "float32")
DATA = (X[:6_300], X[:6_300]), (X[6_300:], X[6_300:])


def test_updates_to_the_target_are_those_of_the_table():
    data, rows = Data(*DATA[0], DATA[1]), {}
    for size in (4, 16, 64):
        plan = kw.Plan(
            learning_rate=RATES[size], batch_size=size, examples=6_300, epochs=1, drop_remainder=True
        )
        run = train(
            build(plan.learning_rate), plan, round(1.3 * UPDATES[size]) if size < 64 else 90, data, seed=0
        )
        rows[size] = run.to_target(DESCENTS * TARGET, sign=-1).updates
    # Between two looks the loss falls along a curve, and the straight line lies above it.
    assert rows == {size: pytest.approx(UPDATES[size], rel=0.06) for size in rows}
