"""Which plans a search chooses among: the rule, the budgets, the phases, the beginning."""

import re

import keras_tuner
import numpy as np
import pytest

from kwarmup import (
    Plan,
    Sweep,
    cosine,
    equal_examples,
    equal_time,
    equal_updates,
    follow_noise,
    hold,
    linear,
    warmup,
)
from kwarmup.measure.noise_scale import NoiseScale
from kwarmup.searches import space as spaces
from kwarmup.searches.budget import passes
from kwarmup.searches.space import Space
from kwarmup.step_time import StepTime

PLAN = Plan(learning_rate=0.5 * (warmup(epochs=1) >> cosine()), batch_size=100, examples=10_000, epochs=10)


def space(plan=PLAN, peak=(0.01, 1.0), batch_size=(50, 100, 400), **more):
    made = {"warmup": None, "decay": None, "scaling": None, "budget": equal_examples, **more}
    return spaces.make(plan, peak, list(batch_size), **made)


@pytest.mark.parametrize(
    ("size", "scaling", "rule", "peak"),
    [
        (100, None, 1.0, 0.2),  # at the reference, as it was told
        (400, None, 1.0, 0.8),  # SGD: linear
        (400, None, 0.5, 0.4),  # Adam: square root
        (50, None, 1.0, 0.1),
        (400, 0, 1.0, 0.2),  # what is asked for overrules the optimizer
        (400, 0.5, 1.0, 0.4),
    ],
)
def test_the_rule_carries_the_peak(size, scaling, rule, peak):
    plan = space(scaling=scaling).plan_of({"peak": 0.2, "batch_size": size}, rule)
    assert plan.profile.peak == pytest.approx(peak)
    assert plan == PLAN.replace(learning_rate=(peak / 0.5) * PLAN.profile, batch_size=size)


@pytest.mark.parametrize(
    ("budget", "epochs"),
    [
        (equal_examples, {50: 10, 100: 10, 400: 10}),
        (equal_updates, {50: 5, 100: 10, 400: 40}),
        # 1 ms and 10 µs for each example: a pass takes 200 · 1.5, 100 · 2 and 25 · 5 ms.
        (equal_time(StepTime(1e-3, 1e-5, (1e-3, 1e-3), (1e-5, 1e-5), 0.0)), {50: 7, 100: 10, 400: 16}),
        (lambda plan, size: 3 * size / 100, {100: 3, 400: 12, 200: 6}),
    ],
    ids=["examples", "updates", "time", "of one's own"],
)
def test_budgets(budget, epochs):
    made = space(budget=budget, batch_size=epochs)
    found = {size: made.plan_of({"peak": 0.1, "batch_size": size}, 1.0).clock.epochs for size in epochs}
    assert found == epochs


#: 1 ms, and 10 µs for each example.
TIME = StepTime(1e-3, 1e-5, (1e-3, 1e-3), (1e-5, 1e-5), 0.0)
RAMP = 10 * (hold(epochs=2) >> hold(2, epochs=2) >> hold(4))


def moving(batch_size=RAMP, **more):
    return Plan(**{"learning_rate": cosine(), "batch_size": batch_size, "examples": 200, "epochs": 6, **more})


def seconds(plan):
    """The time of all updates, one by one."""
    micro = np.concatenate([plan.clock.micro_batches(epoch) for epoch in range(plan.clock.epochs)])
    return sum(TIME.seconds(size) for size in micro)


@pytest.mark.parametrize("budget", [equal_updates, equal_time(TIME)], ids=["updates", "time"])
@pytest.mark.parametrize(
    "plan",
    [
        moving(48, examples=190, epochs=12, drop_remainder=True),
        moving(48, examples=190, epochs=7),
        moving(64, examples=10, gradient_accumulation_steps=4),
        moving(),
        moving(10.4 * (linear(to=3, epochs=3) >> hold()), drop_remainder=True),
        moving(10 * linear(to=4), multiple_of=5, max_batch_size=30),
        moving(10 * (hold(steps=30) >> hold(3))),
    ],
    ids=["drop_remainder", "a part of a batch", "accumulation", "holds", "ramp", "limits", "steps"],
)
def test_the_reference_has_its_own_passes(plan, budget):
    assert budget(plan, int(plan.clock.batch_size_at(0))) == plan.clock.epochs


