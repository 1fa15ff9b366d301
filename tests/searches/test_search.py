"""`kw.search` from end to end: the four tuners, failures, Hyperband's rounds, and what its users know."""

import json

import keras
import keras_tuner
import numpy as np
import pytest
from sliding import EXAMPLES, PLAN, X, Y, build, unstable

import kwarmup as kw
from kwarmup.searches.outcome import DIVERGED, FINISHED, INFEASIBLE, OUT_OF_MEMORY

SHORT = PLAN.replace(epochs=2)
SPACE = {"peak": (0.01, 1.0), "batch_size": [10, 20, 40]}


def search(folder, tuner="random", make=build, plan=SHORT, fit=None, **more):
    made = kw.search(make, plan, **{**SPACE, **more}, tuner=tuner, directory=folder)
    made.search(X, Y, validation_data=(X, Y), verbose=0, **(fit or {}))
    return made


def moved(plan):
    """How far the weight of `sliding` goes down: the sum of all learning rates."""
    return float(kw.Curve(plan.profile, plan.clock)(np.arange(plan.clock.steps)).sum())


@pytest.mark.parametrize(
    ("tuner", "more"),
    [
        ("random", {"max_trials": 2}),
        ("bayesian", {"max_trials": 2, "num_initial_points": 1}),
        ("grid", {"max_trials": 2}),
        (keras_tuner.RandomSearch, {"max_trials": 2}),
    ],
    ids=["random", "bayesian", "grid", "class"],
)
def test_each_tuner_trains_each_trial_by_its_own_plan(tmp_path, tuner, more):
    tuner = search(tmp_path / "s", tuner, **more)
    assert isinstance(tuner, keras_tuner.Tuner)
    found = tuner.results()
    assert [trial.status for trial in found.trials] == [FINISHED] * more["max_trials"]
    for trial in found.trials:
        assert trial.plan.profile.peak == pytest.approx(
            trial.values["peak"] * trial.values["batch_size"] / 20, rel=1e-5
        )
        assert trial.score == pytest.approx(-moved(trial.plan), rel=1e-5)
    best = min(found.trials, key=lambda trial: trial.score)
    assert tuner.best_plan() == best.plan
    # What keras-tuner's users know.
    assert tuner.get_best_hyperparameters()[0].values == best.values
    (model,) = tuner.get_best_models()
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(best.score, rel=1e-5)
    tuner.results_summary()


def test_hyperparameters_of_the_build_are_searched_in_the_same_space(tmp_path):
    def make(hp):
        return build(keras.optimizers.Adam if hp.Boolean("adam") else keras.optimizers.SGD)

    tuner = kw.search(
        make, SHORT, peak=(0.01, 1), batch_size=[20, 40], tuner="grid", directory=tmp_path / "s"
    )
    found = {}
    while len(found) < 4:  # the first peak with each of the others
        trial = tuner.oracle.create_trial("tuner0")
        tuner.hypermodel.build(trial.hyperparameters)
        peak = tuner.hypermodel.planned.profile.peak
        found[trial.hyperparameters.get("batch_size"), trial.hyperparameters.get("adam")] = peak
        trial.status = "FAILED"
        tuner.oracle.end_trial(trial)
    # The rule is that of the optimizer of the trial.
    rates = {key: peak / found[20, False] for key, peak in found.items()}
    assert rates == pytest.approx(
        {(20, False): 1, (20, True): 1, (40, False): 2, (40, True): 2**0.5}, rel=1e-4
    )


class Greedy(keras.callbacks.Callback):
    """Asks for more memory than there is where the batch is larger than 10."""

    def on_train_batch_begin(self, batch, logs=None):
        import tensorflow as tf

        if self.params["steps"] < EXAMPLES // 10:
            tf.random.normal([2000, 2**28])


def test_memory_that_runs_out_rules_out_its_size_and_all_above(tmp_path):
    tuner = search(tmp_path / "s", max_trials=4, fit={"callbacks": [Greedy()]})
    found = tuner.results()
    asked = [(trial.values["batch_size"], trial.status) for trial in found.trials]
    first = next(trial for trial in found.trials if trial.values["batch_size"] > 10)
    assert first.status == OUT_OF_MEMORY and "ResourceExhaustedError" in first.message
    assert first.plan.clock.batch_size == first.values["batch_size"]
    # Until 20 has failed, 40 may have failed before it; behind it only 10 is asked for.
    failed = [size for size, status in asked if status != FINISHED]
    assert failed in ([20], [40, 20], [40]) and {status for size, status in asked if size == 10} == {FINISHED}
    assert "out of memory" in found.table() and len(asked) == 4
    assert found.best.values["batch_size"] == 10


