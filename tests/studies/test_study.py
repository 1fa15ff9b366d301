"""A study as it is measured: within its budget, kept piece by piece, and gone on with."""

import dataclasses
import json
import random

import keras
import numpy as np
import pytest

import kwarmup as kw
from kwarmup.studies import measure

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(400, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype("int32")
ARGUMENTS = {"batch_sizes": [20, 80], "seeds": 2, "epochs": 2, "budget": 300}


def build(optimizer=None, units=8):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(1, "sigmoid")]
    )
    model.compile(
        optimizer or keras.optimizers.SGD(0.5, momentum=0.9), "binary_crossentropy", metrics=["accuracy"]
    )
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_PILOTS", 3)
        patch.setattr("kwarmup.measure.stable._RATIO", 1.5)
        return path, kw.study(build, X, Y, path=path, **ARGUMENTS)


def test_everything_is_measured(whole):
    _, study = whole
    assert study.missing == () and study.batch_sizes == (20, 80)
    assert sorted((run.batch_size, run.seed) for run in study.runs) == [(20, 0), (20, 1), (80, 0), (80, 1)]
    assert all(run.updates == 640 // run.batch_size for run in study.runs)  # two passes over 320 examples
    settings = study.settings
    assert (settings.reference, settings.scaling, settings.monitor, settings.sign) == (20, 1, "accuracy", 1)
    assert study.peak(80) == pytest.approx(4 * settings.peak)
    assert {run.peak for run in study.runs} == {study.peak(20), study.peak(80)}
    assert study.throughput.batch_sizes == (20, 80) and len(study.sweep.losses) == 3
    assert min(study.pilots, key=lambda pilot: pilot[1])[0] == settings.peak
    assert study.noise[0].examples == 0 and study.noise[-1].examples > 0
    first = study.runs[0]
    assert settings.target == pytest.approx(
        first.checks[0].value + 0.9 * (max(check.value for check in first.checks) - first.checks[0].value)
    )
    assert study.recommend().clock.examples == 320
    assert (study.facts["examples"], study.facts["validation_examples"], study.facts["held_out"]) == (
        320,
        80,
        True,
    )


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="the other tests say all of it there")
def test_on_jax_and_torch_it_runs_from_end_to_end(tmp_path):
    path, arguments = tmp_path / "study.json", {**ARGUMENTS, "seeds": 1, "epochs": 1}
    study = kw.study(build, X, Y, path=path, **arguments)
    assert [run.batch_size for run in study.runs] == [20, 80] and study.noise[-1].examples > 0
    assert study.facts["backend"] == keras.backend.backend()
    assert study.recommend().clock.examples == 320
    # Once more without what was measured in the middle of a training, which has not changed it.
    dataclasses.replace(study, runs=()).save(path)
    again = kw.study(build, X, Y, path=path, **arguments)
    for found, expected in zip(again.runs, study.runs, strict=True):
        assert [check[2:] for check in found.checks] == [check[2:] for check in expected.checks]
    study.report(tmp_path / "report.html")


def test_it_is_on_the_disk_and_goes_on_from_there(whole, tmp_path):
    path, study = whole
    assert kw.Study.load(path) == study
    part = dataclasses.replace(study, runs=study.runs[:1], missing=("something",))
    part.save(tmp_path / "part.json")
    again = kw.study(build, X, Y, path=tmp_path / "part.json", **ARGUMENTS)
    assert again.runs[0] == study.runs[0] and again.sweep == study.sweep and again.noise == study.noise
    assert again.missing == () and again.seconds > part.seconds
    for one, other in zip(again.runs, study.runs, strict=True):
        # The same trainings, but for their times.
        assert [(c.updates, c.value) for c in one.checks] == [(c.updates, c.value) for c in other.checks]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_sizes": [20, 40]}, "batch_sizes: (20, 80), now (20, 40)"),
        ({"target": 0.99}, "target: "),
        ({"epochs": 3}, "run_examples: 640, now 960"),
        ({"x": X[:-5], "y": Y[:-5]}, "examples: 320, now 316"),
        ({"build": lambda: build(units=5)}, "weights: 65, now 41"),
        ({"build": lambda: build(keras.optimizers.Adam())}, "optimizer: 'SGD', now 'Adam'"),
    ],
    ids=["batch sizes", "target", "epochs", "data", "model", "optimizer"],
)
def test_a_study_with_other_settings_is_refused(whole, changed, words):
    path, study = whole
    before = path.read_text()
    with pytest.raises(ValueError) as caught:
        kw.study(**{"build": build, "x": X, "y": Y, "path": path, **ARGUMENTS, **changed})
    assert words in str(caught.value) and path.read_text() == before


