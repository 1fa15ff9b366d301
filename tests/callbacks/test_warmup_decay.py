"""WarmupDecay: the same profile, the same values, on a model compiled with a number. On any backend."""

import keras
import numpy as np
import pytest

from kwarmup import Clock, Record, Schedule, WarmupDecay, cosine, warmup

pytestmark = pytest.mark.backend

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(20, 3)).astype("float32")
Y = RANDOM.normal(size=(20, 1)).astype("float32")
PROFILE = 0.2 * (warmup(epochs=1) >> cosine(to=0.1))
CLOCK = Clock(examples=20, epochs=4, batch_size=8)  # three batches a pass, the last one partial


def fit(rate, *callbacks, parts=None, wrap=lambda optimizer: optimizer, fits=((0, 4),), **arguments):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, gradient_accumulation_steps=parts)
    model.compile(wrap(optimizer), "mse", **arguments)
    for initial, final in fits:
        model.fit(
            X, Y, batch_size=8 // (parts or 1), shuffle=False, verbose=0,
            initial_epoch=initial, epochs=final, callbacks=list(callbacks),
        )  # fmt: skip
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def test_it_trains_as_the_schedule_does():
    expected = fit(Schedule(PROFILE, CLOCK))
    np.testing.assert_allclose(fit(0.7, WarmupDecay(PROFILE, CLOCK)), expected, rtol=0, atol=1e-6)
    # The comparison can fail: another profile ends elsewhere.
    assert abs(fit(0.7, WarmupDecay(PROFILE * 1.01, CLOCK)) - expected).max() > 1e-4


def test_a_second_fit_goes_on_where_the_first_ended():
    expected = fit(Schedule(PROFILE, CLOCK))
    callback = WarmupDecay(PROFILE, CLOCK)
    np.testing.assert_allclose(fit(0.7, callback, fits=((0, 1), (1, 4))), expected, rtol=0, atol=1e-6)


def test_accumulation_counts_updates():
    clock = Clock(examples=20, epochs=4, batch_size=8, gradient_accumulation_steps=2)
    expected = fit(Schedule(PROFILE, clock), parts=2)
    np.testing.assert_allclose(fit(0.7, WarmupDecay(PROFILE, clock), parts=2), expected, rtol=0, atol=1e-6)


def test_mixed_precision_sets_the_inner_optimizer():
    def wrap(optimizer):
        return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)

    expected = fit(Schedule(PROFILE, CLOCK), wrap=wrap)
    np.testing.assert_allclose(fit(0.7, WarmupDecay(PROFILE, CLOCK), wrap=wrap), expected, rtol=0, atol=1e-6)


def test_every_epoch_holds_the_value_of_the_first_update():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.7), "mse")
    callbacks = [WarmupDecay(PROFILE, CLOCK, every="epoch"), Record()]
    history = model.fit(X, Y, batch_size=8, epochs=4, verbose=0, callbacks=callbacks)
    expected = Schedule(PROFILE, CLOCK).curve(np.array([0, 3, 6, 9]))
    np.testing.assert_allclose(history.history["learning_rate"], expected, rtol=1e-6)


def test_between_executions_only_an_epoch_can_be_set():
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):  # by Keras itself
            fit(0.7, steps_per_execution=2)
        return
    with pytest.raises(ValueError, match="`steps_per_execution`: expected 1"):
        fit(0.7, WarmupDecay(PROFILE, CLOCK), steps_per_execution=2)
    fit(0.7, WarmupDecay(PROFILE, CLOCK, every="epoch"), steps_per_execution=2)


def test_a_schedule_in_the_optimizer_is_refused():
    with pytest.raises(ValueError, match="`learning_rate`: expected a plain number in the optimizer"):
        fit(Schedule(PROFILE, CLOCK), WarmupDecay(PROFILE, CLOCK))


def test_another_accumulation_than_the_clocks_is_refused():
    with pytest.raises(ValueError, match="Received: 1 in the clock, 2 in the optimizer"):
        fit(0.7, WarmupDecay(PROFILE, CLOCK), parts=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(profile=PROFILE), "needs one to know how long"),
        (dict(profile=PROFILE, clock=CLOCK, every="step"), '`every`: expected "batch" or "epoch"'),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        WarmupDecay(**arguments)
