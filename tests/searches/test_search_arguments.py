"""What a search takes and refuses: before the first trial, and not by failing each of them."""

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from sliding import EXAMPLES, PLAN, X, Y, build, unstable

import kwarmup as kw
from kwarmup.searches.outcome import DIVERGED, FINISHED

SHORT = PLAN.replace(epochs=2)


def make(folder, model=build, plan=SHORT, **more):
    arguments = {"peak": (0.01, 1.0), "batch_size": [10, 20, 40], "tuner": "random", "max_trials": 2}
    return kw.search(model, plan, **{**arguments, **more}, directory=folder)


def trials(tuner, *data, **more):
    tuner.search(*(data or (X, Y)), **{"validation_data": (X, Y), "verbose": 0, **more})
    return tuner.results().trials


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"optimizer": keras.optimizers.SGD(0.5)}, TypeError, "`optimizer`: expected no such argument"),
        ({"project_name": "a"}, TypeError, "`project_name`: expected no such argument"),
        ({"max_retries_per_trial": 1}, TypeError, "`max_retries_per_trial`: expected no such argument"),
        ({"tuner": keras_tuner.Hyperband, "max_epochs": 3}, TypeError, "`max_epochs`: expected no such"),
        ({"seed": None}, TypeError, "`seed`: expected a real number"),
        ({"seed": -1}, ValueError, "`seed`: expected a whole number, 0 or more"),
        ({"max_trials": 0}, ValueError, "`max_trials`: expected a whole number, 1 or more"),
        ({"max_trials": "3"}, TypeError, "`max_trials`: expected a real number"),
        ({"decay": [kw.decay(shape=lambda t: t)]}, ValueError, "shape"),
        ({"model": lambda: accumulating(2)}, ValueError, "gradient_accumulation_steps"),
    ],
)
def test_what_cannot_be_is_refused_where_the_tuner_is_made(tmp_path, arguments, kind, words):
    with pytest.raises(kind, match=words):
        make(tmp_path / "s", **arguments)


def accumulating(steps):
    return build(lambda: keras.optimizers.SGD(gradient_accumulation_steps=steps))


def test_numbers_and_arrays_of_numpy_are_numbers(tmp_path):
    tuner = make(
        tmp_path / "s", seed=np.int64(3), max_trials=np.int32(1), peak=np.array([0.01, 1]),
        batch_size=np.array([10, 20]),
    )  # fmt: skip
    assert [trial.status for trial in trials(tuner)] == [FINISHED]
    assert tuner.hypermodel.space.batch_sizes == (10, 20)


def three(data):
    yield from data


@pytest.mark.parametrize(
    ("data", "arguments", "kind", "words"),
    [
        ((X, Y), {"epochs": 3}, TypeError, "`epochs`: expected no such argument"),
        ((X, Y), {"batch_size": 3}, TypeError, "`batch_size`: expected no such argument"),
        ((X, Y), {"validation_split": 0.2}, TypeError, "`validation_split`: expected no such argument"),
        ((X, Y), {"seed": 3}, TypeError, "`seed`: expected no such argument"),
        ((X, Y), {"checkpoint_dir": "a"}, TypeError, "`checkpoint_dir`: expected no such argument"),
        ((X, Y), {"validation_freq": 2}, ValueError, "`validation_freq`: expected 1"),
        ((X, Y), {"callbacks": kw.Record}, TypeError, "`callbacks`: expected callbacks"),
        ((three([(X, Y)]),), {}, TypeError, "a function that makes one for each trial"),
        ((X[:50], Y[:50]), {}, ValueError, f"{EXAMPLES} examples along the first axis"),
        ((tf.data.Dataset.from_tensor_slices((X, Y)).batch(10),), {}, ValueError, "not yet in batches"),
    ],
)
def test_what_each_trial_would_fail_at_is_refused_before_the_first(tmp_path, data, arguments, kind, words):
    tuner = make(tmp_path / "s")
    with pytest.raises(kind, match=words):
        trials(tuner, *data, **arguments)
    assert not list((tmp_path / "s").glob("trial_*"))


