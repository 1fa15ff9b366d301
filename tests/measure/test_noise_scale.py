"""noise_scale on models whose gradient noise is known exactly. On any backend."""

import json
import math
import types

import keras
import numpy as np
import pytest
from keras import ops

from kwarmup import NoiseScale, noise_scale, private, state

pytestmark = pytest.mark.backend

FEATURES = 5
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(1200, FEATURES)).astype("float32")
LABELS = (X @ DRAW.normal(size=FEATURES) + DRAW.logistic(size=1200) > 0).astype("float32")
WEIGHTS = 0.5 * DRAW.normal(size=(FEATURES, 1)).astype("float32")


class Sharing(keras.layers.Dense):
    """A layer whose examples' own gradients nobody knows: those in a micro-batch share one."""


def linear(loss="mse", optimizer=None, activation=None, layer=keras.layers.Dense, **arguments):
    dense = layer(1, activation, use_bias=False, **arguments)
    model = keras.Sequential([keras.Input((FEATURES,)), dense])
    model.set_weights([WEIGHTS])
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss)
    return model


def logistic(**arguments):
    return linear("binary_crossentropy", activation="sigmoid", **arguments)


def logistic_gradients(x=X, labels=LABELS, weight=1.0):
    predicted = 1 / (1 + np.exp(-x @ WEIGHTS[:, 0].astype("float64")))
    return ((predicted - labels) * weight)[:, None] * x


def exact(gradients):
    """tr(Sigma) and |G|^2 of all examples."""
    return gradients.var(0, ddof=1).sum(), (gradients.mean(0) ** 2).sum()


def check(found, gradients, rel=1e-3):
    trace, squared_norm = exact(gradients)
    assert found.trace == pytest.approx(trace, rel=rel)
    assert found.squared_norm == pytest.approx(squared_norm, rel=rel)
    assert found.value == pytest.approx(trace / squared_norm, rel=rel)


ALL = dict(micro_batch_size=1, precision=1e-9)


def test_all_examples_one_by_one_give_the_exact_value():
    found = noise_scale(logistic(), X, LABELS, **ALL)
    check(found, logistic_gradients())
    assert found.examples == 1200 and found.converged
    assert found.interval == pytest.approx((found.value, found.value))
    assert found.critical_batch_size == found.value


def test_the_norms_of_dense_layers_give_the_exact_value_in_any_micro_batches():
    found = noise_scale(logistic(), X, LABELS, micro_batch_size=15, precision=1e-9)
    check(found, logistic_gradients())
    assert found.micro_batch_size == 1 and found.converged
    shared = noise_scale(logistic(layer=Sharing), X, LABELS, micro_batch_size=15, precision=1e-9)
    assert shared.micro_batch_size == 15 and not shared.converged


@pytest.mark.parametrize("size", [2, 15])
def test_micro_batches_find_it_within_their_interval(size):
    trace, squared_norm = exact(logistic_gradients())
    covered = [
        low <= trace / squared_norm <= high
        for low, high in (
            noise_scale(
                logistic(layer=Sharing), X, LABELS, micro_batch_size=size, precision=0.3, seed=seed
            ).interval
            for seed in range(8)
        )
    ]
    assert sum(covered) >= 6  # at 95 %, fewer happen once in two hundred times


def endless(seed, size=64):
    """y = x * truth + noise, with as many Gaussian examples as are wanted."""
    draw = np.random.default_rng(seed)
    while True:
        x = draw.normal(size=(size, FEATURES))
        yield x, x.sum(1) + 2 * draw.normal(size=size)


@pytest.mark.parametrize(("size", "layer"), [(8, Sharing), (32, Sharing), (24, keras.layers.Dense)])
def test_least_squares_on_gaussian_data_has_its_closed_form(size, layer):
    away = ((WEIGHTS[:, 0] - 1.0) ** 2).sum()
    # The gradient of (x w - y)^2 is 2 (x x' d - x e): E|g|^2 = 4 ((features + 2) |d|^2 + features Var e).
    trace, squared_norm = 4 * ((FEATURES + 1) * away + FEATURES * 4), 4 * away
    model = linear(layer=layer)
    found = noise_scale(model, endless(size), micro_batch_size=size, precision=0.1, max_examples=20_000)
    low, high = found.interval
    assert low <= trace / squared_norm <= high
    assert found.value == pytest.approx(trace / squared_norm, rel=0.2)
    assert found.converged and found.examples % size == 0