def test_a_size_that_another_worker_has_found_not_to_fit_is_not_begun(tmp_path):
    """An oracle of one's own may still ask for it."""
    from kwarmup.searches import outcome

    tuner = kw.search(build, SHORT, peak=(0.01, 1), batch_size=[40], tuner=keras_tuner.RandomSearch, max_trials=1,
                      directory=tmp_path / "s")  # fmt: skip
    elsewhere = outcome.Outcome("9", OUT_OF_MEMORY, {"batch_size": 20, "peak": 0.1}, None, message="OOM")
    outcome.write(tmp_path / "s" / "trial_9", elsewhere)
    with pytest.raises(RuntimeError, match="None of 2 trials finished"):
        tuner.search(X, Y, validation_data=(X, Y), verbose=0)
    assert [trial.status for trial in tuner.results().trials] == [INFEASIBLE, OUT_OF_MEMORY]


def test_what_diverges_is_a_result_with_its_peak(tmp_path):
    tuner = search(tmp_path / "s", make=unstable, peak=(0.01, 1e12), max_trials=3, scaling=0)
    found = tuner.results()
    by_peak = sorted(found.trials, key=lambda trial: trial.values["peak"])
    statuses = [trial.status for trial in by_peak]
    assert statuses == sorted(statuses, reverse=True) and set(statuses) == {FINISHED, DIVERGED}
    for trial in found.failed:
        assert "LossNotFinite" in trial.message and trial.plan.profile.peak == pytest.approx(
            trial.values["peak"], rel=1e-5
        )
    assert found.best.values["peak"] == by_peak[0].values["peak"] or found.best.status == FINISHED


def test_if_every_trial_fails_the_first_cause_is_raised(tmp_path):
    def fails(hp):
        model = build()
        if "batch_size" in hp.values:
            model.compile(keras.optimizers.SGD(), loss=_broken)
        return model

    with pytest.raises(
        RuntimeError, match=r"None of 3 trials finished\. Trial 0, the first, failed: "
    ) as caught:
        search(tmp_path / "s", make=fails, max_trials=3)
    assert "no such thing" in str(caught.value) and isinstance(caught.value.__cause__, KeyError)


class Curious(keras.callbacks.Callback):
    """Reports what it was told, in the trials that it sees."""

    trained = 0

    def __deepcopy__(self, memo):
        return self

    def on_epoch_end(self, epoch, logs=None):
        self.trained += 1
        logs["here"] = 1.0


def test_an_objective_that_nobody_reports_ends_the_search_at_once(tmp_path):
    tuner = kw.search(build, SHORT, **SPACE, tuner="random", max_trials=5, directory=tmp_path / "a")
    with pytest.raises(ValueError, match=r"`validation_data`: expected data that 'val_loss'.*(?s:.)*Write: "):
        tuner.search(X, Y, verbose=0)
    curious, nowhere = Curious(), keras_tuner.Objective("nowhere", "min")
    with pytest.raises(ValueError) as caught:
        search(tmp_path / "b", max_trials=5, objective=nowhere, fit={"callbacks": [curious]})
    assert "reports: 'loss', 'val_loss', 'here'" in str(caught.value)
    assert curious.trained == SHORT.clock.epochs
    assert not list((tmp_path / "b").glob("trial_*/training*"))


def _broken(y, prediction):
    raise KeyError("no such thing")


class Rates(keras.callbacks.Callback):
    """Notes by how much each update moved the weight of `sliding`, by the schedule that it followed."""

    seen: dict[str, list[tuple[int, float]]] = {}

    def on_train_batch_begin(self, batch, logs=None):
        self.before = float(self.model.trainable_variables[0].numpy()[0, 0])

    def on_train_batch_end(self, batch, logs=None):
        now = float(self.model.trainable_variables[0].numpy()[0, 0])
        peak = self.model.optimizer.get_config()["learning_rate"]["config"]
        done = int(self.model.optimizer.iterations.numpy())
        Rates.seen.setdefault(json.dumps(peak, sort_keys=True), []).append((done, self.before - now))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tuner", "more"), [("hyperband", {"max_trials": 3}), (keras_tuner.Hyperband, {})], ids=["ours", "class"]
)
def test_a_promoted_trial_goes_on_along_one_schedule(tmp_path, tuner, more):
    Rates.seen.clear()
    tuner = search(tmp_path / "s", tuner, batch_size=[20], factor=2, fit={"callbacks": [Rates()]}, **more)
    found = tuner.results()
    promoted = [trial for trial in found.trials if trial.values.get("tuner/trial_id")]
    assert promoted, "no trial was promoted"
    for trial in promoted:
        before = next(t for t in found.trials if t.trial == trial.values["tuner/trial_id"])
        assert before.plan == trial.plan and before.epochs < trial.epochs == SHORT.clock.epochs
        # Every update of the plan once, whatever round it was in, each by the learning rate of the whole plan.
        (applied,) = (seen for seen in Rates.seen.values() if _close(seen[-1][1], trial.plan))
        steps, rates = zip(*applied, strict=True)
        assert steps == tuple(range(1, trial.plan.clock.steps + 1))
        expected = kw.Curve(trial.plan.profile, trial.plan.clock)(np.arange(trial.plan.clock.steps))
        np.testing.assert_allclose(rates, expected, atol=2e-6 * trial.plan.profile.peak + 1e-6)
        assert trial.score == pytest.approx(-moved(trial.plan), rel=1e-5)
    assert all(trial.status == FINISHED for trial in found.trials)
    # Nothing goes on from a trial that is over, but from one that waits in a bracket that `max_trials` has cut off.
    kept = {path.parent.name for path in (tmp_path / "s").glob("trial_*/training*")}
    assert len(kept) == (1 if more else 0), kept


