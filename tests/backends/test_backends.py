"""What must hold on every Keras backend; KERAS_BACKEND chooses which one a run of these tests is about.

KERAS_BACKEND=jax python -m pytest -m backend
"""

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers import schedules

from kwarmup import (
    Clock,
    Curve,
    Profile,
    Schedule,
    cosine,
    curve,
    decay,
    exponential,
    hold,
    linear,
    polynomial,
    shapes,
    warmup,
)

pytestmark = pytest.mark.backend

#: Where single precision is hardest: steep ends, long runs, short phases late, partial batches, many sizes.
HARD = {
    "linear": (linear(steps=2**31 - 2), None),
    "cosine": (warmup(steps=10**9) >> cosine(steps=10**9), None),
    "polynomial, steep at its end": (polynomial(power=0.2, steps=2**31 - 2), None),
    "polynomial, steep at its begin": (polynomial(power=30, steps=2**31 - 2), None),
    "exponential up": (exponential(start=1e-8, to=1, steps=2**31 - 2), None),
    "exponential down": (exponential(to=1e-8, steps=2**31 - 2), None),
    "past what 32 bits count": (exponential(start=1e-4, to=1, steps=2**34), None),
    "a short phase late": (
        hold(steps=2**31 - 2_000) >> linear(steps=100) >> exponential(start=0.1, to=1, steps=500),
        None,
    ),
    "inverse square root": (curve(shapes.inverse_sqrt(4000)), None),
    "epochs with partial batches": (
        warmup(epochs=5) >> polynomial(power=0.5, to=0.1),
        Clock(examples=50_000, epochs=90, batch_size=256),
    ),
    "nearly every batch partial": (
        warmup(epochs=0.3, shape="exponential", start=1e-3) >> polynomial(power=0.5),
        Clock(examples=257, epochs=8_000_000, batch_size=256),
    ),
    "a phase within one update": (
        hold(epochs=40)
        >> exponential(epochs=0.007, to=1e-3)
        >> polynomial(epochs=0.01, power=0.5, start=1)
        >> linear(),
        Clock(examples=4097, epochs=50, batch_size=4096),
    ),
    "a steep phase within one update": (
        hold(0.1, epochs=89.992) >> polynomial(epochs=0.009, power=0.5, to=0.1, start=0.5) >> linear(),
        Clock(examples=33, epochs=100, batch_size=4096),
    ),
    "one pass over a thousand million": (
        warmup(fraction=0.01) >> polynomial(power=0.2),
        Clock(examples=10**9, epochs=1, batch_size=7),
    ),
    "ten to the twelve examples": (
        warmup(examples=10**9) >> polynomial(power=0.5),
        Clock(examples=10**12 // 7, epochs=7, batch_size=4096),
    ),
    "a batch that grows": (
        warmup(epochs=2) >> cosine(),
        Clock(examples=50_000, epochs=90, batch_size=64 * linear(to=16), multiple_of=8),
    ),
    "accumulation": (
        warmup(epochs=2) >> polynomial(power=0.5),
        Clock(examples=50_001, epochs=90, batch_size=256, gradient_accumulation_steps=4),
    ),
}


@pytest.mark.parametrize("profile, clock", HARD.values(), ids=HARD)
def test_right_to_a_millionth_of_the_peak_up_to_the_last_step_of_32_bits(profile, clock):
    schedule = Schedule(profile, clock, scaling=1)
    # Around every place where a formula changes, at every power of two, near the end, and anywhere.
    begins = np.array([piece.tick for piece in schedule.curve.pieces])
    ticks = [begins + around for around in range(-3, 60)] + [2 ** np.arange(31) + 1]
    ticks.append(np.random.default_rng(0).integers(0, 2**31 - 1, 5_000))
    if clock is not None:
        ticks.append(clock.steps * clock.gradient_accumulation_steps - np.arange(300))
    ticks = np.concatenate(ticks).clip(0, 2**31 - 2)
    exact = schedule.curve.at_tick(ticks, np, "int64", "float64")
    found = ops.convert_to_numpy(schedule(ticks.astype("int32")))
    assert found.dtype == "float32"
    assert np.abs(found - exact).max() <= 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize("profile, clock", HARD.values(), ids=HARD)
def test_a_step_at_a_time_is_as_right_as_many(profile, clock):
    schedule = Schedule(profile, clock, scaling=1)
    # A single step takes another way through the table; `ops.map` hands them over one by one, as training does.
    begins = np.array([piece.tick for piece in schedule.curve.pieces])[:40]
    ticks = np.unique([begins - 1, begins, begins + 1]).clip(0, 2**31 - 2).astype("int32")
    ticks = np.append(ticks, np.random.default_rng(0).integers(0, 2**31 - 1, 20, "int32"))
    exact = schedule.curve.at_tick(ticks.astype("int64"), np, "int64", "float64")
    found = ops.convert_to_numpy(ops.map(schedule, ops.convert_to_tensor(ticks)))
    peak = schedule.curve(np.append(begins, begins - 1).clip(0)).max()
    assert np.abs(found - exact).max() <= 1e-6 * peak


def test_both_ways_through_the_table_are_taken():
    few = [Schedule(profile, clock).curve._few for profile, clock in HARD.values()]
    assert True in few and False in few


@pytest.mark.parametrize("start, to", [(1e-7, 10), (10, 1e-7)])
def test_an_exponential_keeps_its_digits_far_below_the_peak(start, to):
    # A sweep of learning rates looks at every decade, not at the peak.
    schedule = Schedule(exponential(start=start, to=to, steps=1_000))
    steps = np.arange(1_000)
    np.testing.assert_allclose(
        ops.convert_to_numpy(schedule(steps.astype("int32"))), schedule.curve(steps), rtol=1e-5
    )
    assert schedule.curve(500) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    "shape", ["linear", "cosine", "sqrt", shapes.polynomial(2), shapes.polynomial(0.3)], ids=str
)
def test_never_negative_where_the_profile_is_not(shape):
    schedule = Schedule(0.1 * (warmup(steps=333, shape=shape) >> decay(steps=777, shape=shape)))
    found = ops.convert_to_numpy(schedule(np.arange(1_200, dtype="int32")))
    assert found.min() == 0
    assert found.max() == np.float32(0.1)


