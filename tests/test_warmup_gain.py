"""What warmup buys: descents known in closed form or step by step, what is paired, and how a table is read."""

import json
import random

import keras
import numpy as np
import pytest
from keras import ops

import kwarmup as kw
from kwarmup import WarmupGain, hold, warmup, warmup_gain
from kwarmup.measure import warmup_gain as module

RANDOM = np.random.default_rng(0)
X = np.ones((32, 1), "float32")
Y = np.array([[0.0], [2.0]] * 16, "float32")  # a loss of 1 remains
INFINITE = float("inf")


def quadratic(optimizer=None):
    """(w - 1)^2 + 1: a curvature of 2, and so a limit of 1."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse")
    return model


def product():
    """(a b - 1)^2 + 1 from a = 5, b = 0: sharp at the beginning, flat where a and b are alike."""
    weights = [keras.initializers.Constant(value) for value in (5.0, 0.0)]
    layers = [keras.layers.Dense(1, use_bias=False, kernel_initializer=weight) for weight in weights]
    model = keras.Sequential([keras.Input((1,)), *layers])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def descent(peaks, profile, steps):
    """Return the mean loss of the last tenth of the updates on the product, in double precision."""
    finals = []
    for peak in peaks:
        a, b, found = np.float64(5), np.float64(0), []
        with np.errstate(all="ignore"):
            for rate in peak * kw.Curve(profile, kw.Clock(examples=steps, epochs=1, batch_size=1))(
                np.arange(steps)
            ):
                off = a * b - 1
                found.append(off**2 + 1)
                a, b = a - rate * 2 * off * b, b - rate * 2 * off * a
            final = np.mean(found[-steps // 10 :])
        finals.append(final if np.isfinite(found).all() and final < 1e30 else INFINITE)
    return finals


@pytest.mark.backend
def test_on_a_quadratic_warmup_buys_nothing_and_the_limit_is_found():
    gain = warmup_gain(quadratic, X, Y, then=hold(), steps=40, repeats=2)
    assert gain.peak_with == gain.peak_without == 0.8  # the last below 2 / curvature = 1
    assert gain.gain == 1 and gain.interval == (1, 1) and not gain.pays and gain.bounded
    assert str(gain) == (
        "Warmup buys nothing here: the largest good peak is 0.8 against 0.8 without. "
        "Best loss 1 with it and 1 without."
    )
    peak = gain.peaks.index(1.6)
    rates = 1.6 * np.minimum(1, np.arange(40) / 10)
    for arm, used in ((gain.with_warmup, rates), (gain.without_warmup, np.full(40, 1.6))):
        squares = np.cumprod(np.append(1, 1 - 2 * used))[:40] ** 2 + 1
        expected = squares[-4:].mean()
        np.testing.assert_allclose(arm[peak], expected, rtol=1e-3)


def test_where_the_beginning_is_sharp_warmup_allows_a_larger_peak():
    slow = warmup(fraction=0.75)
    gain = warmup_gain(product, X, Y, warmup=slow, then=hold(), steps=200, repeats=1)
    known = [descent(gain.peaks, one, 200) for one in (slow >> hold(), hold())]
    for arm, finals in zip((gain.with_warmup, gain.without_warmup), known, strict=True):
        for (found,), final, peak in zip(arm, finals, gain.peaks, strict=True):
            # Chaos beyond the edge of stability makes of single precision another descent.
            if final < 1.5:
                assert found == pytest.approx(final, rel=0.05), peak
            else:
                assert found > 1.05, peak
    largest = [
        max(p for p, final in zip(gain.peaks, finals, strict=True) if final <= 1.05) for finals in known
    ]
    assert (gain.peak_with, gain.peak_without) == tuple(largest)
    assert largest == [0.16, 0.04]  # 2 / curvature at the beginning is 2 / 50
    assert gain.gain == 4 and gain.pays
    assert "With warmup the peak can be" in str(gain)
    assert gain.profiles == ("warmup(fraction=0.75) >> hold()", "hold()")


def deep():
    layers = [keras.layers.Dense(16, "relu", kernel_initializer="he_normal") for _ in range(2)]
    layers.insert(1, keras.layers.Dropout(0.2))
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def spy(monkeypatch):
    """Return a list that will hold the arm's model, the peak, the first weights and the losses of each training."""
    seen = []

    class Arm(module._Arm):
        def run(self, peak, weights, batches):
            final = super().run(peak, weights, batches)
            seen.append((self, peak, [weight.copy() for weight in weights], final))
            return final

    monkeypatch.setattr(module, "_Arm", Arm)
    return seen