def test_the_value_does_not_depend_on_how_it_is_measured():
    """On the batch size it is measured with, on accumulation, on the form of the data."""
    trace, squared_norm = exact(logistic_gradients())
    accumulating = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    batches = [(X[i : i + 50], LABELS[i : i + 50]) for i in range(0, 1200, 50)]
    shuffled = np.random.default_rng(0).permutation(1200)
    rows = [(X[i], LABELS[i]) for i in np.split(shuffled, 12)]
    for found in (
        noise_scale(logistic(optimizer=accumulating), X, LABELS, **ALL),
        noise_scale(logistic(), batches_of(batches), **ALL),
        noise_scale(logistic(), batches_of(batches), micro_batch_size=3, precision=1e-9),
        noise_scale(logistic(layer=Sharing), batches_of(rows), micro_batch_size=6, precision=1e-9),
        noise_scale(logistic(), X, LABELS, micro_batch_size=25, precision=1e-9),
    ):
        assert found.examples >= 1150
        assert found.squared_norm == pytest.approx(squared_norm, rel=0.05)
        low, high = found.interval
        assert low * (1 - 1e-4) <= trace / squared_norm <= high * (1 + 1e-4)


def batches_of(batches):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return batches[index]

    return Batches()


def test_a_tf_dataset():
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    check(
        noise_scale(logistic(), tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(64), **ALL),
        logistic_gradients(),
    )


def test_sample_weights_count_as_in_the_loss():
    weight = np.random.default_rng(1).random(1200).astype("float32")
    found = noise_scale(logistic(), X, LABELS, weight, **ALL)
    check(found, logistic_gradients(weight=weight))


def test_regularisers_move_the_gradient_and_not_the_noise():
    found = noise_scale(logistic(kernel_regularizer=keras.regularizers.L2(0.1)), X, LABELS, **ALL)
    check(found, logistic_gradients() + 0.2 * WEIGHTS[:, 0])


def test_preconditioned_is_the_gradient_as_adam_scales_it():
    model = logistic(optimizer=keras.optimizers.Adam(1e-9, beta_2=0.9))
    model.fit(X, LABELS, batch_size=100, verbose=0)
    (moments,) = private.second_moments(model.optimizer)
    scale = 1 / (np.sqrt(ops.convert_to_numpy(moments)[:, 0]) + 1e-7)
    found = noise_scale(model, X, LABELS, preconditioned=True, **ALL)
    check(found, logistic_gradients() * scale)
    assert found.value != pytest.approx(noise_scale(model, X, LABELS, **ALL).value, rel=0.01)


def test_any_loss_that_is_a_mean_and_any_structure():
    left, right = keras.Input((FEATURES,), name="left"), keras.Input((FEATURES,), name="right")
    out = keras.layers.Dense(1, use_bias=False)(keras.layers.Add()([left, right]))
    model = keras.Model({"left": left, "right": right}, out)
    model.set_weights([WEIGHTS])
    model.compile("sgd", lambda y, predicted: ops.square(predicted - y))
    found = noise_scale(model, {"left": X, "right": 0 * X}, LABELS[:, None], **ALL)
    check(found, 2 * (X @ WEIGHTS - LABELS[:, None]) * X)


def test_dropout_is_noise_in_training_and_none_in_the_probe():
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dropout(0.5, seed=3), dense])
    dense.set_weights([WEIGHTS])
    model.compile("sgd", "mse")
    gradients = 2 * (X @ WEIGHTS - LABELS[:, None]) * X
    check(noise_scale(model, X, LABELS, training=False, **ALL), gradients)
    draw = np.random.default_rng(0)
    dropped = np.concatenate([X * 2 * draw.integers(0, 2, X.shape) for _ in range(200)])
    noisy = 2 * (dropped @ WEIGHTS - np.tile(LABELS, 200)[:, None]) * dropped
    trace, squared_norm = exact(noisy)
    found = noise_scale(model, X, LABELS, micro_batch_size=4, precision=0.1, max_examples=20_000)
    assert found.examples > 1200 and found.converged
    assert found.value == pytest.approx(trace / squared_norm, rel=0.25)


def test_batch_normalisation_is_measured_as_in_training_or_with_fixed_statistics():
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.BatchNormalization(), keras.layers.Dense(1, use_bias=False)]
    )
    model.layers[1].set_weights([WEIGHTS])
    model.compile("sgd", "mse")
    before = everything(model)
    noise_scale(model, X, LABELS, max_examples=2_000)
    assert everything(model) == before
    fixed = noise_scale(model, X, LABELS, training=False, **ALL)
    assert fixed.examples == 1200 and fixed.converged


# What it leaves behind: nothing.


def everything(model):
    groups = state.variables(model).values()
    return [ops.convert_to_numpy(variable).tolist() for group in groups for variable in group]


class Failing(keras.utils.PyDataset):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 60:
            raise self.error
        return X[:32], LABELS[:32, None]


