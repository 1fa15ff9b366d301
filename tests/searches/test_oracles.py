"""What oracles make of failures, without training: outcomes are written by hand."""

import json
import math

import keras_tuner
import pytest
from sliding import PLAN, build

import kwarmup as kw
from kwarmup.searches import outcome
from kwarmup.searches.outcome import DIVERGED, FINISHED, OUT_OF_MEMORY, Outcome

SIZES = [10, 20, 40, 60]


def run(folder, tuner, judge, look=lambda: None, make=build, **more):
    """Let `judge(values)` say what comes of each trial: a score, or a status; return all trials.

    Nothing but the oracle takes part, as in the process of a chief; `look` is called behind each trial.
    """
    made = kw.search(make, PLAN, peak=(0.01, 1.0), batch_size=SIZES, tuner=tuner, directory=folder, **more)
    oracle, found = made.oracle, []
    oracle.verbose = 0
    while (trial := oracle.create_trial("tuner0")).status == "RUNNING":
        values = dict(trial.hyperparameters.values)
        came = judge(values)
        status = FINISHED if isinstance(came, float) else came
        kept = Outcome(trial.trial_id, status, values, None, came if status == FINISHED else None)
        (folder / f"trial_{trial.trial_id}" / "training0").mkdir()
        outcome.write(folder / f"trial_{trial.trial_id}", kept)
        if status == FINISHED:
            oracle.update_trial(trial.trial_id, {"val_loss": came})
        trial.status = "COMPLETED" if status == FINISHED else "FAILED"
        oracle.end_trial(trial)
        found.append(kept)
        look()
    assert trial.status == "STOPPED"
    return found


def away(values):
    """A score that is best at a peak of 0.1."""
    return abs(math.log10(values["peak"]) + 1)


@pytest.mark.parametrize("tuner", ["random", "bayesian", "grid", "hyperband"])
@pytest.mark.parametrize("limit", [40])
def test_no_size_is_asked_for_that_cannot_fit(tmp_path, tuner, limit):
    more = {} if tuner == "hyperband" else {"max_trials": 8}
    found = run(tmp_path, tuner, lambda v: OUT_OF_MEMORY if v["batch_size"] >= limit else away(v), **more)
    known = math.inf
    for trial in found:
        past = trial.values.get("tuner/trial_id")
        assert trial.values["batch_size"] < known or past, f"{trial} although {known} had failed"
        if past:  # what it goes on from was trained with the same
            before = next(other for other in found if other.trial == past)
            assert before.values["batch_size"] == trial.values["batch_size"]
        if trial.status == OUT_OF_MEMORY:
            known = min(known, trial.values["batch_size"])
    assert limit <= known and sum(trial.status == FINISHED for trial in found) > len(found) / 2


@pytest.mark.parametrize("tuner", ["random", "bayesian", "grid"])
def test_if_nothing_fits_the_search_is_over(tmp_path, tuner):
    found = run(tmp_path, tuner, lambda values: OUT_OF_MEMORY, max_trials=25)
    sizes = [trial.values["batch_size"] for trial in found]
    assert sizes == sorted(set(sizes), reverse=True) and sizes[-1] == 10


def test_a_model_that_does_not_fit_at_all_leaves_the_smallest_batch_to_others(tmp_path):
    def make(hp):
        hp.Choice("units", [10, 1000])
        return build()

    def judge(values):
        return OUT_OF_MEMORY if values["units"] * values["batch_size"] > 500 else away(values)

    found = run(tmp_path, "random", judge, make=make, max_trials=10)
    last = [trial for trial in found if trial.status == OUT_OF_MEMORY and trial.values["batch_size"] == 10]
    behind = found[found.index(last[0]) + 1 :]
    assert len(found) == 10 and {trial.values["batch_size"] for trial in behind} == {10}
    assert any(trial.status == FINISHED for trial in behind)


def test_many_failures_in_a_row_do_not_end_a_search(tmp_path):
    assert len(run(tmp_path, "random", lambda values: DIVERGED, max_trials=12)) == 12


def test_bayesian_learns_from_what_diverged(tmp_path):
    """The best peak lies at the edge of what diverges, and far beyond that is not asked for again and again."""

    def judge(values):
        return DIVERGED if values["peak"] > 0.1 else away(values)

    found = run(tmp_path, "bayesian", judge, max_trials=10, num_initial_points=5)
    late = found[5:]
    assert sum(trial.values["peak"] > 0.15 for trial in late) < 2
    assert min(trial.score for trial in found if trial.score is not None) < 0.2


