"""What makes two trainings the same: found where it differs, and nowhere else."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kwarmup
from kwarmup import Schedule, decay, hold, identity, linear, warmup
from kwarmup.scaled import install


def make(
    first=lambda: layers.Dense(4, "relu"),
    optimizer=lambda: keras.optimizers.SGD(0.1),
    built=True,
    **arguments,
):
    model = keras.Sequential([keras.Input((3,))] * built + [first(), layers.Dropout(0.2), layers.Dense(1)])
    model.compile(optimizer(), **{"loss": "mse", **arguments})
    return model


def lines(one, other):
    return list(identity.differences(identity.of_model(one), identity.of_model(other)))


def nested():
    return keras.Sequential([layers.Dense(4, "relu")])


def named_loss(y, p):
    return keras.ops.mean(p)


SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam
SAME = {
    "layers": {},
    "not built": dict(built=False),
    "layers within layers": dict(first=nested),
    "wrapped": dict(first=lambda: layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1))),
    "a function": dict(first=lambda: layers.Lambda(lambda x: x * 2)),
    "a metric with a name that counts up": dict(metrics=lambda: [keras.metrics.AUC()]),
    "a loss of one's own": dict(loss=lambda: named_loss),
    "a loss without a name": dict(loss=lambda: lambda y, p: keras.ops.mean(p)),
    "schedules of a plan": dict(optimizer=lambda: Adam(Schedule(warmup(steps=3)))),
    "another schedule": dict(optimizer=lambda: Adam(keras.optimizers.schedules.CosineDecay(0.1, 5))),
    "a loss scale": dict(optimizer=lambda: keras.optimizers.LossScaleOptimizer(SGD(0.1))),
}


def build(first=None, loss=None, metrics=None, **arguments):
    more = {"first": first} if first else {}
    more |= {name: make() for name, make in (("loss", loss), ("metrics", metrics)) if make}
    return make(**more, **arguments)


@pytest.mark.parametrize("arguments", SAME.values(), ids=SAME)
def test_what_is_built_twice_is_the_same(arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keras.metrics.AUC on torch
        assert lines(build(**arguments), build(**arguments)) == []


HYPERPARAMETERS = [
    (kwarmup.SGD, "momentum", 0.9 * linear(to=0.5, steps=9), 0.9 * linear(to=0.6, steps=9)),
    (kwarmup.SGD, "weight_decay", 0.1 * hold(steps=9), 0.2 * hold(steps=9)),
    (kwarmup.Adam, "beta_1", 0.9 * linear(to=0.5, steps=9), 0.9 * linear(to=0.5, steps=8)),
    (kwarmup.Adam, "epsilon", 1e-7 * hold(steps=9), 1e-7 * linear(to=0.5, steps=9)),
    (kwarmup.AdamW, "beta_2", 0.9 * decay(steps=9, shape="sqrt"), 0.9 * decay(steps=9, shape="cosine")),
    (kwarmup.AdamW, "weight_decay", 0.1 * hold(steps=9), 0.004),
]


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer])
@pytest.mark.parametrize(("optimizer", "name", "then", "now"), HYPERPARAMETERS)
def test_a_profile_of_a_hyperparameter_is_said_as_its_author_wrote_it(optimizer, name, then, now, wrap):
    one, same, other = (
        make(optimizer=lambda v=v: wrap(optimizer(0.1, **{name: v}))) for v in (then, then, now)
    )
    assert lines(one, same) == []
    shown = repr(repr(now)) if not isinstance(now, float) else repr(now)
    assert lines(one, other) == [f"settings.{name}: {repr(then)!r} in the checkpoint, {shown} now"]


def test_a_plans_schedule_is_the_plans_to_compare():
    one, other = (make(optimizer=lambda n=n: SGD(Schedule(hold(steps=n)))) for n in (1, 2))
    assert lines(one, other) == []


DIFFERENT = {
    "model.layers.1.rate: 0.2 in the checkpoint, 0.5 now": lambda: _dropout(0.5),
    "model.layers.0.activation: 'relu' in the checkpoint, 'tanh' now": lambda: make(
        lambda: layers.Dense(4, "tanh")
    ),
    "model.layers.0.units: 4 in the checkpoint, 5 now": lambda: make(lambda: layers.Dense(5, "relu")),
    "model.layers.0.class: 'Dense' in the checkpoint, 'Activation' now": lambda: make(
        lambda: layers.Activation("relu")
    ),
    "model.layers.0.dtype.config.name: 'float32' in the checkpoint, 'mixed_float16' now": lambda: make(
        lambda: layers.Dense(4, "relu", dtype="mixed_float16")
    ),
    "model.layers: 3 in the checkpoint, 4 now": lambda: make(
        lambda: keras.Sequential([layers.Dense(4, "relu"), layers.Dense(4)])
    ),
    "model.loss: 'mse' in the checkpoint, 'mae' now": lambda: make(loss="mae"),
    "model.metrics: None in the checkpoint, ['mae'] now": lambda: make(metrics=["mae"]),
    "model.optimizer.class: 'SGD' in the checkpoint, 'Adam' now": lambda: make(optimizer=lambda: Adam(0.1)),
    "model.settings.momentum: 0.0 in the checkpoint, 0.9 now": lambda: make(
        optimizer=lambda: SGD(0.1, momentum=0.9)
    ),
    "model.settings.clipnorm: None in the checkpoint, 1.0 now": lambda: make(
        optimizer=lambda: SGD(0.1, clipnorm=1.0)
    ),
    "model.settings.learning_rate: 0.10000000149011612 in the checkpoint, 0.5 now": lambda: make(
        optimizer=lambda: SGD(0.5)
    ),
}


def _dropout(rate):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, "relu"), layers.Dropout(rate), layers.Dense(1)]
    )
    model.compile(SGD(0.1), "mse")
    return model


@pytest.mark.parametrize(("line", "other"), DIFFERENT.items())
def test_what_differs_is_spelled_out(line, other):
    found = identity.differences({"model": identity.of_model(make())}, {"model": identity.of_model(other())})
    assert line in list(found)


def test_a_layer_without_a_config_is_no_obstacle():
    class Own(layers.Layer):
        def __init__(self, thing):
            super().__init__()
            self.thing = thing

        def call(self, x):
            return x

        def get_config(self):
            raise NotImplementedError

    assert lines(make(lambda: Own(object())), make(lambda: Own(object()))) == []


# Data

X = np.arange(12.0).reshape(4, 3)


def changed():
    other = X.copy()
    other[2, 1] += 1e-12
    return other


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (changed(), "0.contents"),
        (X[:, ::-1], "0.contents"),
        (X[:3], "0.shape: '(4, 3)' in the checkpoint, '(3, 3)' now"),
        (X.astype("float32"), "0.type: 'float64' in the checkpoint, 'float32' now"),
        ((X, X), ": 3 in the checkpoint, 4 now"),
        (lambda: None, "0.type: 'float64' in the checkpoint, 'function' now"),
    ],
)
def test_other_data_is_found(x, words):
    one, other = (identity.of_data(data, np.ones(4), None) for data in (X, x))
    assert any(words in line for line in identity.differences(one, other))


@pytest.mark.parametrize(
    "x", [X, X.T, X[::2], X > 3, np.array([["a", "bcd"]]), np.array(["a", None]), np.zeros((0, 3))]
)
def test_the_same_data_is_the_same(x):
    assert identity.of_data(x, {"a": X}) == identity.of_data(x.copy(), {"a": X.copy()})


def test_a_string_more_or_less_in_an_array_of_objects_is_found():
    one, other = (identity.of_data(np.array(words, dtype=object)) for words in (["a", "b"], ["a", "c"]))
    assert one != other


def test_a_schedule_with_a_factor_is_the_same():
    one, other = (make(optimizer=lambda: Adam(Schedule(warmup(steps=3)))) for _ in range(2))
    install(other)
    assert lines(one, other) == []
