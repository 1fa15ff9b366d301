"""NoiseScaleMonitor: the noise scale along a training that it does not change. On any backend."""

import math
import types

import keras
import numpy as np
import pytest
from keras import ops

from kwarmup import NoiseScaleMonitor, Plan, Schedule, cosine, state
from kwarmup.parts import FIGURES

pytestmark = pytest.mark.backend

FEATURES = 6
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(640, FEATURES)).astype("float32")
Y = (X.sum(1, keepdims=True) + DRAW.normal(size=(640, 1))).astype("float32")
TORCH = keras.backend.backend() == "torch"


def make_model(*layers, optimizer=None, **arguments):
    keras.utils.set_random_seed(1)
    inner = [keras.layers.Dense(8, "tanh"), *(layer() for layer in layers)]
    model = keras.Sequential([keras.Input((FEATURES,)), *inner, keras.layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), "mse", metrics=["mae"], **arguments)
    return model


def train(model, *callbacks, **arguments):
    keras.utils.set_random_seed(2)
    arguments = dict(batch_size=32, epochs=2, verbose=0) | arguments
    history = model.fit(X, Y, callbacks=list(callbacks), **arguments).history
    groups = state.variables(model).values()
    return history, [ops.convert_to_numpy(variable) for group in groups for variable in group]


