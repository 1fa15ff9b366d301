"""Optimizers whose momentum, betas, epsilon and weight decay move, against loops written out in numpy."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import kwarmup as kw
from kwarmup import (
    SGD,
    Adam,
    AdamW,
    Clock,
    Curve,
    Plan,
    Schedule,
    adam_sde,
    cosine,
    hold,
    linear,
    one_cycle,
    one_cycle_momentum,
    warmup,
)

on_any_backend = pytest.mark.backend
BACKEND = keras.backend.backend()
STEPS = 40
#: Gradients by update, for three weights; in eighths, which half precision holds exactly.
GRADIENTS = np.round(np.random.default_rng(0).normal(size=(STEPS, 3)) * 8) / 8
RATE = 0.1 * one_cycle(STEPS)
MOMENTUM = one_cycle_momentum(STEPS)
DECAY = 0.5 * (warmup(steps=10) >> cosine(steps=20))


def model_of(optimizer, dtype=None, **arguments):
    """Three weights from 1, whose gradient at each update is the batch itself: the loss is batch times weights."""
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    model.compile(optimizer, loss=lambda _, product: product, **arguments)
    return model


def fit(model, gradients, batch_size=1):
    gradients = np.asarray(gradients, "float32")
    targets = np.zeros((len(gradients), 1), "float32")
    model.fit(gradients, targets, batch_size=batch_size, shuffle=False, verbose=0)
    return weights(model)


def weights(model):
    return model.get_weights()[0][:, 0]


def path(optimizer, gradients):
    """The weights behind each update."""
    model = model_of(optimizer)
    found = []
    for gradient in np.asarray(gradients, "float32"):
        model.train_on_batch(gradient[None], np.zeros((1, 1), "float32"))
        found.append(weights(model))
    return np.array(found)


def at(value, step):
    return Curve(value)(step)


def sgd_loop(gradients, rate, momentum, nesterov=False, decay=0.0, free=False):
    """Gradient descent in Keras's form, or `free` of the learning rate, in torch's."""
    w, v, found = np.ones(3), np.zeros(3), []
    for step, g in enumerate(gradients):
        lr, m = at(rate, step), at(momentum, step)
        w = w - w * at(decay, step) * lr
        if free:
            v = m * v + g
            w = w - lr * (g + m * v if nesterov else v)
        else:
            v = m * v - lr * g
            w = w + (m * v - lr * g if nesterov else v)
        found.append(w)
    return np.array(found)


def adam_loop(gradients, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7, decay=0.0):
    w, m, v, found = np.ones(3), np.zeros(3), np.zeros(3), []
    for step, g in enumerate(gradients):
        lr, b1, b2 = at(rate, step), at(beta_1, step), at(beta_2, step)
        w = w - w * at(decay, step) * lr
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        alpha = lr * np.sqrt(1 - b2 ** (step + 1)) / (1 - b1 ** (step + 1))
        w = w - alpha * m / (np.sqrt(v) + at(epsilon, step))
        found.append(w)
    return np.array(found)


# Gradient descent


@on_any_backend
@pytest.mark.parametrize("free", [False, True], ids=["as Keras", "corrected"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("rate", "momentum"),
    [
        (RATE, MOMENTUM),
        (RATE, 0.9),
        (0.1, MOMENTUM),
        (warmup(steps=5) >> cosine(steps=20), linear(start=0, to=0.9, steps=10)),
        (0.1 * (hold(steps=10) >> hold(0, steps=10) >> hold(4)), 0.9),
    ],
    ids=["one cycle", "rate", "momentum", "both from 0", "0 in between"],
)
def test_sgd_equals_its_loop(rate, momentum, nesterov, free):
    optimizer = SGD(rate, momentum, nesterov, momentum_correction=free)
    expected = sgd_loop(GRADIENTS, rate, momentum, nesterov, free=free)
    np.testing.assert_allclose(path(optimizer, GRADIENTS), expected, rtol=1e-6, atol=3e-6)


def test_the_loop_notices_a_momentum_that_stands_still_or_lags():
    expected = sgd_loop(GRADIENTS, RATE, MOMENTUM)
    still = sgd_loop(GRADIENTS, RATE, 0.95)
    late = sgd_loop(GRADIENTS, RATE, hold(0.95, steps=1) >> MOMENTUM)
    assert min(abs(still - expected).max(), abs(late - expected).max()) > 1e-3


@on_any_backend
@pytest.mark.parametrize(("corrected", "updates"), [(True, 1), (False, 10)])
def test_a_jump_of_the_learning_rate_takes_effect_at_once_if_corrected(corrected, updates):
    # At a gradient of 1 the velocity settles at -rate / (1 - momentum).
    optimizer = SGD(0.01 * (hold(steps=150) >> hold(8)), momentum=0.9, momentum_correction=corrected)
    moved = np.diff(path(optimizer, np.ones((180, 3)))[:, 0])
    settled = -0.08 / (1 - 0.9)
    np.testing.assert_allclose(moved[148], -0.01 / (1 - 0.9), rtol=1e-3)
    # moved[149] is update 150, the first at the new rate. Within 40 % of the jump after so many updates:
    reached = moved[149:] < settled * 0.69
    assert reached.argmax() + 1 == updates
    np.testing.assert_allclose(
        moved[149:] if corrected else moved[-1], settled, rtol=1e-3 if corrected else 0.05
    )


@on_any_backend
def test_the_correction_is_that_of_goyal_et_al():
    rate = warmup(start=0.1, steps=5) >> hold(2, steps=5) >> cosine(steps=20, to=0.1)
    w, v, before, expected = np.ones(3), np.zeros(3), at(rate, 0), []
    for step, g in enumerate(GRADIENTS):
        lr = at(rate, step)
        v = 0.9 * (lr / before) * v - lr * g
        w, before = w + v, lr
        expected.append(w)
    found = path(SGD(rate, 0.9, momentum_correction=True), GRADIENTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert abs(path(SGD(rate, 0.9), GRADIENTS) - expected).max() > 0.5


@on_any_backend
def test_without_a_moving_learning_rate_there_is_nothing_to_correct():
    plain, corrected = (path(SGD(0.1, MOMENTUM, momentum_correction=c), GRADIENTS) for c in (False, True))
    np.testing.assert_allclose(plain, corrected, rtol=0, atol=3e-6)


@on_any_backend
def test_a_learning_rate_moved_by_a_callback_is_corrected_too():
    optimizer = SGD(0.1, 0.9, momentum_correction=True)
    model = model_of(optimizer)
    fit(model, GRADIENTS[:20])
    optimizer.learning_rate = 0.01
    rate = 0.1 * (hold(steps=20) >> hold(0.1))
    np.testing.assert_allclose(
        fit(model, GRADIENTS[20:]), sgd_loop(GRADIENTS, rate, 0.9, free=True)[-1], rtol=0, atol=3e-6
    )


# Adam


ADAMS = {
    "weight decay": (AdamW, dict(weight_decay=DECAY)),
    "weight decay in Adam": (Adam, dict(weight_decay=DECAY)),
    "beta_1": (Adam, dict(beta_1=MOMENTUM)),
    "beta_2": (Adam, dict(beta_2=linear(start=0.9, to=0.999, steps=20))),
    "epsilon": (Adam, dict(epsilon=linear(start=1, to=0.1, steps=20))),
    "all": (
        AdamW,
        dict(beta_1=MOMENTUM, beta_2=hold(0.9, steps=9) >> hold(0.99), epsilon=0.5, weight_decay=DECAY),
    ),
    "none": (AdamW, dict(weight_decay=0.1)),
}


@on_any_backend
@pytest.mark.parametrize(("make", "moving"), ADAMS.values(), ids=ADAMS)
def test_adam_equals_its_loop(make, moving):
    loop = dict(moving)
    expected = adam_loop(GRADIENTS, RATE, decay=loop.pop("weight_decay", 0.0), **loop)
    found = path(make(RATE, **moving), GRADIENTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if moving != {"weight_decay": 0.1}:
        assert abs(expected - adam_loop(GRADIENTS, RATE)).max() > 1e-3


@on_any_backend
def test_the_bias_is_corrected_by_todays_beta_as_the_docs_say():
    # All gradients 1: an exact correction would move the weight by the learning rate, however beta_2 moved.
    beta_2 = hold(0.999, steps=100) >> hold(0.996)
    moved = -np.diff(path(Adam(0.001, beta_2=beta_2, epsilon=0.0), np.ones((102, 3)))[:, 0]) / 0.001
    np.testing.assert_allclose(moved[50], 1, rtol=1e-2)
    np.testing.assert_allclose(moved[99], 1.8, atol=0.05)


# Every way to run them


def inside(optimizer):
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)


WAYS = {
    "plain": {},
    "eager": dict(run_eagerly=True),
    "half precision": dict(wrap=inside, dtype="mixed_float16"),
    "half precision with an overflow": dict(wrap=inside, overflow=True),
    "accumulated": dict(parts=4),
}
if BACKEND != "torch":  # It has none of these.
    WAYS["steps per execution"] = dict(steps_per_execution=7)
if BACKEND == "tensorflow":  # JAX always does.
    WAYS["compiled by XLA"] = dict(jit_compile=True)
    WAYS["accumulated, compiled by XLA"] = dict(parts=4, jit_compile=True)
    WAYS["half precision, compiled by XLA"] = dict(wrap=inside, dtype="mixed_float16", jit_compile=True)

MAKERS = {
    "SGD": (
        lambda **a: SGD(RATE, MOMENTUM, weight_decay=DECAY, **a),
        lambda g: sgd_loop(g, RATE, MOMENTUM, decay=DECAY),
    ),
    "SGD corrected": (
        lambda **a: SGD(RATE, MOMENTUM, momentum_correction=True, **a),
        lambda g: sgd_loop(g, RATE, MOMENTUM, free=True),
    ),
    "AdamW": (
        lambda **a: AdamW(RATE, beta_1=MOMENTUM, weight_decay=DECAY, **a),
        lambda g: adam_loop(g, RATE, beta_1=MOMENTUM, decay=DECAY),
    ),
}


@on_any_backend
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("make", "loop"), MAKERS.values(), ids=MAKERS)
def test_it_takes_effect_whichever_way_it_runs_and_goes_on_in_a_second_fit(make, loop, way):
    way = dict(way)
    parts, wrap, overflow = way.pop("parts", None), way.pop("wrap", lambda o: o), way.pop("overflow", False)
    model = model_of(wrap(make(**(dict(gradient_accumulation_steps=parts) if parts else {}))), **way)
    gradients = np.repeat(GRADIENTS, parts, axis=0) if parts else GRADIENTS
    if parts:
        # The mean of each update's micro-batches is its gradient again.
        gradients = gradients + np.tile([[0.5], [-0.5], [0.25], [-0.25]], (STEPS, 1))
    half = len(gradients) // 2
    first, second = gradients[:half], gradients[half:]
    if overflow:  # The step is skipped, and no schedule counts it.
        first = np.insert(first, 3, np.inf, axis=0)
    fit(model, first)
    tolerance = 1e-2 if way.get("dtype") else 1e-5
    np.testing.assert_allclose(fit(model, second), loop(GRADIENTS)[-1], rtol=0, atol=tolerance)


@on_any_backend
def test_each_schedule_is_evaluated_once_an_update_however_many_variables_there_are(monkeypatch):
    called = []
    evaluate = Schedule.__call__
    monkeypatch.setattr(Schedule, "__call__", lambda self, step: called.append(1) or evaluate(self, step))
    optimizer = AdamW(RATE, beta_1=MOMENTUM, beta_2=0.9 * MOMENTUM, weight_decay=DECAY)
    variables = [keras.Variable(np.ones(2, "float32")) for _ in range(5)]
    optimizer.build(variables)
    called.clear()
    optimizer.apply([keras.ops.ones(2)] * 5, variables)
    # On torch Keras's weight decay evaluates the learning rate once more, at its private name.
    assert len(called) == (5 if BACKEND == "torch" else 4)


MIRRORED = """
import keras, numpy as np, tensorflow as tf
from kwarmup import *
devices = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(devices[0], [tf.config.LogicalDeviceConfiguration()] * 2)
gradients = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")
found = []
for strategy in (tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), tf.distribute.get_strategy()):
    for make in (
        lambda: SGD(0.1 * one_cycle(40), one_cycle_momentum(40), weight_decay=0.1 * cosine(steps=40)),
        lambda: AdamW(0.1 * one_cycle(40), 0.1 * cosine(steps=40), one_cycle_momentum(40)),
    ):
        with strategy.scope():
            layer = keras.layers.Dense(1, kernel_initializer="ones")
            model = keras.Sequential([keras.Input((3,)), layer])
            model.compile(make(), loss=lambda _, product: product)
        for part in (gradients[:40], gradients[40:]):
            model.fit(part, np.zeros((40, 1)), batch_size=2, shuffle=False, verbose=0)
        found.append(np.concatenate([w.ravel() for w in model.get_weights()]))
        for name, schedule in model.optimizer.schedules.items():  # As it is outside of a step again.
            np.testing.assert_allclose(float(getattr(model.optimizer, name)), schedule.curve(40), rtol=1e-6)