@pytest.mark.parametrize(
    ("budget", "cost", "passes"),
    [
        # 20 + 20 + 10 + 10 + 5 + 5 updates; of the trial 10 + 10 + 5 + 5, and 3 in each further pass.
        (equal_updates, lambda plan: plan.clock.steps, 4 + 40 / 3),
        # 70 ms for these updates, and 12 for the examples; of the trial 30 + 8, and 3 + 2 in each further pass.
        (equal_time(TIME), seconds, 12.8),
    ],
    ids=["updates", "time"],
)
def test_a_batch_size_that_moves_costs_what_its_own_passes_do(budget, cost, passes):
    exact = budget(moving(), 20)
    assert exact == pytest.approx(passes)
    made = space(moving(), batch_size=[20], budget=lambda plan, size: int(exact))
    shorter = made.plan_of({"peak": 0.1, "batch_size": 20}, 1.0)
    assert [row.batch_sizes[0] for row in shorter.rows] == [20]
    assert [shorter.clock.batch_size_at(shorter.clock.step_at(epochs=n)) for n in (0, 2, 4)] == [20, 40, 80]
    longer = shorter.replace(epochs=int(exact) + 1)
    assert cost(shorter) < cost(moving()) < cost(longer)
    assert exact % 1 == pytest.approx((cost(moving()) - cost(shorter)) / (cost(longer) - cost(shorter)))


@pytest.mark.parametrize("size", [9, 10, 13, 25, 60, 190])
@pytest.mark.parametrize(
    "batch_size", [10, RAMP, 10 * linear(to=6), 10 * (linear(to=0.5, epochs=3) >> hold())], ids=str
)
def test_passes_are_between_those_that_cost_less_and_more(size, batch_size):
    plan = moving(batch_size, examples=190, epochs=9)
    made = space(plan, batch_size=[10])
    exact = equal_updates(plan, size)

    def updates(epochs):
        longer = Space(plan, made.peak, (size,), (), (), None, lambda *_: epochs)
        return longer.plan_of({"peak": 0.1, "batch_size": size}, 1.0).clock.steps

    below, above = int(np.ceil(exact)) - 1, int(np.ceil(exact))
    least = updates(below) if below else 0
    assert least < plan.clock.steps <= updates(above)
    assert exact == pytest.approx(below + (plan.clock.steps - least) / (updates(above) - least))


def test_phases_of_the_batch_size_that_do_not_fit_into_a_budget_are_said():
    with pytest.raises(ValueError, match=r"2\.33 passes at batch size 5(?s:.)*") as caught:
        equal_updates(moving(), 5)
    assert "4 passes or more, into which the phases of the batch size fit" in str(caught.value)
    (epochs,) = re.findall(r"plan\.replace\(epochs=(\d+)\)", str(caught.value))
    assert passes(equal_updates, moving(epochs=int(epochs)), 5) == 4
    # One that rounding makes fit is not refused.
    assert passes(equal_updates, moving(), 8) == 4
    with pytest.raises(ValueError, match="sizes that divide by gradient_accumulation_steps"):
        equal_updates(moving(8, gradient_accumulation_steps=4), 10)


def test_a_budget_that_rounding_would_miss_is_refused():
    with pytest.raises(
        ValueError, match=r"2\.5 passes at batch size 50.*(?s:.)*Write: plan\.replace\(epochs="
    ):
        passes(equal_updates, PLAN.replace(epochs=5), 50)
    with pytest.raises(ValueError, match="0 passes"):
        passes(lambda plan, size: 0, PLAN, 50)


def test_phases_in_passes_and_fractions_keep_their_meaning():
    plan = PLAN.replace(learning_rate=warmup(fraction=0.2) >> hold(epochs=5) >> linear())
    for size in (50, 400):
        clock = space(plan).plan_of({"peak": 1.0, "batch_size": size}, 1.0)
        ends = [row.epochs[1] for row in clock.rows]
        assert ends == [2.0, 7.0, 10.0]


