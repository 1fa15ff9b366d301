"""The result of a search: table, JSON, picture, importances."""

import math

import numpy as np
import pytest

from kwarmup import Plan, SearchResult
from kwarmup.searches.outcome import DIVERGED, FINISHED, OUT_OF_MEMORY, Outcome, read, read_all, write

PLAN = Plan(learning_rate=0.1, batch_size=32, examples=320, epochs=2)


def trial(name, peak, size, score=None, status=FINISHED, **values):
    plan = PLAN.replace(learning_rate=peak, batch_size=size)
    return Outcome(str(name), status, {"peak": peak, "batch_size": size, **values}, plan, score, 2 if score else 0, 1.5,
                   "" if score else "why")  # fmt: skip


def result(direction="max", sign=1.0):
    random = np.random.default_rng(0)
    trials = []
    for n in range(40):
        peak, size = float(10 ** random.uniform(-3, 0)), int(random.choice([16, 32, 64]))
        score = sign * (0.9 - 0.2 * (math.log10(peak) + 1) ** 2)
        trials.append(trial(n, peak, size, score, units=int(random.choice([8, 16])), **{"tuner/round": 0}))
    trials += [trial(40, 2.0, 32, status=DIVERGED), trial(41, 0.1, 128, status=OUT_OF_MEMORY)]
    return SearchResult("val_accuracy", direction, 32, (16, 32, 64, 128), tuple(trials))


@pytest.mark.parametrize(("direction", "sign"), [("max", 1.0), ("min", -1.0)])
def test_the_best_comes_first_and_failures_last(direction, sign):
    found = result(direction, sign)
    assert abs(math.log10(found.best.values["peak"]) + 1) < 0.1
    assert found.best_plan() == found.best.plan
    head, first, *_, diverged, memory = found.table().splitlines()
    assert head.split()[:2] == ["trial", "val_accuracy"] and "units" in head and "tuner" not in head
    assert first.split()[0] == found.best.trial
    assert diverged.split()[:2] == ["40", "diverged"] and "out of memory" in memory
    assert found.infeasible == 128


def test_json_there_and_back(tmp_path):
    found = result()
    found.save(tmp_path / "trials.json")
    assert SearchResult.load(tmp_path / "trials.json") == found
    assert [path.name for path in tmp_path.iterdir()] == ["trials.json"]
    write(tmp_path / "trial_3", found.best)
    assert read(tmp_path / "trial_3") == found.best and read(tmp_path / "none") is None
    with pytest.raises(ValueError, match="the data of a search"):
        SearchResult.from_dict({"trials": []})


def test_trials_are_in_the_order_they_were_begun_however_many_digits_they_have(tmp_path):
    begun = ["0", "1", "8", "09", "10", "0011", "100", "a", "b2", "b10"]
    for name in begun:
        write(tmp_path / f"trial_{name}", trial(name, 0.1, 32, 0.5))
    (tmp_path / "trial_2").mkdir()  # has just begun
    assert [outcome.trial for outcome in read_all(tmp_path)] == [
        *sorted(begun[:7], key=int),
        "a",
        "b10",
        "b2",
    ]


def test_importance_is_of_what_moves_the_score():
    shares = result().importance()
    assert next(iter(shares)) == "peak" and shares["peak"] > 0.9
    assert sum(shares.values()) == pytest.approx(1) and set(shares) == {"peak", "batch_size", "units"}
    few = SearchResult("loss", "min", 32, (32,), tuple(trial(n, 0.1 + n, 32, 1.0) for n in range(4)))
    with pytest.raises(ValueError, match="4 trials that finished"):
        few.importance()
    flat = SearchResult("loss", "min", 32, (32,), tuple(trial(n, 0.1 + n, 32, 1.0) for n in range(6)))
    assert set(flat.importance().values()) == {0.0}


def drawn(count, values, score):
    """A result whose trials have random peaks and batch sizes, and what `values(n, random)` adds."""
    random = np.random.default_rng(1)
    trials = []
    for n in range(count):
        peak, size = float(10 ** random.uniform(-3, 0)), int(random.choice([16, 32, 64]))
        more = values(n, random)
        trials.append(trial(n, peak, size, score({"peak": peak, **more}, random), **more))
    return SearchResult("val_accuracy", "max", 32, (16, 32, 64), tuple(trials))


def test_importance_is_of_what_the_best_trial_does_not_have_too():
    found = drawn(
        30,
        lambda n, random: {"momentum": float(random.uniform())} if n % 2 else {},
        lambda values, random: values.get("momentum", 1.0),
    )
    assert "momentum" not in found.best.values
    shares = found.importance()
    assert set(shares) == {"peak", "batch_size", "momentum"}
    assert next(iter(shares)) == "momentum" and shares["momentum"] > 0.9


@pytest.mark.parametrize(
    "noise",
    [lambda random: float(random.uniform()), lambda random: f"{random.integers(1_000_000):06d}"],
    ids=["numbers", "words"],
)
def test_noise_that_some_trials_have_does_not_tell_their_scores(noise):
    """The trials are sorted by score: values that are numbered as they appear would be its rank."""

    def values(n, random):
        return {"optimizer": "sgd", "noise": noise(random)} if n % 2 else {"optimizer": "adam"}

    def score(values, random):
        bent = 0.03 * (math.log10(values["peak"]) + 1.5) ** 2
        return 0.9 - bent + 0.03 * (values["optimizer"] == "sgd") + 0.01 * float(random.normal())

    shares = drawn(40, values, score).importance()
    assert next(iter(shares)) == "peak" and shares["peak"] > 0.5
    assert shares["noise"] < 0.4  # which optimizer it is counts for both


def test_importance_is_of_having_a_hyperparameter_too():
    shares = drawn(
        20,
        lambda n, random: {"dropout": float(random.uniform(0.4, 0.6))} if n % 2 else {},
        lambda values, random: 1.0 if "dropout" in values else 0.0,
    ).importance()
    assert shares["dropout"] > 0.95


def test_what_is_the_same_in_all_trials_has_no_importance():
    trials = tuple(trial(n, 0.1, 32, 0.1 + 0.7 * n, units=8) for n in range(7))
    assert set(SearchResult("loss", "min", 32, (32,), trials).importance().values()) == {0.0}


def test_the_picture_shows_scores_failures_and_importances(tmp_path):
    found = result()
    figure = found.plot(tmp_path / "search.png")
    surface, bars = figure.axes[:2]
    assert (tmp_path / "search.png").stat().st_size > 10_000
    labels = surface.get_legend_handles_labels()[1]
    assert labels == [f"best: {found.best.score:.4g}", "out of memory", "diverged"]
    star = next(c for c in surface.collections if c.get_label().startswith("best"))
    assert star.get_offsets().tolist() == [
        [pytest.approx(found.best.values["peak"]), found.batch_sizes.index(found.best.values["batch_size"])]
    ]
    assert [text.get_text() for text in bars.get_yticklabels()][-1] == "peak"
    with pytest.raises(ValueError, match="a name that ends in .png"):
        found.plot("search.xyz")


def test_few_trials_have_a_picture_too():
    one = SearchResult("loss", "min", 32, (16, 32), (trial(0, 0.1, 32, 0.5),))
    assert len(one.plot().axes) == 2  # and the colours
    bad = SearchResult("loss", "min", 32, (16, 32), (trial(0, 0.1, 32, status=DIVERGED),))
    assert len(bad.plot().axes) == 1
    with pytest.raises(ValueError, match="one trial or more"):
        SearchResult("loss", "min", 32, (16,), ()).plot()
    with pytest.raises(ValueError, match="none finished"):
        bad.best_plan()