def test_hyperband_promotes_in_spite_of_failures(tmp_path):
    """keras-tuner's waits for as many finished trials as there were begun, and would promote none."""
    found = run(tmp_path / "some", "hyperband", lambda v: DIVERGED if v["peak"] > 0.02 else away(v), factor=2)
    promoted = [trial for trial in found if trial.values.get("tuner/trial_id")]
    by_name = {trial.trial: trial for trial in found}
    went_on = [by_name[trial.values["tuner/trial_id"]] for trial in promoted]
    assert sum(trial.status == DIVERGED for trial in found) > len(found) / 2
    # The best go on first, those that failed only where there are no others.
    finished = [trial for trial in found if trial.status == FINISHED and trial not in promoted]
    assert any(trial.status == FINISHED for trial in went_on) and finished
    assert len(found) == len(run(tmp_path / "none", "hyperband", away, factor=2))


def test_a_promoted_trial_keeps_its_batch_size(tmp_path):
    """The largest are the best here, until a smaller one runs out of memory before they go on."""

    def judge(values):
        new = values.get("tuner/trial_id") is None
        return OUT_OF_MEMORY if new and values["batch_size"] == 20 else 1 / values["batch_size"]

    found = run(tmp_path, "hyperband", judge, factor=2)
    by_name = {trial.trial: trial for trial in found}
    pairs = [
        (by_name[trial.values["tuner/trial_id"]].values["batch_size"], trial.values["batch_size"])
        for trial in found
        if trial.values.get("tuner/trial_id")
    ]
    assert max(pairs) > (20, 0) and all(before == after for before, after in pairs), pairs


@pytest.mark.parametrize("tuner", ["random", "bayesian", "hyperband"])
def test_the_first_trials_fill_the_space(tmp_path, tuner):
    """Of six that are drawn at random, hardly any have each of four batch sizes among them and no large gap."""
    more = {
        "hyperband": {},
        "random": {"max_trials": 6},
        "bayesian": {"max_trials": 6, "num_initial_points": 6},
    }
    found = run(tmp_path, tuner, away, **more[tuner])
    first = [trial.values for trial in found if "tuner/trial_id" not in trial.values][:6]
    assert {values["batch_size"] for values in first} == set(SIZES)
    decades = sorted(math.log10(values["peak"]) for values in first)  # of -2 to 0
    assert max(after - before for before, after in zip([-2, *decades], [*decades, 0], strict=True)) < 0.7


def test_nothing_is_tried_twice(tmp_path, monkeypatch):
    """A process that is sure of its place, at the end of the range, asks for it each time."""
    from keras_tuner.oracles import BayesianOptimizationOracle

    same = {"status": "RUNNING", "values": {"peak": 1.0, "batch_size": 20}}
    monkeypatch.setattr(
        BayesianOptimizationOracle, "populate_space", lambda *_: {**same, "values": {**same["values"]}}
    )
    found = run(tmp_path, "bayesian", away, max_trials=6, num_initial_points=2)
    values = [tuple(trial.values.values()) for trial in found]
    assert len(set(values)) == 6 and (1.0, 20) in values


def test_a_grid_has_each_combination_once(tmp_path):
    found = run(tmp_path, "grid", away)
    pairs = [(trial.values["peak"], trial.values["batch_size"]) for trial in found]
    assert len(pairs) == len(set(pairs)) == 10 * len(SIZES)
    peaks = sorted({peak for peak, _ in pairs})
    assert [b / a for a, b in zip(peaks, peaks[1:], strict=False)] == pytest.approx([100 ** (1 / 10)] * 9)


def test_it_begins_at_the_suggestion(tmp_path):
    noise = kw.NoiseScale(35.0, (30.0, 40.0), 1.0, 1.0, 1000, 10, True, "")
    for tuner in ("random", "bayesian", "grid", "hyperband"):
        more = {} if tuner == "hyperband" else {"max_trials": 2}
        first = run(tmp_path / tuner, tuner, away, noise=noise, **more)[0]
        assert first.values["batch_size"] == 40


@pytest.mark.parametrize("tuner", ["random", keras_tuner.RandomSearch, "hyperband", keras_tuner.Hyperband])
def test_what_nothing_goes_on_from_is_removed_by_the_chief_too(tmp_path, tuner):
    """And the state is kept whole, whoever wrote the oracle."""
    rounds = "hyperband" in str(tuner).lower()
    held = []

    def look():
        held.append({path.parent.name for path in tmp_path.glob("trial_*/training0")})
        kept = json.loads((tmp_path / "state.json").read_text())
        assert len(kept["trials"]) == len(held) and kept["oracle"]["ongoing_trials"] == {}

    found = run(tmp_path, tuner, away, look, **({"factor": 2} if rounds else {"max_trials": 3}))
    assert max(map(len, held)) == (4 if rounds else 0) and held[-1] == set()
    for number, trial in enumerate(found):
        before = f"trial_{trial.values.get('tuner/trial_id')}"
        assert number == 0 or before == "trial_None" or before in held[number - 1]
    assert all(path.exists() for path in tmp_path.glob("trial_*"))
