"""A learning rate times a factor that moves: in each kind of compiled step, saved, loaded, looked through."""

import keras
import numpy as np
import pytest

from kwarmup import SGD, Adam, Schedule, applied, linear, warmup
from kwarmup.private import schedule_of
from kwarmup.scaled import Scaled, change, install, unscaled

pytestmark = pytest.mark.backend

BACKEND = keras.backend.backend()
X = np.ones((12, 1), "float32")
RATES = {
    "a schedule": (lambda: Schedule(warmup(steps=6)), [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]),
    "a Keras schedule": (
        lambda: keras.optimizers.schedules.PolynomialDecay(1.0, 8, 0.0),
        [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8],
    ),
    "a number": (lambda: 0.5, [0.5] * 6),
}
STEPS = {"as Keras chooses": {}, "eager": {"run_eagerly": True}, "no jit": {"jit_compile": False}}
if BACKEND != "torch":  # there it is torch.compile, which needs a C++ compiler
    STEPS["jit"] = {"jit_compile": True}


def slope(y, prediction):
    """A loss whose gradient is -1: the weight is the sum of the learning rates used."""
    return -keras.ops.mean(prediction)


def compiled(optimizer, **arguments):
    weight = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), weight])
    model.compile(optimizer, slope, **arguments)
    return model


def weight(model):
    return float(keras.ops.convert_to_numpy(model.trainable_variables[0]).item())


class ChangeBehind(keras.callbacks.Callback):
    """Changes the factor behind some updates, as {update: factor}."""

    def __init__(self, changes):
        super().__init__()
        self.changes = changes

    def on_train_batch_end(self, batch, logs=None):
        done = applied.updates(self.model.optimizer)
        if done in self.changes:
            change(self.model, self.changes.pop(done), done)


def fit(model, *callbacks, **arguments):
    model.fit(X[:6], X[:6], **{"batch_size": 1, "verbose": 0, "callbacks": list(callbacks), **arguments})


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("how", STEPS)
def test_a_compiled_step_follows_each_change(how, rate):
    make, rates = RATES[rate]
    model = compiled(keras.optimizers.SGD(make()), **STEPS[how])
    install(model)
    fit(model, ChangeBehind({2: 0.5, 4: 0.25}))
    assert weight(model) == pytest.approx(np.dot(rates, [1, 1, 0.5, 0.5, 0.25, 0.25]))


@pytest.mark.parametrize("rate", RATES)
def test_a_step_that_is_compiled_already_gets_it_too(rate):
    make, rates = RATES[rate]
    model = compiled(keras.optimizers.SGD(make()))
    model.fit(X[:3], X[:3], batch_size=1, verbose=0)
    change(model, 0.5, 3)
    model.fit(X[:3], X[:3], batch_size=1, verbose=0)
    assert weight(model) == pytest.approx(np.dot(rates, [1, 1, 1, 0.5, 0.5, 0.5]))
    change(model, 0.0, 6)  # and a third time
    model.fit(X[:3], X[:3], batch_size=1, verbose=0)
    assert weight(model) == pytest.approx(np.dot(rates, [1, 1, 1, 0.5, 0.5, 0.5]))


def test_between_the_updates_of_an_execution_nothing_changes():
    make, rates = RATES["a schedule"]
    model = compiled(keras.optimizers.SGD(make()), steps_per_execution=2)
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):  # by Keras itself
            install(model)
        return
    install(model)
    fit(model, ChangeBehind({2: 0.5, 4: 0.25}))
    assert weight(model) == pytest.approx(np.dot(rates, [1, 1, 0.5, 0.5, 0.25, 0.25]))


def test_accumulation_takes_the_factor_of_the_update():
    schedule = Schedule(linear(start=1, to=4, steps=3), gradient_accumulation_steps=2)
    model = compiled(keras.optimizers.SGD(schedule, gradient_accumulation_steps=2))
    install(model)
    fit(model, ChangeBehind({1: 0.5, 2: 0.1}))
    assert weight(model) == pytest.approx(1 + 2 * 0.5 + 3 * 0.1)