def test_ctrl_c_keeps_what_was_measured(whole, monkeypatch, tmp_path):
    real, calls = measure.train, []

    def train(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    path, study = whole
    dataclasses.replace(study, runs=(), noise=()).save(tmp_path / "study.json")
    monkeypatch.setattr(measure, "train", train)
    found = kw.study(build, X, Y, path=tmp_path / "study.json", **ARGUMENTS)
    assert len(found.runs) == 1 and any("Ctrl-C ended the study" in text for text in found.missing)
    assert "Batch size 80: 0 of 2 seeds were trained." in found.missing
    assert kw.Study.load(tmp_path / "study.json") == found


def test_a_budget_that_is_spent_ends_it(whole, tmp_path):
    path, study = whole
    dataclasses.replace(study, runs=study.runs[:1], seconds=299.0).save(tmp_path / "study.json")
    found = kw.study(build, X, Y, path=tmp_path / "study.json", **{**ARGUMENTS, "budget": 10})
    assert len(found.runs) == 1 and any("the budget of 10 s was spent" in text for text in found.missing)


def test_random_numbers_go_on_as_before(whole, tmp_path):
    path, study = whole
    dataclasses.replace(study, runs=study.runs[:3]).save(tmp_path / "study.json")
    random.seed(5)
    np.random.seed(5)
    expected = random.Random(5).random(), np.random.RandomState(5).rand()
    kw.study(build, X, Y, path=tmp_path / "study.json", **ARGUMENTS)
    assert (random.random(), np.random.rand()) == expected


def test_more_seeds_are_more_of_the_same(whole, tmp_path):
    path, study = whole
    (tmp_path / "study.json").write_text(path.read_text())
    more = kw.study(build, X, Y, path=tmp_path / "study.json", **{**ARGUMENTS, "seeds": 3})
    assert more.settings.seeds == 3 and len(more.runs) == 6 and more.runs[:4] == study.runs


def test_a_training_that_would_not_fit_into_the_budget_is_not_begun(whole, tmp_path):
    path, study = whole
    slow = [[1.0 + 0.01 * size for size in (20, 80)]] * 3  # 32 updates take 38 s
    speed = dataclasses.replace(study.throughput, seconds=slow)
    dataclasses.replace(study, runs=study.runs[:1], throughput=speed, seconds=0.0).save(
        tmp_path / "study.json"
    )
    found = kw.study(build, X, Y, path=tmp_path / "study.json", **{**ARGUMENTS, "budget": 10})
    assert found.runs == study.runs[:1]


MEASURED = {
    "throughput": "throughput",
    "memory_use": "memory",
    "find_lr": "sweep",
    "largest_stable_lr": "stable",
}


@pytest.mark.parametrize("verb", MEASURED)
def test_ctrl_c_in_a_measurement_is_not_swallowed(whole, monkeypatch, verb):
    """These return what they have measured until then; a study is not built upon half of it."""
    changes = {"confidence": 0.0} if verb == "largest_stable_lr" else {"interrupted": True}
    for name, piece in MEASURED.items():
        found = getattr(whole[1], piece)
        found = dataclasses.replace(found, **changes) if name == verb else found
        monkeypatch.setattr(measure, name, lambda *arguments, found=found, **keywords: found)
    monkeypatch.setattr(measure, "train", lambda *arguments: pytest.fail("it goes on"))
    with pytest.raises(KeyboardInterrupt):
        kw.study(build, X, Y, **ARGUMENTS)


def test_a_batch_size_that_does_not_fit_is_left_out(whole, tmp_path):
    path, study = whole
    speed = kw.Throughput((20, 80), study.throughput.seconds, (0.1, 0.1), out_of_memory=(160,))
    settings = dataclasses.replace(study.settings, batch_sizes=(20, 80, 160))
    dataclasses.replace(study, throughput=speed, settings=settings).save(tmp_path / "study.json")
    found = kw.study(build, X, Y, path=tmp_path / "study.json", **{**ARGUMENTS, "batch_sizes": [20, 80, 160]})
    assert found.missing == ("Batch size 160: it does not fit into the memory.",)
    assert found.batch_sizes == (20, 80)


def test_what_was_not_found_is_said_again_where_it_goes_on(whole, tmp_path):
    path, study = whole
    dataclasses.replace(study, stable=None).save(tmp_path / "study.json")
    found = kw.study(build, X, Y, path=tmp_path / "study.json", **ARGUMENTS)
    assert found.missing[0].startswith("The largest stable learning rate: ")


def test_a_model_may_be_called_anything(whole, tmp_path):
    _, study = whole
    named = dataclasses.replace(study, facts={**study.facts, "model": "inf"})
    named.save(tmp_path / "study.json")
    assert kw.Study.load(tmp_path / "study.json").facts["model"] == "inf"


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"build": build()}, "`build`: expected a function that returns a compiled model."),
        ({"seeds": 0}, "`seeds`: expected a number, 1 or more."),
        ({"budget": 0}, "`budget`: expected a number, 1 or more."),
        (
            {"batch_sizes": [20, 1000]},
            "`batch_sizes`: expected whole numbers from 1 to the 320 training examples.",
        ),
        ({"batch_sizes": [20, 20]}, "`batch_sizes`: expected two different ones or more"),
        (
            {"build": lambda: build(keras.optimizers.SGD(gradient_accumulation_steps=2))},
            "`build`: expected one without accumulated gradients",
        ),
        ({"validation_data": X}, "`validation_data`: expected a pair of arrays"),
        ({"x": np.where(X > 2, np.nan, X)}, "`x`: expected finite numbers.\nReceived: "),
        ({"monitor": "f1"}, "`monitor`: expected one of 'accuracy', 'loss'"),
        ({"build": lambda: keras.Sequential([keras.layers.Dense(1)])}, "`model`: expected a compiled model."),
    ],
    ids=[
        "no function",
        "seeds",
        "budget",
        "batch sizes",
        "one batch size",
        "accumulation",
        "validation",
        "NaN",
        "monitor",
        "not compiled",
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(change, first):
    with pytest.raises((TypeError, ValueError)) as caught:
        kw.study(**{"build": build, "x": X, "y": Y, **ARGUMENTS, **change})
    assert str(caught.value).startswith(first)


def test_the_file_is_json_that_other_readers_take(whole):
    path, _ = whole

    def refused(word):
        raise AssertionError(f"{word} is not JSON")

    json.loads(path.read_text(), parse_constant=refused)
