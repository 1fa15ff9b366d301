"""A growing batch in place of a decay: the same learning rate per example at every point of the data."""

import warnings

import numpy as np
import pytest

import kwarmup
from kwarmup import Clock, Curve, Plan, PlanWarning, cosine, decay, exponential, hold, linear, warmup
from kwarmup.growth import in_examples

PROFILES = {
    "cosine": warmup(epochs=1) >> cosine(),
    "steps": warmup(steps=100) >> exponential(to=0.01),
    "linear, then held": hold(epochs=2) >> linear(to=0.1, fraction=0.5),
    "sqrt": warmup(start=0.1, epochs=1) >> hold(epochs=1) >> decay(shape="sqrt"),
    "jumps": hold(epochs=3) >> hold(0.2, epochs=2) >> hold(0.04),
    "up and down": warmup(epochs=1) >> cosine(epochs=3) >> warmup(epochs=1) >> cosine(),
}
NAMES = {name: getattr(kwarmup, name) for name in kwarmup.__all__}


def make(profile, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        return Plan(learning_rate=0.1 * profile, batch_size=64, examples=10_000, epochs=8, **changes)


# A decay that ends before training does is warned of, in the plan and in the one grown from it.
@pytest.mark.filterwarnings("ignore::kwarmup.PlanWarning")
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_learning_rate_per_example_is_that_of_the_decay(profile):
    plan = make(profile)
    grown = plan.grow_batch(max=1024)
    steps = np.arange(grown.clock.steps)
    # The decay, read where the growing batch has got to in the data.
    every_example = Clock(examples=10_000, epochs=8, batch_size=1)
    decayed = Curve(in_examples(plan.profile, plan.clock), every_example)(grown.clock.examples_at(steps))
    sizes = grown.clock.batch_size_at(steps)
    np.testing.assert_allclose(grown.curve(steps) / sizes, decayed / 64, rtol=0, atol=1e-12)
    assert sizes.min() == 64 and sizes.max() <= 1024
    assert grown.clock.steps < plan.clock.steps


def test_below_the_ceiling_the_learning_rate_stays_and_above_it_decays():
    grown = make(PROFILES["cosine"]).grow_batch(max=256)
    steps = np.arange(grown.clock.steps)
    rates, sizes = grown.curve(steps), grown.clock.batch_size_at(steps)
    growing = (sizes > 64) & (sizes < 256)
    # A size is a whole number, so the rate follows it to within half of one.
    assert abs(rates[growing] / 0.1 - 1).max() < 1 / 64
    assert rates[-1] < 0.001 and sizes[-1] == 256


def test_updates_of_the_papers_table_are_met():
    # Smith et al. 2018, section 5: 200 epochs of 50,000 examples, batch 128, drops by 5 at 60, 120, 160.
    drops = hold(epochs=60) >> hold(0.2, epochs=60) >> hold(0.04, epochs=40) >> hold(0.008, epochs=40)
    plan = Plan(learning_rate=0.1 * drops, batch_size=128, examples=50_000, epochs=200, drop_remainder=True)
    assert plan.clock.steps == pytest.approx(78_000, rel=1e-3)
    assert plan.grow_batch(max=128 * 125).clock.steps == pytest.approx(28_875, rel=5e-3)


def test_a_grown_plan_is_a_plan():
    grown = make(PROFILES["sqrt"]).grow_batch(max=512)
    assert Plan.from_json(grown.to_json()) == grown
    assert eval(repr(grown), NAMES) == grown


@pytest.mark.parametrize("multiple_of", [1, 8, 48])
@pytest.mark.parametrize("profile", [linear(to=10), cosine(to=10), exponential(to=10)], ids=repr)
def test_limits_and_multiples(profile, multiple_of):
    clock = Clock(
        examples=5_000,
        epochs=6,
        batch_size=24 * profile,
        multiple_of=multiple_of,
        min_batch_size=48,
        max_batch_size=192,
    )
    sizes = np.unique(clock.batch_size_at(np.arange(clock.steps)))
    assert (sizes[0], sizes[-1]) == (48, 192)
    assert len(sizes) >= 4 and not (sizes % multiple_of).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(min_batch_size=20, multiple_of=8), "`min_batch_size`: expected a multiple of 8"),
        (
            dict(max_batch_size=32, min_batch_size=64),
            "`max_batch_size`: expected a multiple of 1, 64 or more",
        ),
        (dict(max_batch_size=64, batch_size=32), "beside a batch size that is a profile"),
        (dict(max_batch_size=0), "`max_batch_size`: expected a whole number, 1 or more"),
    ],
)
def test_limits_that_cannot_hold_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Clock(**{**dict(examples=100, epochs=2, batch_size=16 * linear(to=4)), **changes})


@pytest.mark.parametrize(
    ("plan", "largest", "words"),
    [
        (lambda: make(cosine()), 32, "`max`: expected a whole number, 64 or more"),
        (
            lambda: make(cosine()).grow_batch(max=128),
            256,
            "`batch_size`: expected one whole number, to grow from",
        ),
        (lambda: make(kwarmup.inverse_sqrt(steps=10)), 256, "a growing batch changes the number of steps"),
    ],
)
def test_plans_that_cannot_grow_are_refused(plan, largest, words):
    with pytest.raises(ValueError, match=words):
        plan().grow_batch(max=largest)
