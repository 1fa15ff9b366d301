"""Record: the learning rate that was applied, in the logs of every later callback. On any backend."""

import csv

import keras
import numpy as np
import pytest

from kwarmup import Plan, Record, Schedule, WarmupDecay, cosine, hold, linear, warmup

pytestmark = pytest.mark.backend

PROFILE = warmup(steps=4) >> linear(to=0, steps=8)
X = np.ones((8, 1), "float32")


def fit(optimizer, *callbacks, **arguments):
    compiled = {key: arguments.pop(key) for key in ("steps_per_execution", "run_eagerly") if key in arguments}
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **compiled)
    arguments = dict(batch_size=2, epochs=3, verbose=0, shuffle=False) | arguments
    return model, model.fit(X, X, callbacks=list(callbacks), **arguments)


class Seen(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(logs["learning_rate"])


def test_each_batch_shows_the_rate_of_its_own_update():
    seen = Seen()
    _, history = fit(keras.optimizers.SGD(Schedule(PROFILE)), Record("batch"), seen)
    expected = [0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert seen.rates == expected
    assert history.history["learning_rate"] == expected[3::4]


def test_by_default_only_the_epochs_logs_get_it():
    with pytest.raises(KeyError):
        fit(keras.optimizers.SGD(0.1), Record(), Seen())


def test_an_execution_shows_its_last_update():
    seen = Seen()
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):  # by Keras itself
            fit(keras.optimizers.SGD(0.1), steps_per_execution=2)
        return
    fit(keras.optimizers.SGD(Schedule(PROFILE)), Record("batch"), seen, steps_per_execution=2)
    assert seen.rates == [0.25, 0.75, 0.875, 0.625, 0.375, 0.125]


@pytest.mark.parametrize("steps", [2, 4])
def test_accumulation_counts_updates(steps):
    optimizer = keras.optimizers.SGD(
        Schedule(PROFILE, gradient_accumulation_steps=steps), gradient_accumulation_steps=steps
    )
    _, history = fit(optimizer, Record())
    updates = np.array([4, 8, 12]) // steps - 1
    assert history.history["learning_rate"] == Schedule(PROFILE).curve(updates).tolist()


def test_a_keras_schedule_is_shown_as_keras_evaluates_it():
    # Keras hands micro-steps to a schedule: the third and the last of the first three updates.
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 8, 0.0)
    _, history = fit(keras.optimizers.SGD(schedule, gradient_accumulation_steps=2), Record())
    assert history.history["learning_rate"] == pytest.approx([1 - 3 / 8, 1 - 7 / 8, 0.0])


def test_a_plain_number_and_one_that_a_callback_sets():
    assert fit(keras.optimizers.SGD(0.5), Record())[1].history["learning_rate"] == [0.5] * 3
    _, history = fit(keras.optimizers.SGD(0.5), WarmupDecay(PROFILE), Record())
    assert history.history["learning_rate"] == [0.75, 0.625, 0.125]


def test_mixed_precision_keeps_the_schedule_on_the_inner_optimizer():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(Schedule(1e-3 * PROFILE)), initial_scale=2.0
    )
    _, history = fit(optimizer, Record())
    assert history.history["learning_rate"] == pytest.approx([7.5e-4, 6.25e-4, 1.25e-4])


def test_csv_logger_sees_it(tmp_path):
    fit(keras.optimizers.SGD(Schedule(PROFILE)), Record(), keras.callbacks.CSVLogger(tmp_path / "log.csv"))
    with open(tmp_path / "log.csv") as file:
        assert [float(row["learning_rate"]) for row in csv.DictReader(file)] == [0.75, 0.625, 0.125]


def test_a_batch_size_that_moves_is_recorded_for_the_same_update():
    class Sizes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((logs["learning_rate"], logs["batch_size"]))

    plan = Plan(
        learning_rate=8.0 * linear(),
        batch_size=3 * (hold(epochs=1) >> hold(2)),
        examples=8,
        epochs=2,
        scaling=1,
    )
    seen, model = [], keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    history = plan.fit(model, X, X, verbose=0, callbacks=[Record("batch"), Sizes()])
    # The third batch holds two examples, the last one too; the plan's size for them is 3, then 6.
    assert seen == [(8, 3), (6.5, 3), (5, 3), (8, 6), (2, 6)]
    assert history.history["batch_size"] == [3, 6]


@pytest.mark.parametrize("batch_size", [4, 2 * hold()], ids=str)
def test_a_batch_size_is_recorded_where_it_is_a_profile(batch_size):
    plan = Plan(learning_rate=0.1, batch_size=batch_size, examples=8, epochs=2)
    _, history = fit(keras.optimizers.SGD(plan.learning_rate), Record(), epochs=2)
    assert history.history.get("batch_size") == (None if batch_size == 4 else [2, 2])


def test_a_word_that_is_no_interval_is_refused():
    with pytest.raises(ValueError, match='`every`: expected "epoch" or "batch"'):
        Record("step")


def test_before_any_update_it_is_the_first_one():
    from kwarmup.applied import batch_size, learning_rate

    plan = Plan(
        learning_rate=0.5 * cosine(), batch_size=2 * (hold(epochs=1) >> hold(3)), examples=8, epochs=3
    )
    optimizer = keras.optimizers.SGD(plan.learning_rate)
    optimizer.build([keras.Variable([1.0])])
    assert (learning_rate(optimizer), batch_size(optimizer)) == (0.5, 2)
