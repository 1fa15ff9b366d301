"""The range test and the catapult probe: ground truth on quadratics, true losses, and a model left as it was."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import kwarmup as kw
from kwarmup import Schedule, Sweep, private, warmup
from kwarmup.batches import Batches
from kwarmup.measure import find_lr as module
from kwarmup.supply import Supply
from kwarmup.sweep import METHODS
from kwarmup.trial import Trial
from kwarmup.untouched import untouched

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]]) + 0.1 * RANDOM.normal(size=(96, 1))).astype("float32")
TENSORFLOW = keras.backend.backend() == "tensorflow"


def linear(optimizer=None, weights=None, **layer):
    """A least-squares model without a bias; towards 0 its loss is w'Hw / 2, with H = 2 X'X / n."""
    model = keras.Sequential([keras.Input((X.shape[1],)), keras.layers.Dense(1, use_bias=False, **layer)])
    model.compile(optimizer or keras.optimizers.SGD(), "mse")
    if weights is not None:
        model.set_weights([np.reshape(weights, (-1, 1))])
    return model


def network(optimizer=None):
    """With all that has a state: dropout, batch normalisation, a metric."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1, kernel_regularizer="l2")])
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def dense(compiled):
    """Without dropout, which draws other numbers under XLA."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", **compiled)
    return model


def values(model):
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [np.array(ops.convert_to_numpy(variable)).tolist() for variable in variables]


# Ground truth


@pytest.mark.backend
@pytest.mark.parametrize("accumulated", [None, 4])
def test_divergence_is_found_at_2_over_the_largest_curvature(accumulated):
    curvature, axes = np.linalg.eigh(2 * X.T.astype("float64") @ X / len(X))
    model = linear(keras.optimizers.SGD(gradient_accumulation_steps=accumulated), axes[:, -1])
    sweep = kw.find_lr(model, X, 0 * Y, low=1e-3, high=10, steps=60, batch_size=len(X), repeats=1)
    step = sweep.learning_rates[1] / sweep.learning_rates[0]
    found = sweep.divergence().learning_rate
    assert 1 <= found / (2 / curvature[-1]) < step


@pytest.mark.backend
@pytest.mark.parametrize("accumulated", [None, 4])
def test_the_catapult_probe_finds_the_closed_form(accumulated):
    hessian = 2 * X.T.astype("float64") @ X / len(X)
    weights = np.array([1.0, -0.3, 0.7])
    gradient = hessian @ weights
    truth = 2 * gradient @ gradient / (gradient @ hessian @ gradient)
    model = linear(keras.optimizers.SGD(gradient_accumulation_steps=accumulated), weights)
    found = kw.largest_stable_lr(model, X, 0 * Y, batch_size=len(X), repeats=2)
    # The largest that was seen to be stable, to 1 %.
    assert truth / 1.0101 < found.low <= found.learning_rate <= found.high < truth * 1.0001
    assert (found.method, found.confidence) == ("stable", 0.5)


@pytest.mark.backend
def test_each_loss_is_that_of_its_batch_before_the_update_with_its_rate():
    sweep = kw.find_lr(
        linear(weights=[0, 0, 0]), X, Y, low=1e-3, high=0.1, steps=20, batch_size=30, repeats=2, seed=None
    )
    assert len(sweep.losses) == 2 and sweep.batch_size == 30
    np.testing.assert_allclose(sweep.learning_rates, np.geomspace(1e-3, 0.1, 20))
    for losses in sweep.losses:
        weights = np.zeros((3, 1))
        for update, (loss, rate) in enumerate(zip(losses, sweep.learning_rates, strict=True)):
            begin = 30 * (update % 3)  # a pass has three whole batches
            x, y = X[begin : begin + 30], Y[begin : begin + 30]
            assert loss == pytest.approx(((x @ weights - y) ** 2).mean(), rel=1e-4)
            weights -= rate * 2 * x.T @ (x @ weights - y) / 30


@pytest.mark.backend
def test_very_small_rates_are_those_that_are_applied():
    applied = []
    schedule = Schedule(10 * kw.exponential(start=1e-8, to=1, steps=99))
    for step in (0, 1, 7, 50, 98, 99, 200):
        applied.append(float(ops.convert_to_numpy(schedule(step))) / schedule.curve(step))
    np.testing.assert_allclose(applied, 1, rtol=2e-5)


def test_a_linear_sweep_has_equal_steps():
    sweep = kw.find_lr(linear(), X, Y, low=0.01, high=0.2, shape="linear", steps=20, repeats=1)
    np.testing.assert_allclose(sweep.learning_rates, np.linspace(0.01, 0.2, 20))


@pytest.mark.backend
def test_repeats_have_other_batches_and_the_same_weights():
    sweep = kw.find_lr(network(), X, Y, low=1e-9, high=1e-8, steps=20, repeats=3)
    rows = np.array(sweep.losses)
    assert rows.shape == (3, 20)
    # Nothing is learned at such rates: the repeats differ by their batches and dropout alone.
    assert np.ptp(rows.mean(axis=1)) < 0.3 * rows.mean() and len({row[0] for row in sweep.losses}) == 3
    again = kw.find_lr(network(), X, Y, low=1e-9, high=1e-8, steps=20, repeats=3)
    np.testing.assert_allclose(again.losses, sweep.losses, rtol=1e-6)
    other = kw.find_lr(network(), X, Y, low=1e-9, high=1e-8, steps=20, repeats=3, seed=1)
    assert other.losses[0][0] != sweep.losses[0][0]
    without_dropout = kw.find_lr(linear(), X, Y, low=1e-9, high=1e-8, steps=20, repeats=2)
    assert without_dropout.losses[0][0] != without_dropout.losses[1][0]


def test_a_loss_that_is_not_a_number_counts_as_risen(monkeypatch):
    def first_update(trial, update, parts, learning_rate):
        return 1.0, math.nan if learning_rate > 0.3 else 0.5

    monkeypatch.setattr("kwarmup.measure.stable._first_update", first_update)
    assert kw.largest_stable_lr(linear(), X, Y, repeats=1).learning_rate == pytest.approx(0.3, rel=0.01)


@pytest.mark.backend
def test_nan_ends_a_repeat():
    def loss(target, predicted):
        return ops.where(ops.max(ops.abs(predicted)) > 1e6, np.nan, ops.mean((target - predicted) ** 2))

    model = linear()
    model.compile(keras.optimizers.SGD(), loss)
    sweep = kw.find_lr(model, X, Y, low=0.01, high=1e9, steps=40, repeats=2)
    assert all(len(row) < 40 for row in sweep.losses)
    assert all(np.isfinite(row[:-1]).all() for row in sweep.losses)


@pytest.mark.backend
def test_regularisation_counts_as_in_training():
    plain, heavy = (
        linear(weights=[1, 1, 1], kernel_regularizer=l2) for l2 in (None, keras.regularizers.L2(10.0))
    )
    first = [
        kw.find_lr(model, X, Y, low=1e-9, high=1e-8, steps=20, repeats=1).losses[0][0]
        for model in (plain, heavy)
    ]
    assert first[1] - first[0] == pytest.approx(30, rel=1e-4)


@pytest.mark.backend
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_suggestions_on_digits_differ_by_less_than_a_factor_of_2(optimizer):
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # Twenty seeds of five repeats each, measured as a hundred: the step is compiled once. Fewer where it is slow.
    seeds = 20 if TENSORFLOW else 4
    sweep = kw.find_lr(model, x, y, repeats=5 * seeds)
    rows = [sweep.losses[5 * seed : 5 * seed + 5] for seed in range(seeds)]
    middles = {"sgd": 0.12, "adam": 0.015}
    for method in METHODS:
        found = [Sweep(sweep.learning_rates, five, 32).suggest(method).learning_rate for five in rows]
        assert max(found) / min(found) <= 2, method
        if method == "steepest":  # the backends agree with each other by agreeing with this
            assert middles[optimizer] / 2.5 < np.median(found) < middles[optimizer] * 2.5


# Any model


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "schedule": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 10)),
    "a schedule that has no config": lambda: keras.optimizers.SGD(Own()),
    "a function": lambda: keras.optimizers.SGD(lambda: 0.1),
    "accumulation": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "scaled loss": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.5)),
    "kwarmup": lambda: kw.SGD(0.1 * warmup(steps=9), momentum=0.9 * warmup(start=0.5, steps=5)),
    "averaged": lambda: keras.optimizers.RMSprop(use_ema=True, ema_overwrite_frequency=3),
}


class Own(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1 + ops.cast(step, "float32"))


@pytest.mark.backend
@pytest.mark.parametrize(
    ("verb", "name"),
    [*((kw.find_lr, name) for name in OPTIMIZERS), (kw.largest_stable_lr, "schedule")],
)
def test_a_model_is_left_as_it_was(verb, name):
    model = network(OPTIMIZERS[name]())
    model.fit(X, Y, epochs=1, verbose=0)
    # On JAX a second `fit` raises there, whatever was between.
    goes_on = (name, keras.backend.backend()) != ("averaged", "jax")
    if goes_on:
        with untouched(model):  # which has its own tests
            model.fit(X, Y, epochs=1, verbose=0)
            without = values(model)
    before, attributes = values(model), {**vars(model), **vars(model.optimizer)}
    verb(model, X, Y, batch_size=16, repeats=1)
    assert values(model) == before
    now = {**vars(model), **vars(model.optimizer)}
    assert now.keys() == attributes.keys() and all(now[key] is attributes[key] for key in now)
    if goes_on:  # And it trains on as it would have.
        model.fit(X, Y, epochs=1, verbose=0)
        assert values(model) == without


def test_a_loss_scale_that_is_too_large_costs_batches_but_no_rates(monkeypatch):
    monkeypatch.setattr("kwarmup.measure.stable._BEGIN", 0.1)  # near to what is sought
    # 2**18 overflows in half precision: the first updates are skipped until it has been halved some times.
    rows = []
    for policy, scale in (("float32", 1.0), ("mixed_float16", 2.0**18)):
        keras.config.set_dtype_policy(policy)
        try:
            optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=scale)
            model = linear(optimizer, [1, 2, -1])
        finally:
            keras.config.set_dtype_policy("float32")
        sweep = kw.find_lr(model, X, Y, low=1e-3, high=0.1, steps=40, batch_size=96, repeats=1)
        rows.append(sweep.losses[0][:20])
        rows.append(kw.largest_stable_lr(model, X, Y, batch_size=96, repeats=1).learning_rate)
    np.testing.assert_allclose(rows[0], rows[2], rtol=0.02)
    assert rows[1] == pytest.approx(rows[3], rel=0.05)


@pytest.mark.parametrize(
    "compiled", [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 7}]
)
def test_a_model_may_be_compiled_in_any_way(compiled):
    if not TENSORFLOW:
        pytest.skip("how TensorFlow compiles")
    rows = [
        kw.find_lr(dense(way), X, Y, low=1e-4, high=1e-2, steps=20, repeats=1).losses
        for way in ({}, compiled)
    ]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-4)


@pytest.mark.backend
def test_a_training_step_of_ones_own_is_run():
    class Doubled(keras.Model):
        def train_step(self, *arguments):
            found = super().train_step(*arguments)
            if keras.backend.backend() == "jax":
                return {"loss": 2 * found[0]["loss"]}, found[1]
            return {"loss": 2 * found["loss"]}

    def built(kind):
        inputs = keras.Input((3,))
        model = kind(inputs, keras.layers.Dense(1, kernel_initializer="ones")(inputs))
        model.compile("sgd", "mse")
        return model

    rows = [
        kw.find_lr(built(kind), X, Y, low=1e-4, high=1e-2, steps=20, repeats=1).losses[0]
        for kind in (keras.Model, Doubled)
    ]
    np.testing.assert_allclose(2 * np.array(rows[0]), rows[1], rtol=1e-5)


@pytest.mark.parametrize("compiled", [{}, {"jit_compile": True}])
def test_a_training_step_is_traced_once_for_all_repeats(compiled):
    if not TENSORFLOW:
        pytest.skip("how TensorFlow compiles")
    traced = []

    class Counted(keras.Model):
        def train_step(self, data):
            traced.append(data)
            return super().train_step(data)

    inputs = keras.Input((3,))
    model = Counted(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", **compiled)
    kw.find_lr(model, X, Y, low=1e-4, high=1e-2, steps=30, repeats=3)
    assert len(traced) == 1


@pytest.mark.backend
def test_a_training_step_without_a_loss_is_refused():
    class Silent(keras.Model):
        def train_step(self, *arguments):
            found = super().train_step(*arguments)
            return ({}, found[1]) if keras.backend.backend() == "jax" else {}

    inputs = keras.Input((3,))
    model = Silent(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    private.build(model, (X, Y))
    before = values(model)
    with pytest.raises(ValueError, match="`model`: expected one that reports its loss"):
        kw.find_lr(model, X, Y)
    assert values(model) == before


# Any data


class Data(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[20 * index : 20 * index + 20], Y[20 * index : 20 * index + 20]


@pytest.mark.backend
@pytest.mark.parametrize("make", [Data, lambda: lambda: (Data()[index] for index in range(5))])
def test_batches_are_cut_anew_and_begin_again(make):
    arguments = dict(low=1e-3, high=0.05, steps=20, batch_size=12, repeats=2)
    sweep = kw.find_lr(linear(weights=[0, 0, 0]), make(), **arguments)
    assert sweep.losses[0] == sweep.losses[1] and len(sweep.losses[0]) == 20
    assert sweep.losses[0][0] == pytest.approx((Y[:12] ** 2).mean(), rel=1e-5)


def test_a_dataset_of_single_examples_is_data_too():
    if not TENSORFLOW:
        pytest.skip("tf.data")
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    arguments = dict(low=1e-3, high=0.05, steps=20, batch_size=48, repeats=1)
    rows = [
        kw.find_lr(linear(weights=[0, 0, 0]), *data, **arguments, seed=None).losses
        for data in ((dataset,), (X, Y))
    ]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-5)


@pytest.mark.backend
def test_sample_weights_count():
    arguments = dict(low=1e-9, high=1e-8, steps=20, batch_size=96, repeats=1)
    weighted = kw.find_lr(linear(weights=[0, 0, 0]), X, Y, np.full(96, 3.0), **arguments)
    assert weighted.losses[0][0] == pytest.approx(3 * (Y**2).mean(), rel=1e-5)


def test_numpys_random_state_stays():
    before = np.random.get_state()[1].tolist()
    kw.find_lr(linear(), X, Y, steps=20, repeats=1)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize(("batch_size", "parts"), [(32, 1), (20, 1), (36, 2), (40, 4)])
@pytest.mark.parametrize("seed", [0, None])
def test_a_trials_batches_are_those_of_a_training_without_what_is_left_of_a_pass(batch_size, parts, seed):
    clock = kw.Clock(
        examples=96, epochs=6, batch_size=batch_size, gradient_accumulation_steps=parts, drop_remainder=True
    )
    data = {"a": X, "b": X.astype("float64")}, Y, np.arange(96)
    supply = Supply(
        "find_lr", *data, batch_size=batch_size, parts=parts, replicas=1, count=8, trials=2, seed=seed
    )
    first = supply.passes
    rows, expected = (
        [keras.tree.map_structure(ops.convert_to_numpy, batch) for batch in batches]
        for batches in (supply.trial(1), Batches(clock, *data, seed).between(first, 2 * first))
    )
    assert len(rows) == len(expected) >= 8
    for row, other in zip(rows, expected, strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, row, other)
        assert [array.dtype.name for array in keras.tree.flatten(row)][:2] == ["float32"] * 2


# Ctrl-C and errors


@pytest.mark.backend
def test_ctrl_c_returns_what_was_measured(monkeypatch):
    model = network()
    private.build(model, (X, Y))
    before = values(model)
    asked = []

    def interrupted(losses):
        asked.append(len(losses))
        if len(asked) == 5:
            raise KeyboardInterrupt
        return None

    monkeypatch.setattr(module, "divergence", interrupted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_until_divergence", lambda losses: tuple(losses.tolist()))
        sweep = kw.find_lr(model, X, Y, low=1e-6, high=1e-2, steps=30, repeats=4)
    assert sweep.interrupted and [len(row) for row in sweep.losses] == [30, 20]
    assert values(model) == before


@pytest.mark.backend
def test_the_same_dice_give_the_same_loss_again():
    model = network()
    private.build(model, (X, Y))
    supply = Supply("find_lr", X, Y, None, batch_size=32, parts=1, replicas=1, count=1, trials=1, seed=0)
    found = []
    with untouched(model):
        trial = Trial(model, 0.0, stride=1)
        for same in (True, True, False):
            trial.rewind()
            if same:
                trial.same_dice()
            trial.run(supply.trial(0), 1, found, stop=lambda _: False)
    first, again, other = (loss for _, loss in found)
    assert first == again != other


@pytest.mark.backend
def test_ctrl_c_before_anything_was_measured_is_ctrl_c(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Trial, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kw.find_lr(linear(), X, Y)


@pytest.mark.parametrize(
    ("change", "first", "write"),
    [
        ({"low": 0}, "`low`: expected a learning rate above 0.", "find_lr(model, x, y, low=1e-7, high=10, "),
        ({"low": 2, "high": 1}, "`high`: expected a learning rate above low, 2.", "find_lr(model, x, y, "),
        ({"steps": 5}, "`steps`: expected a whole number, 20 or more.", "find_lr(model, x, y, "),
        ({"repeats": 0}, "`repeats`: expected a whole number, 1 or more.", "find_lr(model, x, y, "),
        ({"shape": "cosine"}, '`shape`: expected "exponential" or "linear".', 'find_lr(model, x, y, shape="linear")'),
        ({"batch_size": 0}, "`batch_size`: expected a whole number, 1 or more.", "find_lr(model, x, y, batch_size=32)"),
        ({"batch_size": 97}, "`batch_size`: expected at most the 96 examples", "find_lr(model, x, y, batch_size=96)"),
        ({"x": iter(()), "y": None}, "`x`: expected data that can be begun anew.", "find_lr(model, make_batches)"),
        ({"model": keras.Sequential([keras.layers.Dense(1)])}, "`model`: expected a compiled model.", "model.compile"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(change, first, write):
    arguments = {"model": linear(), "x": X, "y": Y, **change}
    if "x" in change:
        arguments["x"] = (batch for batch in ())
    with pytest.raises((TypeError, ValueError)) as caught:
        kw.find_lr(**arguments)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(first) and lines[-1].startswith(f"Write: {write}")


@pytest.mark.parametrize("batch_size", [30, 2])
def test_a_batch_size_that_does_not_divide_into_micro_batches_is_said(batch_size):
    model = linear(keras.optimizers.SGD(gradient_accumulation_steps=4))
    with pytest.raises(
        ValueError, match="sizes that divide by gradient_accumulation_steps × replicas = 4 × 1"
    ):
        kw.find_lr(model, X, Y, batch_size=batch_size)


def test_a_loss_that_no_learning_rate_raises_is_said(monkeypatch):
    monkeypatch.setattr("kwarmup.measure.stable._MOST", 0.1)
    model = linear(weights=[1, 1, 1])
    model.compile("sgd", lambda target, predicted: ops.mean(predicted))
    with pytest.raises(ValueError, match="`loss`: expected one that rises for large updates"):
        kw.largest_stable_lr(model, X, Y, repeats=1)
