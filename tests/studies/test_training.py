"""One training of a study: as many updates as asked for, looks in between, and a stopwatch of training alone."""

import time

import keras
import numpy as np
import pytest

from kwarmup import Plan, hold, linear
from kwarmup.studies.data import Data
from kwarmup.studies.training import train

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]])).astype("float32")


def model(rate):
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(rate), "mse")
    return made


def plan(batch_size=16, peak=0.05, epochs=5):
    return Plan(
        learning_rate=peak * (hold(fraction=0.5) >> linear(to=0.1)), batch_size=batch_size, examples=160,
        epochs=epochs, drop_remainder=True,
    )  # fmt: skip


def test_it_makes_the_updates_asked_for_and_looks_in_between():
    data, whole = Data(X, Y), plan()
    found = train(model(whole.learning_rate), whole, 37, data, seed=0)
    assert found.updates == 37 and found.checks[0].updates == 0
    assert len(found.checks) > 10
    assert list(found.checks) == sorted(found.checks)
    assert found.checks[-1].loss < 0.2 * found.checks[0].loss and not found.diverged
    assert (found.batch_size, found.peak, found.seed) == (16, 0.05, 0)
    assert data.monitor == "loss" and found.checks[3].value == found.checks[3].loss


def test_it_trains_as_a_plain_fit_of_the_plan_does():
    data, whole = Data(X, Y), plan()
    one, other = model(whole.learning_rate), model(whole.learning_rate)
    train(one, whole, whole.clock.steps, data, seed=3)
    whole.fit(other, data.x, data.y, seed=3, verbose=0)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_done_at_a_look_is_not_on_the_stopwatch():
    data, whole = Data(X, Y), plan()
    begun = time.perf_counter()
    found = train(model(whole.learning_rate), whole, 40, data, seed=0, looked=lambda check: time.sleep(0.05))
    assert time.perf_counter() - begun - found.seconds > 0.05 * (len(found.checks) - 1)


def test_the_update_that_compiles_counts_as_any_other(monkeypatch):
    # Each look at the clock is a second later, and the end of the first update a hundred more.
    seconds, first = iter(range(10_000)), []

    class Clock:
        @staticmethod
        def perf_counter():
            return next(seconds) + (100 if first else 0)

    monkeypatch.setattr("kwarmup.studies.training.time", Clock)
    data, whole = Data(X, Y), plan()
    one = model(whole.learning_rate)
    real = one.fit

    def fit(*arguments, callbacks, **keywords):
        (watch,) = callbacks
        ends = watch.on_train_batch_end

        def on_train_batch_end(batch, logs=None):
            first.append(batch)
            ends(batch, logs)

        watch.on_train_batch_end = on_train_batch_end
        return real(*arguments, callbacks=callbacks, **keywords)

    one.fit = fit
    found = train(one, whole, 40, data, seed=0)
    # From look to look it is a second; the first, of a hundred and one, counts as the mean of the other updates.
    assert found.seconds == pytest.approx((len(found.checks) - 2) * 40 / 39)
    assert found.trace_seconds > 100


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_training_that_diverges_is_a_result():
    data, whole = Data(X, Y), plan(peak=1e6, epochs=20)
    found = train(model(whole.learning_rate), whole, 200, data, seed=0)
    assert found.diverged and found.updates < 200


def test_metrics_and_held_out_examples():
    labels = (Y[:, 0] > 0).astype("int32")
    data = Data(X, labels)
    assert (data.examples, data.validation_examples, data.held_out) == (160, 40, True)
    rows = {tuple(row) for row in X.tolist()}
    assert {tuple(r) for r in data.x.tolist()} | {tuple(r) for r in data.validation[0].tolist()} == rows
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
    made.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=["accuracy"])
    loss, accuracy = data.check(made)
    assert data.monitor == "accuracy" and data.sign == 1 and 0 <= accuracy <= 1 and loss > 0


@pytest.mark.parametrize(
    ("monitor", "sign"), [("loss", -1), ("val_accuracy", 1), ("mae", -1), ("auc", 1), ("val_loss", -1)]
)
def test_which_way_a_metric_is_better(monitor, sign):
    assert Data(X, Y, monitor=monitor).sign == sign


def test_a_metric_that_the_model_lacks_is_said():
    with pytest.raises(ValueError, match="`monitor`: expected one of 'loss'"):
        Data(X, Y, monitor="accuracy").check(model(0.1))


def test_validation_data_of_another_form_is_said():
    with pytest.raises(ValueError, match=r"(?s)`validation_data`: expected a pair.*Received: a ndarray"):
        Data(X, Y, validation_data=X)