@pytest.mark.backend
def test_both_arms_are_the_same_training_but_for_the_learning_rate(monkeypatch):
    # A warmup of no length is none: whatever else differed between the arms would show.
    x = RANDOM.normal(size=(64, 4)).astype("float32")
    y = (x @ np.ones((4, 1)) + RANDOM.normal(size=(64, 1))).astype("float32")
    monkeypatch.setattr(module, "_powers", lambda table: iter((0, 1, 0)))
    seen = spy(monkeypatch)
    gain = warmup_gain(deep, x, y, warmup=warmup(steps=0), steps=20, batch_size=16, repeats=2)
    np.testing.assert_allclose(gain.with_warmup, gain.without_warmup, rtol=1e-6)
    assert len(seen) == 12 and gain.gain == 1
    first, second = (weights[0] for _, _, weights, _ in (seen[0], seen[2]))
    assert not np.array_equal(first, second)  # seeds differ
    # Nothing of one training is left in the next: the same peak again is the same training.
    assert [final for *_, final in seen[:4]] == pytest.approx([final for *_, final in seen[8:]], rel=1e-6)
    assert gain.with_warmup[0][0] != gain.with_warmup[0][1] and gain.with_warmup[0] != gain.with_warmup[1]


def test_the_same_again_is_the_same_and_random_numbers_go_on(monkeypatch):
    x, y = RANDOM.normal(size=(2, 64, 4)).astype("float32")
    monkeypatch.setattr(module, "_powers", lambda table: iter((0,)))

    def measured(seed):
        return warmup_gain(deep, x, y[:, :1], steps=10, batch_size=16, repeats=1, seed=seed)

    keras.utils.set_random_seed(1)
    keras.random.normal((1,))  # a generator that belongs to no model
    before = random.random(), np.random.random(), ops.convert_to_numpy(keras.random.normal((1,))).tolist()
    keras.utils.set_random_seed(1)
    keras.random.normal((1,))
    first = measured(0)
    assert (
        random.random(),
        np.random.random(),
        ops.convert_to_numpy(keras.random.normal((1,))).tolist(),
    ) == before
    assert measured(0) == first and measured(1) != first


def test_each_seed_begins_with_weights_of_its_own(monkeypatch):
    monkeypatch.setattr(module, "_powers", lambda table: iter((0,)))

    def build():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.compile(keras.optimizers.SGD(1e-7), "mse")
        return model

    gain = warmup_gain(build, X, Y, steps=10, repeats=3, seed=5)
    for seed, final in zip((5, 6, 7), gain.without_warmup[0], strict=True):
        random.seed(seed)
        weight = float(build().get_weights()[0][0, 0])
        assert final == pytest.approx((weight - 1) ** 2 + 1, rel=1e-4)


def test_one_bad_peak_does_not_end_the_search():
    finals = {-1: 3.0, 0: 1.0, 1: 1.2, 2: 1.0, 3: 2.0, 4: 2.0}
    table, tried = {}, []
    for power in module._powers(table):
        tried.append(power)
        table[power] = [finals[power]], [finals[power]]
    assert tried == [0, 1, 2, 3, 4, -1]


def test_validation_data_counts_where_there_is_some(monkeypatch):
    monkeypatch.setattr(module, "_powers", lambda table: iter((0,)))
    there = np.full((8, 1), 3.0, "float32")
    gain = warmup_gain(quadratic, X, Y, validation_data=(X[:8], there), then=hold(), steps=100, repeats=1)
    # At w = 1 the validation loss is (3 - 1)^2.
    assert gain.without_warmup[0][0] == pytest.approx(4, rel=1e-3) and gain.validated


def test_no_update_is_one_too_many():
    # 11 is no multiple of what runs in one call, and the validation loss is that behind update 11.
    gain = warmup_gain(quadratic, X, Y, validation_data=(X, Y), then=hold(), steps=11, repeats=1)
    at = gain.peaks.index(0.1)
    assert gain.without_warmup[at][0] == pytest.approx(1 + (1 - 0.2) ** 22, rel=1e-5)


def test_peaks_are_looked_for_below_the_models_own(monkeypatch):
    gain = warmup_gain(lambda: quadratic(keras.optimizers.SGD(4.0)), X, Y, then=hold(), steps=30, repeats=1)
    assert gain.peaks[0] < 0.6 and gain.peak_without == 0.5  # at 1 the loss stays at 2 for ever
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    monkeypatch.setattr(module, "_powers", lambda table: iter((0,)))
    gain = warmup_gain(lambda: quadratic(keras.optimizers.SGD(schedule)), X, Y, steps=10, repeats=1)
    assert gain.peaks == (0.01,)