def test_warmups_and_decays_are_chosen_among():
    warmups, decays = [warmup(epochs=2), warmup(epochs=3, start=0.1)], [linear(), hold()]
    hp = keras_tuner.HyperParameters()
    made = space(warmup=warmups, decay=decays)
    made.declare(hp, {})
    assert {name: type(value) for name, value in hp.values.items()} == {
        "peak": float, "batch_size": int, "warmup": str, "decay": str
    }  # fmt: skip
    values = {"peak": 0.1, "batch_size": 100, "warmup": repr(warmups[1]), "decay": "hold()"}
    assert repr(made.plan_of(values, 1.0).profile) == "0.1 * (warmup(epochs=3, start=0.1) >> hold())"
    assert repr(space(decay=decays).plan_of(values, 1.0).profile) == "0.1 * (warmup(epochs=1) >> hold())"
    assert (
        repr(space(warmup=warmups).plan_of(values, 1.0).profile)
        == "0.1 * (warmup(epochs=3, start=0.1) >> cosine())"
    )
    bare = space(PLAN.replace(learning_rate=cosine()), warmup=warmups)
    assert repr(bare.plan_of(values, 1.0).profile) == "0.1 * (warmup(epochs=3, start=0.1) >> cosine())"


def test_a_growing_batch_grows_from_each_size():
    grows = PLAN.replace(batch_size=100 * (hold(epochs=5) >> hold(2)))
    plan = space(grows).plan_of({"peak": 0.1, "batch_size": 400}, 1.0)
    assert [plan.clock.batch_size_at(0), plan.clock.batch_size_at(plan.clock.steps - 1)] == [400, 800]


def test_the_space_is_logarithmic_in_the_peak():
    hp = keras_tuner.HyperParameters()
    space().declare(hp, {})
    peak = next(entry for entry in hp.space if entry.name == "peak")
    assert [peak.prob_to_value(p) for p in (0, 0.5, 1)] == pytest.approx([0.01, 0.1, 1.0])


def test_it_begins_where_measurements_point():
    sweep = Sweep(tuple(10 ** (n / 20 - 5) for n in range(100)), _falls(), batch_size=25)
    noise = NoiseScale(300.0, (250.0, 350.0), 1.0, 1.0, 1000, 10, True, "")
    suggested = sweep.suggest().learning_rate
    assert space().start(None, noise, 1.0) == {"batch_size": 400}
    found = space(peak=(1e-6, 100)).start(sweep, None, 1.0)
    assert found["batch_size"] == 100 and found["peak"] == pytest.approx(4 * suggested, rel=1e-5)
    assert space(peak=(1e-6, 100)).start(sweep, None, 0.5)["peak"] == pytest.approx(2 * suggested, rel=1e-5)
    assert space(peak=(1e-9, 1e-8)).start(sweep, noise, 1.0) == {"peak": 1e-8, "batch_size": 400}
    assert space().start(None, None, 1.0) == {}


def _falls():
    rates = [10 ** (n / 20 - 5) for n in range(100)]
    return (tuple(2.3 / (1 + (rate / 0.01)) + (rate > 0.5) * rate for rate in rates),) * 3


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"plan": 1}, TypeError, "`plan`: expected a Plan"),
        ({"plan": PLAN.replace(batch_size=follow_noise(start=50, max=99))}, ValueError, "plan.replace(batch_size=64)"),
        ({"peak": 0.1}, TypeError, "`peak`: expected the smallest and the largest learning rate"),
        ({"peak": (1.0, 0.1)}, ValueError, "two numbers above 0, the smaller one first"),
        ({"peak": (0, 0.1)}, ValueError, "Received: (0, 0.1)"),
        ({"batch_size": ()}, TypeError, "a list of batch sizes"),
        ({"batch_size": (50, 20_000)}, ValueError, "the plan's 10,000 examples.\nReceived: 20000"),
        ({"batch_size": (0.5,)}, ValueError, "`batch_size`: expected whole numbers"),
        ({"warmup": warmup(epochs=1)}, TypeError, "`warmup`: expected a list of profiles"),
        ({"decay": [0.1 * cosine()]}, TypeError, "`decay`: expected profiles without a peak in front"),
        ({"budget": 10}, TypeError, "budget=equal_updates)"),
        ({"warmup": [warmup(steps=300)]}, ValueError, "300"),  # more than a run at batch size 400 has
        ({"plan": PLAN.replace(gradient_accumulation_steps=100)}, ValueError, "50"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_trained(arguments, kind, words):
    with pytest.raises(kind) as caught:
        space(**arguments)
    assert words in str(caught.value)