np.testing.assert_allclose(found[:2], found[2:], atol=1e-6)
print("equal")
"""


@pytest.mark.slow
def test_two_replicas_do_as_one():
    # A process of its own: devices can only be split before TensorFlow is used.
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(
        [sys.executable, "-c", MIRRORED], capture_output=True, text=True, timeout=300, env=environment
    )
    assert run.stdout.strip() == "equal", run.stderr[-3000:]


# Beside Keras's own


def small_model():
    keras.utils.set_random_seed(3)
    words = keras.Input((4,), dtype="int32")
    hidden = keras.layers.Flatten()(keras.layers.Embedding(20, 3)(words))
    hidden = keras.layers.Dense(5, activation="tanh")(hidden)
    return keras.Model(words, keras.layers.Dense(1)(hidden))


def trained(optimizer, model=None):
    random = np.random.default_rng(0)
    x, y = random.integers(0, 20, (64, 4)), random.normal(size=(64, 1))
    if model is None:
        model = small_model()
        model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


CONSTANT = {
    "SGD": (SGD, keras.optimizers.SGD, dict(learning_rate=0.1)),
    "momentum": (SGD, keras.optimizers.SGD, dict(learning_rate=0.1, momentum=0.9)),
    "nesterov": (SGD, keras.optimizers.SGD, dict(learning_rate=Schedule(RATE), momentum=0.9, nesterov=True)),
    "decay": (
        SGD,
        keras.optimizers.SGD,
        dict(learning_rate=0.1, momentum=0.5, weight_decay=0.1, clipnorm=1.0),
    ),
    "Adam": (Adam, keras.optimizers.Adam, dict(amsgrad=True, epsilon=1e-3)),
    "Adam decay": (Adam, keras.optimizers.Adam, dict(weight_decay=0.1, use_ema=True)),
    "AdamW": (AdamW, keras.optimizers.AdamW, dict(learning_rate=Schedule(RATE), beta_1=0.8)),
}


@on_any_backend
@pytest.mark.parametrize(("ours", "theirs", "arguments"), CONSTANT.values(), ids=CONSTANT)
def test_with_constants_the_weights_are_keras_own_bit_by_bit(ours, theirs, arguments):
    found, expected = (trained(make(**arguments)).get_weights() for make in (ours, theirs))
    for mine, other in zip(found, expected, strict=True):
        if BACKEND == "torch":  # There Keras's own run torch's fused kernels, which round elsewhere.
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(mine, other)


@on_any_backend
@pytest.mark.parametrize(
    ("ours", "theirs", "positions"),
    [
        (SGD, keras.optimizers.SGD, (0.1, 0.9, True, 0.2)),
        (Adam, keras.optimizers.Adam, (0.1, 0.8, 0.9, 0.2, True, 0.3)),
        (AdamW, keras.optimizers.AdamW, (0.1, 0.3, 0.8, 0.9, 0.2, True)),
    ],
)
def test_positions_and_defaults_are_keras_own(ours, theirs, positions):
    for arguments in ((), positions):
        mine, other = ours(*arguments, name="same").get_config(), theirs(*arguments, name="same").get_config()
        assert {key: mine[key] for key in other} == other
        assert set(mine) - set(other) <= {"momentum_correction"}


@on_any_backend
def test_a_constant_profile_gives_what_the_number_gives():
    found = path(SGD(0.1, hold(0.9), weight_decay=Schedule(0.01)), GRADIENTS)
    np.testing.assert_allclose(found, path(SGD(0.1, 0.9, weight_decay=0.01), GRADIENTS), rtol=0, atol=1e-6)


# Saved and loaded


SAVED = {
    "SGD": lambda: SGD(RATE, MOMENTUM, True, DECAY, momentum_correction=True),
    "Adam": lambda: Adam(RATE, beta_1=MOMENTUM, epsilon=1e-3, amsgrad=True),
    "AdamW": lambda: AdamW(Schedule(RATE), DECAY, MOMENTUM, linear(start=0.9, to=0.99, steps=30)),
}


@on_any_backend
@pytest.mark.parametrize("make", SAVED.values(), ids=SAVED)
def test_training_goes_on_after_loading_as_if_nothing_had_happened(tmp_path, make):
    model = trained(make())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.schedules == model.optimizer.schedules != {}
    for one in (model, loaded):
        trained(None, one)
    slots = zip(loaded.optimizer.variables, model.optimizer.variables, strict=True)
    for mine, other in [*zip(loaded.weights, model.weights, strict=True), *slots]:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(other))


@on_any_backend
@pytest.mark.parametrize("make", SAVED.values(), ids=SAVED)
def test_a_config_makes_the_same_optimizer(make):
    optimizer = make()
    config = optimizer.get_config()
    again = type(optimizer).from_config(config)
    assert again.get_config() == config and again.schedules == optimizer.schedules
    read = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(read) is type(optimizer) and read.get_config() == config


# Clocks and counters


@on_any_backend
def test_a_profile_takes_the_clock_of_the_others():
    clock = Clock(examples=100, epochs=4, batch_size=10)
    optimizer = SGD(
        Schedule(0.1 * cosine(), clock), linear(start=0.5, to=0.9), weight_decay=0.1 * hold(fraction=1)
    )
    assert {schedule.clock for schedule in optimizer.schedules.values()} == {clock}
    assert SGD(0.1 * warmup(epochs=1), Schedule(0.5 * hold(), clock)).schedules["momentum"].clock == clock


@on_any_backend
def test_a_profile_counts_updates_as_the_optimizer_does():
    optimizer = SGD(RATE, MOMENTUM, gradient_accumulation_steps=4)
    assert optimizer.schedules["momentum"].curve.parts == 4
    variable = keras.Variable(np.ones(1, "float32"))
    optimizer.build([variable])
    for step in (0, 1, 5):
        while int(keras.ops.convert_to_numpy(optimizer.iterations)) < step:
            optimizer.apply([keras.ops.ones(1)], [variable])
        np.testing.assert_allclose(
            float(keras.ops.convert_to_numpy(optimizer.momentum)), at(MOMENTUM, step), rtol=1e-6
        )


CLOCK = Clock(examples=100, epochs=4, batch_size=10)
FAULTS = [
    (
        lambda: SGD(0.1, linear(start=0.5, to=9, steps=5)),
        ValueError,
        r"`momentum`: expected values from 0 and below 1",
    ),
    (lambda: SGD(0.1, linear(start=0.5, to=9, steps=5)), ValueError, r"start=0.5\), which is from 0.5 to"),
    (lambda: SGD(0.1, 1.5), ValueError, r"Received: 1.5, which is 1.5"),
    (lambda: SGD(0.1, "0.9"), TypeError, r"`momentum`: expected a number, a profile or a Schedule"),
    (lambda: SGD(0.1, None), TypeError, r"Write: kw.SGD\(..., momentum=linear\(start=0.85"),
    (lambda: SGD("0.1"), TypeError, r"`learning_rate`: expected a number, a profile or a Schedule"),
    (lambda: SGD(0.1, lambda: 0.9), TypeError, r"`momentum`: expected a number, a profile or a Schedule"),
    (
        lambda: SGD(0.1, weight_decay=-0.1 * hold(steps=5)),
        ValueError,
        r"`weight_decay`: expected values of 0 or more",
    ),
    (lambda: Adam(0.1, beta_1=1.0), ValueError, r"`beta_1`: expected values from 0 and below 1"),
    (lambda: Adam(0.1, beta_2=hold(0.9, steps=5) >> hold(1)), ValueError, r"`beta_2`: .*\n.*from 0.9 to 1"),
    (lambda: Adam(0.1, epsilon=-1e-7), ValueError, r"`epsilon`: expected values of 0 or more"),
    (lambda: SGD(0.1, linear(start=0.5, to=0.9, epochs=2)), ValueError, r"`clock`: expected a clock, since"),
    (
        lambda: SGD(
            Schedule(0.1 * cosine(), CLOCK), Schedule(hold(0.9), Clock(examples=7, epochs=1, batch_size=1))
        ),
        ValueError,
        r"`momentum`: expected one clock for the whole run, which is Clock\(examples=100",
    ),
    (
        lambda: SGD(0.1, Schedule(MOMENTUM), gradient_accumulation_steps=4),
        ValueError,
        r"4 in SGD, 1 in momentum=Schedule.*\nWrite: kw.SGD\(..., momentum=.*counts as the optimizer does",
    ),
    (
        lambda: SGD(Schedule(0.1 * cosine(), CLOCK), 0.9, gradient_accumulation_steps=4),
        ValueError,
        r"4 in SGD, 1 in learning_rate=Schedule.*\nWrite: kw.SGD\(..., gradient_accumulation_steps=None\)",
    ),
]


@on_any_backend
@pytest.mark.parametrize(("make", "error", "words"), FAULTS)
def test_what_cannot_work_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@on_any_backend
@pytest.mark.parametrize("value", [0.5, MOMENTUM])
def test_a_change_that_a_compiled_step_would_not_see_is_refused(value):
    optimizer = SGD(0.1, 0.9)
    with pytest.raises(
        AttributeError, match=r"`momentum`: expected no change once .*\n.*\nWrite: model.compile"
    ):
        optimizer.momentum = value
    assert optimizer.momentum == 0.9


@on_any_backend
def test_keras_own_schedules_and_functions_still_are_learning_rates():
    for rate in (keras.optimizers.schedules.CosineDecay(0.1, STEPS), lambda: 0.1, 1, np.float32(0.5)):
        ours, theirs = SGD(rate, 0.9), keras.optimizers.SGD(float(rate) if np.isscalar(rate) else rate, 0.9)
        np.testing.assert_allclose(path(ours, GRADIENTS), path(theirs, GRADIENTS), rtol=0, atol=1e-6)


# The SDE rule


def growing(batch_size, **arguments):
    defaults = dict(learning_rate=1e-3, examples=1_000, epochs=4, scaling=0.5)
    return Plan(batch_size=batch_size, **{**defaults, **arguments})


GROWING = {
    "constant": growing(50, scaling=0),
    "jumps": growing(32 * (hold(epochs=1) >> hold(2, epochs=1) >> hold(4))),
    "down": growing(64 * (hold(epochs=1) >> hold(0.25))),
    "ramp": growing(20 * linear(to=8, epochs=3)),
    "within a pass": growing(20 * (hold(examples=333) >> hold(3)), drop_remainder=True),
    "in steps": growing(20 * (hold(steps=7) >> hold(2, steps=30) >> hold(4))),
    "accumulated": growing(20 * (hold(examples=333) >> hold(3)), gradient_accumulation_steps=4),
    "ramp, accumulated": growing(12 * linear(to=8, epochs=3), gradient_accumulation_steps=3, multiple_of=6),
}


@on_any_backend
@pytest.mark.parametrize("plan", GROWING.values(), ids=GROWING)
def test_betas_and_epsilon_are_the_rule_at_every_update(plan):
    found = adam_sde(plan, beta_1=0.9, beta_2=0.99, epsilon=1e-8)
    assert all(schedule.clock == plan.clock for schedule in found.values())
    steps = np.arange(plan.clock.steps)
    times = plan.clock.batch_size_at(steps) / plan.clock.batch_size_at(0)
    assert len(set(times.tolist())) > 1 or plan.scaling == 0
    np.testing.assert_allclose(found["beta_1"].curve(steps), 1 - times * (1 - 0.9), rtol=1e-12)
    np.testing.assert_allclose(found["beta_2"].curve(steps), 1 - times * (1 - 0.99), rtol=1e-12)
    np.testing.assert_allclose(found["epsilon"].curve(steps), 1e-8 / np.sqrt(times), rtol=1e-12)
    np.testing.assert_allclose(plan.curve(steps), 1e-3 * np.sqrt(times), rtol=1e-12)


@on_any_backend
def test_there_and_back_is_where_it_began():
    plan = growing(32 * (hold(epochs=1) >> hold(4, epochs=1) >> hold(1)))
    found = {name: schedule.profile for name, schedule in adam_sde(plan, epsilon=1e-8).items()}
    assert [phase.start for phase in found["beta_1"].phases] == [0.9, 0.6, 0.9]
    assert [phase.start for phase in found["beta_2"].phases] == [0.999, 0.996, 0.999]
    assert [phase.start for phase in found["epsilon"].phases] == [1e-8, 5e-9, 1e-8]


@on_any_backend
def test_a_plan_trains_by_the_rule():
    plan = growing(8 * (hold(epochs=2) >> hold(4)), examples=96, learning_rate=0.01)
    examples = np.random.default_rng(1).normal(size=(96, 3)).astype("float32")
    model = model_of(AdamW(plan.learning_rate, 0.1, **adam_sde(plan, epsilon=1e-3)))
    plan.fit(model, examples, np.zeros((96, 1), "float32"), seed=None, verbose=0)
    seen = plan.clock.examples_at(np.arange(plan.clock.steps + 1))
    batches = [examples[np.arange(a, b) % 96].mean(axis=0) for a, b in zip(seen[:-1], seen[1:], strict=True)]
    jump = plan.clock.step_at(epochs=2)
    rate, beta_1, beta_2, epsilon = (
        hold(first, steps=jump) >> hold(then)
        for first, then in ((0.01, 0.02), (0.9, 0.6), (0.999, 0.996), (1e-3, 5e-4))
    )
    expected = adam_loop(batches, rate, beta_1, beta_2, epsilon, 0.1)[-1]
    np.testing.assert_allclose(weights(model), expected, rtol=0, atol=1e-5)


TOO_LARGE = growing(64 * (hold(epochs=1) >> hold(16)), examples=10_000)
REFUSED = [
    (lambda: adam_sde(TOO_LARGE), r"`beta_1`: expected a largest batch below 640, or a beta_1 nearer to 1"),
    (lambda: adam_sde(TOO_LARGE), r"Received: 0.9 with batches of 64 to 1024, which would make it -0.6"),
    (lambda: adam_sde(TOO_LARGE), r"max_batch_size=639\), or kw.adam_sde\(plan, beta_1=0.9688\)"),
    (lambda: adam_sde(growing(64 * (hold(epochs=1) >> hold(10)))), r"which would make it 0"),
    (lambda: adam_sde(TOO_LARGE, beta_1=0.99, beta_2=0.9), r"`beta_2`: expected a largest batch below 640"),
    (
        lambda: adam_sde(TOO_LARGE.replace(scaling=1)),
        r"`scaling`: expected 0.5 in a plan for Adam\.\nReceived: 1",
    ),
    (lambda: adam_sde(GROWING["jumps"], beta_1=1), r"`beta_1`: expected a number between 0 and 1"),
    (lambda: adam_sde(GROWING["jumps"], beta_2=0), r"`beta_2`: expected a number between 0 and 1"),
    (lambda: adam_sde(GROWING["jumps"], epsilon=0), r"`epsilon`: expected a number above 0"),
]


@on_any_backend
@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_what_the_rule_cannot_do_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@on_any_backend
def test_what_the_refusal_tells_to_write_works():
    beta_1 = adam_sde(TOO_LARGE, beta_1=0.9688)["beta_1"].curve
    assert 0 < beta_1(TOO_LARGE.clock.steps) < 1
    assert 0 < adam_sde(TOO_LARGE.replace(max_batch_size=639))["beta_1"].curve(10_000) < 0.01


def test_public_names():
    assert {kw.SGD, kw.Adam, kw.AdamW} == {SGD, Adam, AdamW} and kw.adam_sde is adam_sde
