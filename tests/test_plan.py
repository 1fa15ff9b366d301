"""Plan: one frozen value; its table, JSON, warnings and what `fit` is told."""

import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

from kwarmup import SGD, Clock, Plan, PlanWarning, Schedule, cosine, hold, linear, warmup

PROFILE = 0.1 * (warmup(epochs=1) >> cosine())
ARGUMENTS = dict(learning_rate=PROFILE, batch_size=250, examples=1_000, epochs=3)


def silent(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        return Plan(**{**ARGUMENTS, **changes})


RAMP = silent(batch_size=100 * (hold(epochs=1) >> hold(2)), scaling=1, multiple_of=50)
ACCUMULATED = silent(batch_size=240, gradient_accumulation_steps=4, replicas=2, drop_remainder=True)


@pytest.mark.parametrize("plan", [silent(), RAMP, ACCUMULATED, silent(learning_rate=1)], ids=repr)
def test_a_plan_comes_back_from_its_repr_and_its_json(plan):
    names = dict(Plan=Plan, warmup=warmup, cosine=cosine, hold=hold)
    assert eval(repr(plan), names) == plan
    assert Plan.from_json(plan.to_json()) == plan
    assert hash(Plan.from_json(plan.to_json())) == hash(plan)
    assert set(json.loads(plan.to_json())) >= {"learning_rate", "batch_size", "examples", "epochs"}


def test_a_plan_with_a_schedule_of_keras_is_read_where_keras_is_not_imported_yet():
    plan = silent(learning_rate=warmup(epochs=1) >> keras.optimizers.schedules.CosineDecay(0.1, 8))
    assert Plan.from_json(plan.to_json()) == plan
    code = "import sys, kwarmup; assert 'keras' not in sys.modules; kwarmup.Plan.from_json(sys.argv[1])"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, plan.to_json()], check=True, timeout=120)


def test_a_saved_model_loads_where_keras_and_kwarmup_are_imported_and_nothing_else(tmp_path):
    plan = silent()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(SGD(plan.learning_rate, momentum=0.5 * hold()), "mse")
    model.save(tmp_path / "model.keras")
    code = "import keras, kwarmup, sys; print(keras.models.load_model(sys.argv[1]).optimizer.learning_rate)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "model.keras"], check=True, timeout=120)


def test_plans_differ_where_an_argument_does():
    plans = {silent(), RAMP, ACCUMULATED, silent(scaling=1), silent(epochs=4), silent(learning_rate=0.1)}
    assert len(plans) == 6


def test_a_plan_cannot_be_changed():
    with pytest.raises(AttributeError):
        silent().scaling = 1


def test_replace_makes_a_new_plan():
    plan = silent()
    assert plan.replace(epochs=6) == silent(epochs=6)
    assert plan.clock.epochs == 3


def test_the_learning_rate_is_the_bound_schedule():
    plan = silent()
    assert plan.learning_rate == Schedule(PROFILE, Clock(examples=1_000, epochs=3, batch_size=250))
    np.testing.assert_allclose(plan.learning_rate(np.arange(14)), plan.curve(np.arange(14)), atol=1e-8)


def test_scaling_moves_the_learning_rate_with_the_batch():
    # 10 updates of 100 examples, then 5 of 200 a pass.
    constant = silent(batch_size=100 * (hold(epochs=1) >> hold(2)), scaling=0, learning_rate=0.1)
    assert constant.curve(np.array([9, 10])).tolist() == [0.1, 0.1]
    assert constant.replace(scaling=1).curve(np.array([9, 10])).tolist() == [0.1, 0.2]
    np.testing.assert_allclose(constant.replace(scaling=0.5).curve(10), 0.1 * 2**0.5, rtol=1e-12)