def frozen(monitor, batch_size=32, passes=1, examples=640, left=0):
    """Train weights that stay where they are, so that their noise is known, on passes in different orders.

    Keras's own shuffling would give the same batches in each pass: on TensorFlow under a global seed.
    """
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((FEATURES, 1))])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    draw = np.random.default_rng(3)
    rows = np.concatenate([draw.permutation(examples) for _ in range(passes)])
    rows = rows[: len(rows) // batch_size * batch_size + left]
    return model.fit(
        X[rows], Y[rows], batch_size=batch_size, shuffle=False, verbose=0, callbacks=[monitor]
    ).history


GRADIENTS = -2 * X * Y
TRACE, SQUARED_NORM = GRADIENTS.var(0, ddof=1).sum(), (GRADIENTS.mean(0) ** 2).sum()


# What it finds.


@pytest.mark.parametrize("parts", [2, 3, 8])
@pytest.mark.parametrize("batch_size", [16, 64])
def test_it_finds_the_noise_of_frozen_weights(parts, batch_size):
    monitor = NoiseScaleMonitor(every=1, parts=parts, decay=0.999, examples=640)
    history = frozen(monitor, batch_size, passes=12)
    found = monitor.estimate
    low, high = found.interval
    # Three standard deviations: the interval is meant to miss one time in twenty.
    assert abs(found.value - TRACE / SQUARED_NORM) <= 0.75 * (high - low)
    away = np.abs([found.trace - TRACE, found.squared_norm - SQUARED_NORM])
    assert (away <= 3 * np.sqrt(np.diag(found.covariance))).all()
    assert high - low < 1.2 * found.value
    assert history["noise_scale"][-1] == found.value


def test_few_examples_need_their_factor():
    """What batches share is 1 part in 10 of |G|^2 here, if nobody says how few examples there are."""
    share = TRACE / 640 / SQUARED_NORM
    without, corrected = (NoiseScaleMonitor(every=1, parts=8, decay=0.999, examples=n) for n in (None, 640))
    for monitor in (without, corrected):
        frozen(monitor, 64, passes=20)
    difference = corrected.estimate.squared_norm - without.estimate.squared_norm
    assert difference == pytest.approx(share * SQUARED_NORM, rel=0.1)


def test_the_exact_figures_of_a_batch():
    monitor = NoiseScaleMonitor(every=1, parts=8, decay=0.5, examples=8)
    frozen(monitor, 8, passes=5, examples=8)
    gradients = GRADIENTS[:8]
    exact = gradients.var(0, ddof=1).sum(), (gradients.mean(0) ** 2).sum()
    assert (monitor.estimate.trace, monitor.estimate.squared_norm) == pytest.approx(exact, rel=1e-4)


def test_its_ratio_is_taken_of_the_averages():
    monitor = NoiseScaleMonitor(decay=0.5)
    for trace, squared_norm in ((4.0, -1.0), (4.0, 3.0)):
        # Parts of 1 in batches of 2.
        monitor._absorb(np.array([squared_norm + trace, squared_norm + trace / 2, 2, 0.0]))
    weights = np.array([1, 2]) / 3
    assert monitor.estimate.squared_norm == pytest.approx(weights @ [-1, 3])
    assert monitor.estimate.value == pytest.approx(4 / (weights @ [-1, 3]))


def test_uneven_parts_and_a_batch_smaller_than_its_parts():
    monitor = NoiseScaleMonitor(every=1, parts=2, decay=0.999, examples=640)
    frozen(monitor, 213, passes=31, left=1)  # 93 of 213 and one of 1
    assert monitor.averages[0] == 92
    assert abs(monitor.estimate.trace - TRACE) <= 3 * math.sqrt(monitor.estimate.covariance[0, 0])


def test_before_the_first_measurement_it_is_unknown():
    assert math.isnan(NoiseScaleMonitor().estimate.value)
    monitor = NoiseScaleMonitor(parts=5)
    assert math.isnan(frozen(monitor, 4, examples=4)["noise_scale"][0])


# What it leaves as it is: the training.


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize(
    "make",
    [
        lambda: make_model(),
        lambda: make_model(keras.layers.LayerNormalization, optimizer=keras.optimizers.AdamW(0.01)),
        lambda: make_model(optimizer=keras.optimizers.SGD(0.05, gradient_accumulation_steps=4)),
        lambda: make_model(optimizer=keras.optimizers.Adam(Schedule(0.01 * cosine(steps=40)), clipnorm=0.5)),
        lambda: make_model(
            optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=64.0)
        ),
        lambda: make_model(run_eagerly=True),
    ],
)
def test_a_mean_over_examples_is_trained_from_its_parts(make, every):
    monitor = NoiseScaleMonitor(every=every)
    history, trained = train(make(), monitor)
    plain_history, plain = train(make())
    assert monitor.agreed == 3 and monitor.averages[0] == -(-39 // every)
    for one, other in zip(trained, plain, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert history.keys() - {"noise_scale"} == plain_history.keys()
    assert history["loss"] == pytest.approx(plain_history["loss"], rel=1e-4)
    assert history["mae"] == pytest.approx(plain_history["mae"], rel=1e-4)


@pytest.mark.parametrize("parts", [2, 5])
def test_uneven_parts_weigh_as_much_as_they_hold(parts):
    monitor = NoiseScaleMonitor(every=1, parts=parts)
    _, trained = train(make_model(), monitor, batch_size=33)  # the last batch holds 13
    _, plain = train(make_model(), batch_size=33)
    assert monitor.agreed == 3
    for one, other in zip(trained, plain, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5)


def dropout():
    return keras.layers.Dropout(0.3, seed=5)


class Masked(keras.losses.Loss):
    """A mean over the examples that count, of which each part has another number."""

    def call(self, y, predicted):
        counts = ops.cast(y > 0, "float32")
        return ops.square(predicted - y) * counts / ops.mean(counts)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_model(dropout),
        lambda: make_model(keras.layers.BatchNormalization),
        lambda: make_model(keras.layers.BatchNormalization, dropout, optimizer=keras.optimizers.Adam(0.01)),
    ],
)
def test_anything_else_is_measured_beside_the_step(make):
    monitor = NoiseScaleMonitor(every=2)
    history, trained = train(make(), monitor)
    plain_history, plain = train(make())
    assert monitor.agreed == -1 and monitor.averages[0] == 20
    for one, other in zip(trained, plain, strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)
    assert history["loss"] == pytest.approx(plain_history["loss"], rel=1e-5)


