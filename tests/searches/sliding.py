"""A model whose gradient is 1 whatever happens, so that each update moves its weight by the learning rate."""

import keras
import numpy as np
from keras import ops

from kwarmup import Plan, cosine, warmup

EXAMPLES = 120
X = np.ones((EXAMPLES, 1), "float32")
Y = np.zeros((EXAMPLES, 1), "float32")
PLAN = Plan(
    learning_rate=warmup(epochs=1, start=0.1) >> cosine(to=0.1), batch_size=20, examples=EXAMPLES, epochs=4
)


@keras.saving.register_keras_serializable("tests")
def height(y, prediction):
    """The loss is where the weight stands; y counts nothing."""
    return ops.mean(prediction + 0 * y, axis=-1)


def build(optimizer=keras.optimizers.SGD):
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    model.compile(optimizer(), loss=height)
    return model


def unstable():
    """A model that a large learning rate makes diverge at once."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse")
    return model