def _close(rate, plan):
    return (
        abs(rate - float(kw.Curve(plan.profile, plan.clock)(plan.clock.steps - 1)))
        < 1e-6 + 1e-4 * plan.profile.peak
    )


def test_the_same_folder_goes_on_and_another_search_is_refused(tmp_path):
    tuner = search(tmp_path / "s", max_trials=1)
    before = tuner.results()
    more = search(tmp_path / "s", max_trials=2)
    assert more.results().trials[:1] == before.trials and len(more.results().trials) == 2
    with pytest.raises(ValueError, match=r"peak\.1: 1\.0 in the folder, 2\.0 now"):
        search(tmp_path / "s", max_trials=2, peak=(0.01, 2.0))
    with pytest.raises(ValueError, match="tuner: 'random' in the folder, 'grid' now"):
        search(tmp_path / "s", "grid", max_trials=2)


def test_trials_go_on_with_the_passes_that_a_measured_time_gave_them(tmp_path):
    """Measured again, it is another time: twice the batch had 8 passes, and would have 4 now."""
    lines = [kw.StepTime(b, a, (b, b), (a, a), 0.0) for b, a in ((1.0, 0.0), (0.0, 1.0))]
    space = {"peak": (0.01, 1), "batch_size": [20, 40], "tuner": "grid", "directory": tmp_path / "s"}
    for time in lines:
        tuner = kw.search(build, PLAN, budget=kw.equal_time(time), **space)
        assert tuner.hypermodel.space.passes() == {20: 4, 40: 8}
    assert kw.equal_time(lines[1])(PLAN, 40) == 4
    with pytest.raises(ValueError, match="budget: 'equal_time' in the folder, 'equal_updates' now"):
        kw.search(build, PLAN, budget=kw.equal_updates, **space)


def test_a_state_that_was_cut_off_is_put_back(tmp_path):
    tuner = search(tmp_path / "s", max_trials=1)
    before = tuner.results()
    for file in ("oracle.json", "trial_0/trial.json"):
        path = tmp_path / "s" / file
        path.write_text(path.read_text()[:20])
    again = search(tmp_path / "s", max_trials=1)
    assert again.results() == before and again.get_best_hyperparameters()[0].values == before.best.values


class Folders(keras.callbacks.Callback):
    """Notes the folders of checkpoints that are there while a trial is trained."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.seen = folder, set()

    def __deepcopy__(self, memo):
        return self  # keras-tuner copies callbacks for each training

    def on_epoch_end(self, epoch, logs=None):
        self.seen |= {path.name for path in self.folder.glob("training*")}


def test_trials_are_trained_more_than_once_where_that_is_asked_for_and_seen_in_tensorboard(tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path / "logs")
    folders = Folders(tmp_path / "s" / "trial_0")
    fit = {"callbacks": [board, folders]}
    tuner = search(tmp_path / "s", max_trials=1, executions_per_trial=2, fit=fit)
    assert folders.seen == {"training0", "training1"} and len(tuner.results().trials) == 1
    # What nothing goes on from is removed.
    assert not list(folders.folder.glob("training*")) and (folders.folder / "checkpoint.weights.h5").exists()
    written = [path.read_bytes() for path in (tmp_path / "logs").rglob("events*")]
    assert any(b"hparams" in data and b"batch_size" in data for data in written)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"tuner": "best"}, ValueError, "'bayesian', 'random', 'hyperband', 'grid'"),
        ({"tuner": 3}, TypeError, "tuner=keras_tuner.RandomSearch"),
        ({"tuner": "hyperband", "max_epochs": 3}, TypeError, "plan.replace(epochs=27)"),
        ({"make": 3}, TypeError, "`build`: expected a function that returns a compiled model"),
        (
            {"make": lambda: keras.Sequential([keras.Input((1,))])},
            ValueError,
            "one that returns a compiled model",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, arguments, kind, words):
    with pytest.raises(kind) as caught:
        search(tmp_path / "s", **{"max_trials": 1, **arguments})
    assert words in str(caught.value)


def test_a_hypermodel_works_in_a_tuner_of_ones_own(tmp_path):
    model = kw.PlanHyperModel(build, SHORT, **SPACE)
    tuner = keras_tuner.RandomSearch(
        model, objective="val_loss", max_trials=1, directory=tmp_path, project_name="s"
    )
    tuner.search(X, Y, validation_data=(X, Y), verbose=0)
    values = tuner.get_best_hyperparameters()[0].values
    assert tuner.oracle.get_best_trials()[0].score == pytest.approx(
        -moved(model.space.plan_of(values, 1.0)), rel=1e-5
    )