@pytest.mark.parametrize("loss", [Masked(), keras.losses.MeanSquaredError(reduction="sum")])
def test_a_loss_that_is_no_mean_over_examples_is_noticed(loss):
    trained = []
    for callbacks in ([monitor := NoiseScaleMonitor(every=1)], []):
        model = make_model()
        model.compile(keras.optimizers.SGD(1e-4), loss)
        trained.append(train(model, *callbacks)[1])
    assert monitor.agreed == -1
    for one, other in zip(*trained, strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_several_updates_an_execution():
    if TORCH:
        return
    monitor = NoiseScaleMonitor(every=8)
    history, trained = train(make_model(steps_per_execution=4), monitor)
    plain_history, plain = train(make_model())
    assert monitor.averages[0] == 5  # of 10 executions
    for one, other in zip(trained, plain, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_training_by_a_plan():
    plan = Plan(learning_rate=0.05 * cosine(), batch_size=32, examples=640, epochs=2)
    trained = []
    for callbacks in ([monitor := NoiseScaleMonitor(every=4)], []):
        model = make_model(optimizer=keras.optimizers.SGD(plan.learning_rate))
        history = plan.fit(model, X, Y, verbose=0, callbacks=callbacks).history
        trained.append(model.get_weights())
    assert monitor.averages[0] == 10 and "noise_scale" not in history
    for one, other in zip(*trained, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_model_has_its_own_functions_back():
    model = make_model()
    train(model)
    function = model.train_function
    train(model, NoiseScaleMonitor(every=1))
    assert model.train_function is function and "train_step" not in vars(model)
    assert not {"apply", "stateless_apply"} & vars(model.optimizer).keys()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_model_has_its_own_functions_back_behind_a_failure(error):
    class Fail(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 5:
                raise error

    model = make_model()
    train(model)
    function = model.train_function
    with pytest.raises(error):
        train(model, NoiseScaleMonitor(every=3), Fail())
    assert model.train_function is function and "train_step" not in vars(model)


def test_a_training_step_of_ones_own():
    if keras.backend.backend() == "jax":
        return

    class Own(keras.Sequential):
        def train_step(self, data):
            return {**super().train_step(data), "one": ops.ones(())}

    monitor = NoiseScaleMonitor(every=1)
    model = Own([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    history, _ = train(model, monitor)
    assert monitor.agreed == 3 and history["one"] == [1, 1] and FIGURES not in history


def test_a_step_without_an_update_is_refused():
    if keras.backend.backend() == "jax":
        return

    class Idle(keras.Sequential):
        def train_step(self, data):
            return {"loss": ops.zeros(())}

    model = Idle([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="whose train_step does not apply gradients once"):
        train(model, NoiseScaleMonitor())


def test_its_state_is_kept_by_checkpoints():
    monitor, other = NoiseScaleMonitor(every=3), NoiseScaleMonitor(every=3)
    for callback in (monitor, other):
        callback.set_model(model := make_model())
        model.make_train_function()
        callback.on_train_begin()
    kept, put = state.CallbackStates([monitor]), state.CallbackStates([other])
    monitor._absorb(np.array([3.0, 2.0, 32.0, 0.0]))
    monitor.step, monitor.due = 7, 9
    put.put(*kept.take())
    assert (other.step, other.due, other.agreed) == (7, 9, 1)
    assert other.averages.tolist() == monitor.averages.tolist()
    assert other.estimate.value == monitor.estimate.value


def test_a_second_fit_begins_its_averages_anew_and_keeps_what_is_compiled():
    model, monitor = make_model(), NoiseScaleMonitor(every=1)
    train(model, monitor)
    functions = dict(monitor._functions)
    train(model, monitor, epochs=1)
    assert monitor.averages[0] == 19 and monitor._functions == functions and len(functions) == 2
    model.compile("sgd", "mse")
    train(model, monitor, epochs=1)
    assert monitor._functions.keys() == {False, True} and not functions.items() & monitor._functions.items()


def test_replicas_are_refused():
    monitor = NoiseScaleMonitor()
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    monitor.set_model(types.SimpleNamespace(name="m", train_function=None, distribute_strategy=strategy))
    with pytest.raises(ValueError, match="`model`: expected a model on one device"):
        monitor.on_train_begin()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(every=0), "`every`: expected a whole number, 1 or more"),
        (dict(parts=1), "`parts`: expected a whole number, 2 or more"),
        (dict(examples=1.5), "`examples`: expected a whole number, 2 or more"),
        (dict(decay=1.0), "`decay`: expected a number from 0 to below 1"),
        (dict(decay=float("nan")), "`decay`: expected a finite number"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        NoiseScaleMonitor(**arguments)