def test_an_integer_learning_rate_is_a_float():
    assert silent(learning_rate=1).curve(0) == 1.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"epochs": 3, "steps_per_epoch": 4, "batch_size": 250}),
        # With accumulation Keras counts micro-batches.
        (dict(gradient_accumulation_steps=5), {"epochs": 3, "steps_per_epoch": 20, "batch_size": 50}),
        (dict(batch_size=300, drop_remainder=True), {"epochs": 3, "steps_per_epoch": 3, "batch_size": 300}),
        # Keras keeps the length of the first epoch, so passes of several lengths are one epoch.
        (dict(batch_size=100 * (hold(epochs=1) >> hold(2))), {"epochs": 1, "steps_per_epoch": 20}),
        (dict(batch_size=100 * hold()), {"epochs": 3, "steps_per_epoch": 10}),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_fit_arguments(changes, expected):
    assert silent(**changes).fit_arguments == expected


WARNED = {
    "peak": (dict(learning_rate=0.1 * warmup()), "The peak of 0.1 is never reached"),
    "zero": (
        dict(learning_rate=0.1 * (hold(0, steps=4) >> hold(1))),
        "The first 4 of 12 updates have a learning rate of 0",
    ),
    "end": (
        dict(learning_rate=0.1 * (warmup(epochs=1) >> linear(epochs=1))),
        "The last phase ends at update 8 of 12; from there on the learning rate stays at 0",
    ),
}


@pytest.mark.parametrize(("changes", "words"), WARNED.values(), ids=WARNED)
def test_a_doubtful_plan_warns(changes, words):
    with pytest.warns(PlanWarning, match=words):
        plan = Plan(**{**ARGUMENTS, **changes})
    assert sum(words in text for text in plan.warnings) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(learning_rate=0.1),
        dict(learning_rate=0.1 * (warmup(epochs=1) >> hold())),
        dict(learning_rate=0.1 * (warmup(steps=4) >> cosine(steps=8))),
        dict(learning_rate=0.1 * hold(0.5), batch_size=100 * (hold(epochs=1) >> hold(2)), scaling=1),
    ],
    ids=repr,
)
def test_a_sound_plan_does_not_warn(changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Plan(**{**ARGUMENTS, **changes}).warnings == ()


def test_the_table_has_a_row_for_each_phase_and_one_for_what_is_held():
    plan = silent(learning_rate=0.1 * (warmup(epochs=1) >> hold(steps=0) >> linear(to=0.5, epochs=1)))
    rows = [(row.phase, row.first, row.last, row.epochs) for row in plan.rows]
    assert rows == [
        ("warmup(epochs=1)", 0, 3, (0, 1)),
        ("linear(epochs=1, to=0.5)", 4, 7, (1, 2)),
        ("(held)", 8, 11, (2, 3)),
    ]
    assert plan.rows[1].learning_rates == pytest.approx((0.1, 0.0625))
    assert "12 updates, 3 epochs of 1,000 examples" in plan.table()


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (dict(batchsize=3), TypeError, "`batchsize`: expected one of drop_remainder"),
        (dict(learning_rate="0.1"), TypeError, "`learning_rate`: expected a profile or a number"),
        (
            dict(learning_rate=np.nan),
            ValueError,
            r"(?s)`learning_rate`: expected a finite number.*Write: 0\.1",
        ),
        (dict(learning_rate=-0.1), ValueError, "`learning_rate`: expected a peak of 0 or more"),
        (dict(examples=np.zeros((1000, 64))), TypeError, r"Received: a ndarray of shape \(1000, 64\)\n"),
        (dict(scaling=2), ValueError, "`scaling`: expected 0"),
        (dict(batch_size=0), ValueError, "`batch_size`: expected a whole number, 1 or more"),
        (dict(batch_size=30, replicas=4), ValueError, "batch_size=32"),
        (dict(learning_rate=warmup(epochs=4)), ValueError, "phases that fit into the run of 12 updates"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_arguments(changes, kind, words):
    with pytest.raises(kind, match=words):
        Plan(**{**ARGUMENTS, **changes})


@pytest.mark.parametrize("text", ["{}", "[]", '{"learning_rate": 1}'])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="expected the data of a plan"):
        Plan.from_json(text)


def test_text_that_is_no_json_is_refused_in_words():
    with pytest.raises(ValueError, match=r"`text`: expected the JSON text of a plan \(Expecting value"):
        Plan.from_json("hello")