@pytest.mark.parametrize(
    "step",
    [7, 7.0, np.int32(7), np.int64(7), np.float32(7), np.array(7)],
    ids=lambda step: type(step).__name__,
)
def test_any_kind_of_step(step):
    found = Schedule(warmup(steps=10))(step)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert float(found) == pytest.approx(0.7)


def test_the_counter_of_the_optimizer_is_a_step():
    variable = keras.Variable(0.0)
    optimizer = keras.optimizers.SGD(Schedule(warmup(steps=10)))
    optimizer.build([variable])
    found = []
    for _ in range(12):
        found.append(float(optimizer.learning_rate))
        optimizer.apply([ops.convert_to_tensor(1.0)], [variable])
    assert found == pytest.approx([*np.arange(10) / 10, 1, 1])


def test_steps_are_updates_although_keras_hands_over_micro_batches():
    w = keras.Variable(0.0)
    rate = Schedule(
        linear(steps=1_000, start=1, to=1_001), gradient_accumulation_steps=4
    )  # n + 1 at update n
    optimizer = keras.optimizers.SGD(rate, gradient_accumulation_steps=4)
    optimizer.build([w])
    for _ in range(12):
        optimizer.apply([ops.convert_to_tensor(1.0)], [w])
    assert ops.convert_to_numpy(w) == -(1 + 2 + 3)


