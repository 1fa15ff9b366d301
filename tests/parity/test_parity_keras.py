"""Against Keras's own schedules, over whole runs and past their ends."""

import keras
import pytest
from compare import check
from keras import ops

import kwarmup as kw

built_in = keras.optimizers.schedules

CASES = {
    "cosine": (
        built_in.CosineDecay(0.1, 80),
        0.1 * kw.cosine(steps=80),
    ),
    "cosine_alpha": (
        built_in.CosineDecay(0.1, 80, alpha=0.05),
        0.1 * kw.cosine(steps=80, to=0.05),
    ),
    "cosine_warmup": (
        # decay_steps counts after the warmup
        built_in.CosineDecay(0.0, 60, warmup_target=0.1, warmup_steps=20),
        0.1 * (kw.warmup(steps=20) >> kw.cosine(steps=60)),
    ),
    "cosine_warmup_start_alpha": (
        built_in.CosineDecay(0.02, 50, alpha=0.1, warmup_target=0.1, warmup_steps=13),
        0.1 * (kw.warmup(steps=13, start=0.2) >> kw.cosine(steps=50, to=0.1)),
    ),
    "restarts": (
        built_in.CosineDecayRestarts(0.1, 20, t_mul=1.0),
        0.1 * kw.cosine_restarts(steps=20, cycles=6),
    ),
    "restarts_longer_lower": (
        built_in.CosineDecayRestarts(0.1, 10, t_mul=2.0, m_mul=0.8, alpha=0.1),
        0.1 * kw.cosine_restarts(steps=10, cycles=4, t_mul=2, m_mul=0.8, to=0.1),
    ),
    "restarts_between_updates": (
        built_in.CosineDecayRestarts(0.1, 11, t_mul=1.5, m_mul=0.5),
        0.1 * kw.cosine_restarts(steps=11, cycles=5, t_mul=1.5, m_mul=0.5),
    ),
    "polynomial": (
        built_in.PolynomialDecay(0.1, 70, end_learning_rate=0.01, power=2.0),
        0.1 * kw.polynomial(power=2, steps=70, to=0.1),
    ),
    "linear": (
        built_in.PolynomialDecay(0.1, 70, end_learning_rate=0.0),
        0.1 * kw.linear(steps=70),
    ),
    "exponential": (
        built_in.ExponentialDecay(0.1, 30, 0.5),
        0.1 * kw.exponential(to=0.5**4, steps=120),
    ),
    "exponential_staircase": (
        built_in.ExponentialDecay(0.1, 30, 0.5, staircase=True),
        0.1 * kw.step_decay(steps=30, drops=4, gamma=0.5),
    ),
    "piecewise_constant": (
        # Keras keeps the old value at the boundary itself
        built_in.PiecewiseConstantDecay([29, 79], [0.1, 0.01, 0.001]),
        0.1 * kw.multistep(steps=[30, 80]),
    ),
    "inverse_time": (
        built_in.InverseTimeDecay(0.1, 10, 0.5),
        0.1 * kw.curve(lambda t: 1 / (1 + 0.5 * 12 * t), steps=120),
    ),
    "inverse_time_staircase": (
        built_in.InverseTimeDecay(0.1, 40, 0.5, staircase=True),
        0.1
        * (kw.hold(steps=40) >> kw.hold(1 / 1.5, steps=40) >> kw.hold(1 / 2, steps=40) >> kw.hold(1 / 2.5)),
    ),
}
STEPS = 120


@pytest.fixture(scope="module")
def theirs():
    # The warmup form of CosineDecay takes one step at a time.
    return {
        name: [float(ops.convert_to_numpy(schedule(step))) for step in range(STEPS)]
        for name, (schedule, _) in CASES.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_keras(name, theirs):
    check(CASES[name][1], theirs[name])


@pytest.mark.parametrize("name", CASES)
def test_one_update_off_would_be_seen(name, theirs):
    with pytest.raises(AssertionError, match="is off by"):
        check(CASES[name][1], [*theirs[name][1:], theirs[name][-1]])


def test_at_the_boundary_keras_keeps_the_old_value_and_we_have_the_new_one():
    old = built_in.PiecewiseConstantDecay([30], [1.0, 0.1])
    assert [float(old(step)) for step in (29, 30, 31)] == pytest.approx([1, 1, 0.1])
    assert kw.Curve(kw.multistep(steps=[30]))([29, 30, 31]).tolist() == [1, 0.1, 0.1]


def test_at_a_late_restart_keras_drops_to_zero_and_we_are_at_the_peak():
    step = 4 * (2**13 - 1)
    assert float(built_in.CosineDecayRestarts(1.0, 4)(step)) == 0.0
    profile = kw.cosine_restarts(steps=4, cycles=14, t_mul=2)
    assert kw.Curve(profile)(step) == 1
    assert float(kw.Schedule(profile)(step)) == 1
