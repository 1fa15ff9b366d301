"""A batch size that follows the noise scale: the rule as a pure function, and a plan that has one."""

import json
import math
import warnings

import keras
import numpy as np
import pytest

from kwarmup import Checkpoints, Guard, Plan, PlanWarning, cosine, follow_noise, hold, inverse_sqrt, warmup
from kwarmup.following import Decision, batch_size_from_dict

RULE = follow_noise(start=32, max=1024)


def make_plan(batch_size=RULE, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        arguments = dict(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), examples=960, epochs=4)
        return Plan(batch_size=batch_size, **{**arguments, **changes})


# The rule.


@pytest.mark.parametrize(
    ("rule", "unit", "sizes"),
    [
        (RULE, 1, [32, 64, 128, 256, 512, 1024]),
        (follow_noise(32, 1000), 1, [32, 64, 128, 256, 512, 1000]),
        (follow_noise(32, 1000), 32, [32, 64, 128, 256, 512, 992]),
        (follow_noise(32, 32), 1, [32]),
        (follow_noise(10, 40, factor=1.5), 1, [10, 15, 23, 34, 40]),
        (follow_noise(10, 40, factor=1.5), 10, [10, 20, 30, 40]),
        (follow_noise(1, 4, factor=1.01), 1, [1, 2, 3, 4]),
        (follow_noise(32, 1024, factor=100), 1, [32, 1024]),
    ],
)
def test_the_sizes_it_may_lead_to(rule, unit, sizes):
    assert rule.sizes(unit) == sizes
    assert [rule.needed(size, unit) for size in sizes] == [*sizes[1:], None]


@pytest.mark.parametrize(
    ("size", "least", "after"),
    [
        (32, 0.0, 32),
        (32, 63.99, 32),  # above the batch, but not yet above the next one
        (32, 64.0, 64),
        (32, 700.0, 512),  # several at once
        (32, 1e12, 1024),
        (256, 100.0, 256),  # never a smaller one
        (1024, 5000.0, 1024),
        (48, 64.0, 64),  # from a size that is none of its own
        (32, math.nan, 32),
        (32, math.inf, 32),
        (32, -math.inf, 32),
    ],
)
def test_the_size_behind_a_measurement(size, least, after):
    assert RULE.after(size, least) == after


def test_a_rule_is_a_value():
    other = follow_noise(start=10, max=40, factor=1.5)
    for rule in (RULE, other):
        assert eval(repr(rule), {"follow_noise": follow_noise}) == rule
        assert batch_size_from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    assert len({RULE, other, follow_noise(32, 1024, 2.0), follow_noise(32, 1024, 4)}) == 3
    with pytest.raises(AttributeError):
        RULE.max = 2048


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Decision(3, 210.0, (140.2, 330.0), 32, 128, 64), "140.2 or more: the batch grows from 32 to 128."),
        (
            Decision(3, 80.0, (40.0, math.inf), 32, 32, 64),
            "40 or more, but not for sure 64 or more: the batch stays at 32.",
        ),
        (Decision(0, math.nan, (0.0, math.inf), 32, 32, 64), "is not known yet: the batch stays at 32."),
        (Decision(3, 9e3, (5e3, 1e4), 1024, 1024, None), "as large as it may be: it stays at 1,024."),
    ],
)
def test_a_decision_says_why(decision, words):
    assert decision.reason.endswith(words)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (dict(start=0, max=8), ValueError, "`start`: expected a whole number, 1 or more"),
        (dict(start=2.5, max=8), ValueError, "`start`: expected a whole number, 1 or more"),
        (dict(start="32", max=8), TypeError, "`start`: expected a real number"),
        (
            dict(start=64, max=32),
            ValueError,
            r"(?s)`max`: expected a whole number, 64 or more.*follow_noise\(start=64, max=2048\)",
        ),
        (dict(start=32, max=64, factor=1), ValueError, "`factor`: expected a number above 1"),
        (dict(start=32, max=64, factor=math.nan), ValueError, "`factor`: expected a finite number"),
    ],
)
def test_numbers_out_of_range(arguments, kind, words):
    with pytest.raises(kind, match=words):
        follow_noise(**arguments)


# A plan that has one.


def test_a_plan_keeps_its_rule():
    plan = make_plan(scaling=1)
    names = dict(Plan=Plan, warmup=warmup, cosine=cosine, follow_noise=follow_noise)
    assert eval(repr(plan), names) == plan
    assert "batch_size=follow_noise(start=32, max=1024)" in repr(plan)
    read = Plan.from_json(plan.to_json())
    assert read == plan and hash(read) == hash(plan) and read.follows == RULE
    assert plan != plan.replace(batch_size=32) and plan != plan.replace(batch_size=follow_noise(32, 512))
    assert plan.replace(epochs=8).follows == RULE
    assert plan.replace(batch_size=32).follows is None


def test_until_it_is_measured_the_batch_has_its_first_size():
    plan = make_plan()
    assert plan.clock == make_plan(32).clock and plan.learning_rate == make_plan(32).learning_rate
    assert {row.batch_sizes for row in plan.rows} == {(32, 32)}
    assert plan.table().count("32 or more") == 2
    assert plan.table().endswith(
        "120 updates at most, 4 epochs of 960 examples; the batch grows with the noise, up to 1,024"
    )
    assert plan.plot().axes[0].get_title() == "batch size 32, to grow with the noise up to 1,024"
    assert make_plan(32).plot().axes[0].get_title() == ""


def uses():
    zeros = np.zeros((960, 1))
    plan = make_plan()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    yield "fit_arguments", lambda: plan.fit_arguments
    yield "batches", lambda: plan.batches(zeros)
    yield "Checkpoints", lambda: Checkpoints("never made", plan, model)
    yield (
        "Guard",
        lambda: model.fit(zeros, zeros, batch_size=32, verbose=0, callbacks=[Guard(plan)]),
    )


def test_only_plan_fit_can_follow_it():
    for name, use in uses():
        with pytest.raises(ValueError, match="expected one that is known before training") as caught:
            use()
        assert "Write: plan.fit(model, x, y)" in str(caught.value), name


def test_a_decay_cannot_be_turned_into_a_batch_that_is_measured():
    with pytest.raises(ValueError, match="`batch_size`: expected one whole number, to grow from"):
        make_plan().grow_batch(max=1024)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(replicas=2), "`replicas`: expected 1 with batch_size=follow_noise"),
        (dict(multiple_of=5), r"(?s)`start`: expected a multiple of 5.*follow_noise\(start=30, max=1024\)"),
        (dict(gradient_accumulation_steps=3), "sizes that divide by gradient_accumulation_steps"),
        (dict(drop_remainder=True), "`drop_remainder`: expected micro-batches of at most 960 examples"),
        (dict(max_batch_size=512), "`max_batch_size`: expected a multiple of 1, 0 or more, beside a batch"),
    ],
)
def test_what_the_clock_cannot_do_is_refused_at_once(changes, words):
    with pytest.raises(ValueError, match=words):
        make_plan(**changes)


def test_sizes_that_the_clock_rounds():
    plan = make_plan(follow_noise(30, 1000), multiple_of=5, gradient_accumulation_steps=2)
    assert plan.follows.sizes(10) == [30, 60, 120, 240, 480, 960, 1000]


def test_a_plan_is_made_without_keras_too():
    assert (
        make_plan(learning_rate=0.1 * inverse_sqrt(steps=32)).follows == RULE
    )  # refused where it would grow
    assert make_plan(32 * hold()).follows is None