@pytest.mark.parametrize("error", [None, RuntimeError("planted"), KeyboardInterrupt()], ids=repr)
def test_the_model_is_as_before(error):
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
    model.fit(X, LABELS, batch_size=100, verbose=0)
    before, function = everything(model), model.train_function
    if error is None:
        noise_scale(model, X, LABELS, max_examples=2_000)
    else:
        with pytest.raises(type(error)):
            noise_scale(model, Failing(error), precision=1e-9)
    assert everything(model) == before and model.train_function is function


# What it says.


def test_it_says_when_it_could_not_get_there():
    found = noise_scale(logistic(layer=Sharing), X, LABELS, micro_batch_size=25, precision=1e-9)
    assert not found.converged and found.stopped == "the data has ended"
    found = noise_scale(logistic(), X, LABELS, precision=1e-9, max_examples=600)
    assert not found.converged and found.stopped == "max_examples=600 is reached" and found.examples <= 600
    found = noise_scale(logistic(), X, LABELS, precision=0.5)
    assert found.converged and found.stopped == "the interval is narrow enough" and found.examples < 1200


def test_no_gradient_in_the_noise_leaves_the_interval_open():
    signs = np.tile([1.0, -1.0], 600)
    found = noise_scale(linear(), X, (X @ WEIGHTS)[:, 0] + 10 * signs, max_examples=600)
    assert found.interval[1] == math.inf and not found.converged
    assert found.stopped == "max_examples=600 is reached, and no gradient shows in the noise yet"


def test_the_result_is_plain_values():
    found = noise_scale(logistic(), X, LABELS, max_examples=600)
    assert NoiseScale(**{**found.to_dict(), "interval": found.interval}) == found
    text = json.loads(json.dumps(found.to_dict()))
    assert text["value"] == found.value and text["interval"] == list(found.interval)
    assert repr(found).startswith("NoiseScale(") and f"examples={found.examples}" in repr(found)


def test_the_same_seed_gives_the_same_value():
    one, same, other = (noise_scale(logistic(), X, LABELS, max_examples=600, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(precision="0.1"), TypeError, "`precision`: expected a real number"),
        (dict(seed="a"), TypeError, "`seed`: expected a whole number"),
        (dict(precision=0), ValueError, "`precision`: expected a number above 0"),
        (
            dict(micro_batch_size=0),
            ValueError,
            "`micro_batch_size`: expected a number of examples, 1 or more",
        ),
        (dict(micro_batch_size=100), ValueError, "(?s)16 micro-batches or more.*1200 examples in .* of 100"),
        (dict(max_examples=10), ValueError, "`max_examples`: expected 16 micro-batches of 18 or more"),
        (dict(preconditioned=True), TypeError, "(?s)expected Adam or AdamW.*Received: True, with SGD"),
        (dict(sample_weight=np.ones(3)), ValueError, "arrays of 3 and 1200 examples"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        noise_scale(logistic(), X, LABELS, **arguments)


def test_several_workers_are_refused(monkeypatch):
    # Replicas of one process are measured: see tests/distribute.
    model, here = linear(), types.SimpleNamespace(worker_devices=["CPU:0"])
    strategy = types.SimpleNamespace(num_replicas_in_sync=2, extended=here)
    monkeypatch.setattr(type(model), "distribute_strategy", strategy, raising=False)
    with pytest.raises(ValueError, match="`model`: expected a model of one process"):
        noise_scale(model, X, LABELS)


def test_data_that_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="`y`: expected None, since batches bring their own"):
        noise_scale(logistic(), batches_of([]), LABELS)
    with pytest.raises(
        TypeError, match=r"(?s)`x`: expected arrays\..*a list.*np.asarray\(x\), np.asarray\(y\)"
    ):
        noise_scale(logistic(), X.tolist(), LABELS)
    with pytest.raises(ValueError, match="0 examples in micro-batches of 32"):
        noise_scale(logistic(), batches_of([]))
    with pytest.raises(ValueError, match="100 examples in micro-batches of 32"):
        noise_scale(logistic(), batches_of([(X[:100], LABELS[:100])]))
    with pytest.raises(TypeError, match="`x`: expected arrays, or batches of them"):
        noise_scale(logistic(), 3)
    with pytest.raises(ValueError, match="a gradient that is not finite"):
        noise_scale(linear(), X * np.nan, LABELS)
    for model in (linear, None):
        with pytest.raises(ValueError, match="`model`: expected a compiled model"):
            noise_scale(model, X, LABELS)
    with pytest.raises(ValueError, match="expected a compiled model"):
        noise_scale(keras.Sequential([keras.layers.Dense(1)]), X, LABELS)