def test_mixed_precision_has_it_on_the_inner_optimizer():
    make, rates = RATES["a schedule"]
    inner = keras.optimizers.SGD(make())
    model = compiled(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0))
    scaled = install(model)
    assert schedule_of(inner) is scaled and install(model) is scaled
    fit(model, ChangeBehind({2: 0.5, 4: 0.25}))
    assert weight(model) == pytest.approx(np.dot(rates, [1, 1, 0.5, 0.5, 0.25, 0.25]))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_rate_is_single_precision_whatever_the_policy(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(keras.optimizers.SGD(Schedule(0.1)))
        scaled = install(model)
        found = scaled(7)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(found.dtype) == "float32"


def test_a_factor_of_one_changes_no_bit():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(40, 3)), draw.normal(size=(40, 1))

    def trained(rate, scaled):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(rate), "mse")
        if scaled:
            install(model)
        model.fit(x, y, batch_size=4, epochs=2, verbose=0)
        return model.get_weights()

    for rate in (0.1, Schedule(0.1 * warmup(steps=11))):
        for plain, scaled in zip(trained(rate, False), trained(rate, True), strict=True):
            assert plain.tobytes() == scaled.tobytes()


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_optimizers_with_moving_hyperparameters_take_it(kind):
    profile = linear(start=0.5, to=0.9, steps=6)
    name = "momentum" if kind is SGD else "beta_1"

    def trained(rate, *changes):
        model = compiled(kind(rate, **{name: profile}))
        fit(model, *changes)
        return weight(model)

    # The same values, written as a schedule.
    half = Schedule(linear(start=1, to=1, steps=3) >> linear(start=0.5, to=0.5, steps=3))
    assert trained(1.0, ChangeBehind({3: 0.5})) == pytest.approx(trained(half), rel=1e-5)
    assert trained(1.0) != pytest.approx(trained(half), rel=1e-2)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", [keras.optimizers.SGD, Adam])
def test_a_saved_model_goes_on_as_it_would_have(kind, rate, tmp_path):
    make, _ = RATES[rate]
    # A loss that has a name, unlike the one above.
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(kind(make()), "mse")
    fit(model, ChangeBehind({2: 0.5, 4: 0.1}))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    scaled = install(loaded)
    assert scaled.factor == 0.1 and not isinstance(scaled.learning_rate, Scaled)
    # The optimizer's whole state is there: its step and its slots.
    for one, other in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))
    fit(model, ChangeBehind({9: 0.05}))
    fit(loaded, ChangeBehind({9: 0.05}))
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_rate_of_an_update_has_the_factor_it_was_made_with():
    model = compiled(keras.optimizers.SGD(Schedule(linear(start=1, to=7, steps=6))))  # n + 1 at update n
    optimizer, found = model.optimizer, []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found.append(applied.learning_rate(self.model.optimizer))

    install(model)
    assert applied.learning_rate(optimizer) == 1
    change(model, 0.5, 0)
    assert applied.learning_rate(optimizer) == 0.5  # of the update to come
    fit(model, Look(), ChangeBehind({2: 0.25, 4: 0.125}), Look())
    assert found == [0.5, 0.5, 1.0, 1.0, 0.75, 0.75, 1.0, 1.0, 0.625, 0.625, 0.75, 0.75]
    change(model, 0.0625, 6)
    change(model, 0.5, 6)
    assert applied.learning_rate(optimizer) == 0.75


@pytest.mark.parametrize("rate", RATES)
def test_it_is_looked_through(rate):
    made = RATES[rate][0]()
    model = compiled(keras.optimizers.SGD(made))
    expected = made if isinstance(made, keras.optimizers.schedules.LearningRateSchedule) else None
    assert unscaled(model.optimizer) is expected
    install(model)
    assert unscaled(model.optimizer) is expected


def test_it_prints_as_the_code_that_makes_it():
    scaled = Scaled(Schedule(0.5 * warmup(steps=3)), factor=0.1)
    assert repr(scaled) == "Scaled(Schedule(0.5 * warmup(steps=3)), factor=0.1)"
    assert repr(Scaled.from_config(scaled.get_config())) == repr(scaled)


def test_a_function_cannot_be_scaled():
    model = compiled(keras.optimizers.SGD(lambda: 0.1))
    with pytest.raises(ValueError, match="`learning_rate`: expected a number or a schedule"):
        install(model)


def test_a_model_without_an_optimizer_cannot():
    with pytest.raises(ValueError, match="`model`: expected a compiled model"):
        install(keras.Sequential([keras.layers.Dense(1)]))
