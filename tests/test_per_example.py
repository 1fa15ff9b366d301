"""Norms of single examples' gradients from one backward pass: equal to gradients taken one by one. On any backend."""

import keras
import numpy as np
import pytest

from kwarmup import gradient, private
from kwarmup.per_example import watch

pytestmark = pytest.mark.backend

DRAW = np.random.default_rng(0)
LAYERS = keras.layers


def compiled(shape, *layers, loss="mse", weighted=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile("sgd", loss)
    x = DRAW.normal(size=(6, *shape)).astype("float32")
    y = DRAW.normal(size=(6, *model.output_shape[1:])).astype("float32")
    batch = (x, y, DRAW.random(6).astype("float32")) if weighted else (x, y)
    private.build(model, batch)
    for weight in model.weights:  # nothing is 0 or 1 by chance
        if weight.path.endswith(("gamma", "beta", "moving_mean", "moving_variance", "bias")):
            weight.assign(DRAW.uniform(0.5, 1.5, size=weight.shape))
    return model, batch


CASES = {
    "dense": ((4,), [LAYERS.Dense(5, "tanh"), LAYERS.Dense(3, use_bias=False), LAYERS.Dense(2)]),
    "weighted": ((4,), [LAYERS.Dense(5, "relu"), LAYERS.Dense(2)]),
    "softmax at the end": ((4,), [LAYERS.Dense(5), LAYERS.ReLU(), LAYERS.Dense(3, "softmax")]),
    "dense over a short sequence": ((3, 8), [LAYERS.Dense(9, "tanh"), LAYERS.Dense(7)]),
    "dense over a long sequence": ((30, 2), [LAYERS.Dense(3, "tanh"), LAYERS.Dense(2)]),
    "convolution": ((12, 3), [LAYERS.Conv1D(4, 3, activation="relu"), LAYERS.Flatten(), LAYERS.Dense(2)]),
    "dilated": ((12, 2), [LAYERS.Conv1D(3, 2, dilation_rate=3, padding="same"), LAYERS.GlobalAveragePooling1D()]),
    "images": (
        (7, 6, 2),
        [LAYERS.Conv2D(3, (3, 2), strides=2, padding="same"), LAYERS.ReLU(), LAYERS.Conv2D(2, 2), LAYERS.Flatten()],
    ),
    "normalised": (
        (5, 4),
        [LAYERS.Dense(6), LAYERS.LayerNormalization(), LAYERS.BatchNormalization(), LAYERS.ReLU(), LAYERS.Dense(2)],
    ),
    "no scale": (
        (4,),
        [LAYERS.Dense(6), LAYERS.BatchNormalization(scale=False), LAYERS.LayerNormalization(center=False)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_norms_are_those_of_examples_one_by_one(case):
    shape, layers = CASES[case]
    layers = [type(layer).from_config(layer.get_config()) for layer in layers]
    loss = "categorical_crossentropy" if "softmax" in case else "mse"
    model, batch = compiled(shape, *layers, loss=loss, weighted=case == "weighted")
    attributes = [dict(vars(layer)) for layer in model.layers]
    watched = watch(model, batch)
    flat, squares = gradient.with_squares(model, False, watched)(batch)
    one_by_one = gradient.function(model, False)
    alone = np.array([one_by_one(tuple(part[i : i + 1] for part in batch)) for i in range(6)])
    assert squares == pytest.approx((alone**2).sum(1), rel=2e-4)
    assert flat == pytest.approx(alone.mean(0), abs=1e-5)
    assert [dict(vars(layer)) for layer in model.layers] == attributes


class Own(keras.layers.Dense):
    """A layer that nobody knows here."""


def twice():
    shared, x = LAYERS.Dense(4), keras.Input((4,))
    return keras.Model(x, shared(shared(x)))


REFUSED = {
    "a layer of one's own": lambda: keras.Sequential([keras.Input((4,)), Own(2)]),
    "a layer that is used twice": twice,
    "an embedding": lambda: keras.Sequential([keras.Input((4,)), LAYERS.Embedding(5, 3), LAYERS.Flatten()]),
    "a regulariser": lambda: keras.Sequential([keras.Input((4,)), LAYERS.Dense(2, kernel_regularizer="l2")]),
    "groups": lambda: keras.Sequential([keras.Input((4, 4)), LAYERS.Conv1D(4, 2, groups=2)]),
    "a recurrent layer": lambda: keras.Sequential([keras.Input((4, 4)), LAYERS.SimpleRNN(3)]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_follow_from_inputs_and_outputs_is_left_to_others(case):
    model = REFUSED[case]()
    model.compile("sgd", "mse")
    batch = (
        np.abs(DRAW.normal(size=(6, *model.input_shape[1:]))).astype("float32"),
        np.zeros((6, *model.output_shape[1:])),
    )
    private.build(model, batch)
    assert watch(model, batch) is None


def test_a_frozen_layer_counts_for_nothing():
    model, batch = compiled((4,), LAYERS.Dense(5), LAYERS.Dense(2))
    model.layers[0].trainable = False
    _, squares = gradient.with_squares(model, False, watch(model, batch))(batch)
    one_by_one = gradient.function(model, False)
    alone = [one_by_one(tuple(part[i : i + 1] for part in batch)) for i in range(6)]
    assert squares == pytest.approx([np.dot(g, g) for g in alone], rel=1e-4) and len(alone[0]) == 12


def test_nested_models_and_a_loss_scale():
    inner = keras.Sequential([keras.Input((4,)), LAYERS.Dense(3, "relu")])
    model, batch = compiled((4,), inner, LAYERS.Dense(2))
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=1024.0)
    plain = gradient.with_squares(model, False, watch(model, batch))(batch)[1]
    model.compile(scaled, "mse")
    private.build(model, batch)
    assert gradient.with_squares(model, False, watch(model, batch))(batch)[1] == pytest.approx(
        plain, rel=1e-4
    )