class Sometimes(keras.callbacks.Callback):
    """Logs something in every other pass."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 2:
            logs["sometimes"] = 1.0


@pytest.mark.parametrize("callbacks", [None, Sometimes(), [[Sometimes()]]], ids=["none", "one", "nested"])
def test_callbacks_are_taken_as_plan_fit_takes_them(tmp_path, callbacks):
    assert [trial.status for trial in trials(make(tmp_path / "s"), callbacks=callbacks)] == [FINISHED] * 2


class Number(keras_tuner.RandomSearch):
    """Returns what its trials came to, on data that it calls its own."""

    def run_trial(self, trial, inputs, targets, **more):
        model = self.hypermodel.build(trial.hyperparameters)
        history = self.hypermodel.fit(trial.hyperparameters, model, inputs, targets, verbose=0)
        return self.said(min(history.history["loss"]))

    def said(self, value):
        return value


class Figures(Number):
    def said(self, value):
        return {"val_loss": value, "more": 1.0}


class Several(Number):
    def said(self, value):
        return [value, {"val_loss": value + 2}]


@pytest.mark.parametrize(("kind", "more"), [(Number, 0), (Figures, 0), (Several, 1)])
def test_a_tuner_of_the_users_may_run_trials_in_its_own_way(tmp_path, kind, more):
    tuner = make(tmp_path / "s", tuner=kind)
    tuner.search(inputs=X, targets=Y, validation_data=(X, Y), verbose=0)
    found = tuner.results().trials
    assert [trial.status for trial in found] == [FINISHED] * 2
    for trial in found:
        rates = kw.Curve(trial.plan.profile, trial.plan.clock)(np.arange(trial.plan.clock.steps))
        # The loss of the last pass: the mean of where the weight stands in front of each of its updates.
        stands = -np.cumsum([0, *rates[:-1]])[-len(rates) // 2 :]
        assert trial.score == pytest.approx(stands.mean() + more, rel=1e-4)


def test_an_objective_of_several_metrics_goes_on(tmp_path):
    both = [keras_tuner.Objective("val_loss", "min"), keras_tuner.Objective("loss", "min")]
    for count in (1, 2):
        tuner = make(tmp_path / "s", objective=both, max_trials=count)
        assert [trial.status for trial in trials(tuner)] == [FINISHED] * count
        both = [keras_tuner.Objective(one.name, one.direction) for one in both]  # as another process has them
    with pytest.raises(ValueError, match="`directory`"):
        make(tmp_path / "s", objective=both[:1])


def test_overwrite_begins_anew_and_keeps_the_guard_of_the_folder(tmp_path):
    assert len(trials(make(tmp_path / "s"))) == 2
    tuner = make(tmp_path / "s", peak=(0.02, 0.5), overwrite=True)
    assert tuner.results().trials == ()
    trials(tuner)
    with pytest.raises(ValueError, match="`directory`: expected a folder that is empty"):
        make(tmp_path / "s")
    assert len(make(tmp_path / "s", peak=(0.02, 0.5)).results().trials) == 2


def test_what_a_diverged_trial_says_names_no_checkpoint_that_is_removed(tmp_path):
    tuner = make(tmp_path / "s", model=unstable, peak=(1e11, 1e12), max_trials=1, scaling=0)
    with pytest.raises(RuntimeError, match="diverged"):
        trials(tuner)
    (trial,) = tuner.results().trials
    assert trial.status == DIVERGED and "checkpoint is" not in trial.message


def test_behind_a_search_a_hypermodel_trains_where_it_is_told(tmp_path):
    tuner = make(tmp_path / "s", max_trials=1)
    trials(tuner)
    (best,) = tuner.get_best_hyperparameters()
    model = tuner.hypermodel.build(best)
    assert len(tuner.hypermodel.fit(best, model, X, Y).history["loss"]) == 2
    assert int(model.optimizer.iterations) == tuner.best_plan().clock.steps


@pytest.mark.parametrize(
    ("objective", "direction"),
    [("val_r2_score", "max"), ("val_recall", "max"), ("val_loss", "min"), ("val_mae", "min"),
     (keras_tuner.Objective("val_r2_score", "min"), "min")],
)  # fmt: skip
def test_an_objective_goes_the_way_that_keras_knows(tmp_path, objective, direction):
    assert make(tmp_path / "s", objective=objective).oracle.objective.direction == direction