def test_ctrl_c_keeps_whole_peaks(monkeypatch):
    seen = spy(monkeypatch)
    whole = module._Arm.run

    def run(self, *arguments):
        if len(seen) == 5:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(module._Arm, "run", run)
    gain = warmup_gain(quadratic, X, Y, then=hold(), steps=20, repeats=2)
    assert gain.interrupted and gain.peaks == (0.1,) and "interrupted" in repr(gain)
    assert not gain.bounded and " Larger peaks were not tried." in str(gain)
    with pytest.raises(KeyboardInterrupt):
        seen[:] = [None] * 5
        warmup_gain(quadratic, X, Y, then=hold(), steps=20, repeats=2)


# Reading a table


def gain_of(with_warmup, without, **more):
    peaks = tuple(0.1 * 2.0**power for power in range(len(without)))
    return WarmupGain(peaks, with_warmup, without, ("warmup", "then"), 200, 32, **more)


def test_the_largest_good_peak_is_judged_seed_by_seed():
    gain = gain_of(
        ((1.0, 2.0, 1.0), (1.0, 2.0, 1.0), (1.04, 2.0, 1.1)),
        ((1.0, 2.0, 1.0), (1.06, 2.0, INFINITE), (INFINITE,) * 3),
    )
    # Ratios: 0.4 / 0.1, 0.4 / 0.2, 0.2 / 0.1.
    assert gain.gain == pytest.approx(2) and gain.interval == (pytest.approx(2), pytest.approx(4))
    assert gain.confidence == 0.75 and gain.pays and gain.bounded
    assert gain.peak_with == pytest.approx(0.4) and gain.peak_without == pytest.approx(0.1)


def test_seeds_that_disagree_are_told():
    gain = gain_of(((1.0, 1.0), (1.0, 3.0), (9.0, 9.0)), ((1.0, 1.0), (3.0, 3.0), (9.0, 9.0)))
    assert gain.interval == (1, 2) and not gain.pays and gain.bounded
    assert "The seeds do not agree that warmup buys anything: a gain of 1.41 [1, 2]." in str(gain)


def test_divergence_is_in_the_table():
    lines = gain_of(((1.0, 1.0), (1.0, INFINITE)), ((1.0, 1.0), (INFINITE, INFINITE))).table().splitlines()
    assert lines[2].split() == ["0.2", "inf", "–", "1", "of", "2", "diverged", "diverged"]
    assert lines[1].count("*") == 2 and lines[2].count("*") == 0


def test_json_keeps_everything():
    gain = gain_of(((1.0,), (INFINITE,)), ((1.0,), (2.0,)), validated=True)
    text = gain.to_json()
    assert "Infinity" not in text and WarmupGain.from_dict(json.loads(text)) == gain
    for data in ({}, [], {**gain.to_dict(), "peaks": 1}, {**gain.to_dict(), "more": 1}):
        with pytest.raises(ValueError, match="`data`: expected the data of a warmup gain"):
            WarmupGain.from_dict(data)


# What is refused


def refused(kind, *words, **arguments):
    build = arguments.pop("build", quadratic)
    with pytest.raises(kind) as caught:
        warmup_gain(build, X, Y, **arguments)
    for word in words:
        assert word in str(caught.value), caught.value


def test_what_is_wrong_is_said():
    model = quadratic()
    bare = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    refused(TypeError, "`build`: expected a function that returns a new compiled model.", build=model)
    refused(TypeError, "`build`", "a function that returned None", build=lambda: None)
    refused(ValueError, "`build`", "which is not compiled", build=lambda: bare)
    refused(ValueError, "`build`: expected a new model each time.", "the same", build=lambda: model)
    refused(TypeError, "`warmup`: expected a profile.\nReceived: 100", warmup=100)
    refused(
        ValueError,
        "`then`: expected a profile with a peak of 1",
        "Received: 0.1 * linear()",
        then=0.1 * kw.linear(),
    )
    refused(ValueError, "`warmup`", "lengths in steps or fractions", warmup=warmup(epochs=1))
    refused(ValueError, "`steps`: expected a whole number, 10 or more.\nReceived: 5", steps=5)
    refused(ValueError, "`repeats`: expected a whole number, 1 or more.\nReceived: 0", repeats=0)
    refused(ValueError, "Write: warmup_gain(build, x, y, batch_size=32)", batch_size=64)


def test_trainings_that_all_diverge_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 3)
    broken = np.full_like(Y, np.nan)
    with pytest.raises(
        ValueError, match="`build`: expected a model that can be trained.\nReceived: trainings that all"
    ):
        warmup_gain(quadratic, X, broken, steps=10, repeats=1)