@pytest.mark.parametrize(
    "built_in",
    [
        schedules.CosineDecay(0.1, 30),
        schedules.CosineDecay(0.1, 30, warmup_target=0.2, warmup_steps=10),
        schedules.PiecewiseConstantDecay([5, 15], [0.1, 0.05, 0.01]),
    ],
    ids=["CosineDecay", "CosineDecay, itself warming up", "PiecewiseConstantDecay"],
)
def test_warmup_in_front_of_a_keras_schedule(built_in):
    profile = warmup(steps=10) >> built_in
    schedule = Schedule(profile)
    steps = [0, 5, 9, 10, 11, 17, 30, 39]
    expected = [0.01 * step if step < 10 else float(built_in(step - 10)) for step in steps]
    assert [float(schedule(step)) for step in steps] == pytest.approx(expected, rel=1e-6)
    assert ops.convert_to_numpy(schedule(np.array(steps))) == pytest.approx(expected, rel=1e-6)
    assert Profile.from_json(profile.to_json()) == profile


# Training

EXAMPLES = 100
X = np.random.default_rng(0).normal(size=(EXAMPLES, 6)).astype("float32")
Y = np.tanh(X[:, :2]) + 0.3


def network(optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    return model


def hand_written(optimizer, clock, rates):
    """Train batch by batch, with a plain number set as the learning rate before each."""
    model = network(optimizer)
    tick, parts = 0, clock.gradient_accumulation_steps
    for epoch in range(clock.epochs):
        begin = 0
        for size in clock.micro_batches(epoch):
            model.optimizer.learning_rate = rates(tick // parts)
            model.train_on_batch(X[begin : begin + size], Y[begin : begin + size])
            begin, tick = begin + size, tick + 1
    return model.get_weights()


@pytest.mark.parametrize("parts", [None, 4], ids=["plain", "accumulated"])
@pytest.mark.parametrize("kind", [keras.optimizers.SGD, keras.optimizers.AdamW])
def test_fit_trains_as_a_hand_written_loop_does(kind, parts):
    # The last batch of a pass is partial, and under accumulation an update goes on into the next pass.
    clock = Clock(examples=EXAMPLES, epochs=3, batch_size=32, gradient_accumulation_steps=parts or 1)
    profile = 0.1 * (warmup(epochs=0.9) >> hold(fraction=0.2) >> cosine(to=0.1))
    model = network(kind(Schedule(profile, clock), gradient_accumulation_steps=parts))
    size = clock.batch_size // clock.gradient_accumulation_steps
    model.fit(X, Y, epochs=clock.epochs, batch_size=size, shuffle=False, verbose=0)
    expected = hand_written(kind(1.0, gradient_accumulation_steps=parts), clock, Curve(profile, clock))
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    # And the learning rate mattered: with a constant one the weights are others.
    constant = hand_written(kind(1.0, gradient_accumulation_steps=parts), clock, lambda step: 0.1)
    assert max(np.abs(found - wanted).max() for found, wanted in zip(constant, expected, strict=True)) > 1e-2


def test_accumulated_training_is_large_batch_training():
    profile = 0.1 * (warmup(epochs=1) >> cosine())
    weights = []
    for parts in (1, 4):
        clock = Clock(examples=96, epochs=3, batch_size=32, gradient_accumulation_steps=parts)
        optimizer = keras.optimizers.SGD(
            Schedule(profile, clock), momentum=0.9, gradient_accumulation_steps=parts if parts > 1 else None
        )
        model = network(optimizer)
        model.fit(X[:96], Y[:96], epochs=3, batch_size=32 // parts, shuffle=False, verbose=0)
        assert int(ops.convert_to_numpy(model.optimizer.iterations)) == clock.steps == 9
        weights.append(model.get_weights())
    for large, accumulated in zip(*weights, strict=True):
        np.testing.assert_allclose(accumulated, large, rtol=0, atol=1e-5)


def test_training_goes_on_in_the_profile_after_a_model_is_loaded(tmp_path):
    clock = Clock(examples=EXAMPLES, epochs=4, batch_size=32)
    schedule = Schedule(0.1 * (warmup(epochs=1) >> cosine()), clock)
    model = network(keras.optimizers.SGD(schedule, momentum=0.9))
    model.fit(X, Y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert float(loaded.optimizer.learning_rate) == pytest.approx(schedule.curve(8), rel=1e-6)
    for each in (model, loaded):
        each.fit(X, Y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    for found, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
