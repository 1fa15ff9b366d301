"""Plans from studies whose figures are known: each goal, and what overrules it."""

import dataclasses
import json
import math

import made_up
import numpy as np
import pytest

from kwarmup import Plan, Study
from kwarmup.studies.ramp import predicted_seconds
from kwarmup.studies.result import Noise


def sizes(plan):
    return plan.clock.batch_size if isinstance(plan.clock.batch_size, int) else None


def test_the_time_is_least_where_the_formula_says():
    # sqrt(1e-3 * 400 / 1e-5) = 200: of the powers of two the nearest is 256.
    study = made_up.study()
    advice = study.advise("time")
    assert sizes(advice.plan) == 256
    times = {size: made_up.seconds(size) * made_up.LEAST * (1 + 400 / size) for size in made_up.SIZES}
    assert min(times, key=times.get) in (128, 256) and times[256] < 1.1 * min(times.values())
    words = {reason.part: reason for reason in advice.reasons}
    assert "= 200." in words["batch size"].why and "1.00 ms and 10 µs" in words["batch size"].why
    assert study.recommend() == advice.plan
    for reason in advice.reasons:
        assert reason.choice in str(advice) and reason.why in str(advice)
    assert str(advice).endswith(repr(advice.plan))


def test_the_peak_follows_the_rule_and_warmup_begins_below_what_is_stable():
    plan = made_up.study().recommend()
    assert plan.profile.peak == pytest.approx(0.1 * 256 / 32)
    assert plan.curve(0) == pytest.approx(0.5 * 0.05, rel=0.05)
    assert plan.curve(plan.clock.step_at(fraction=0.1)) == pytest.approx(0.8, rel=0.02)
    assert plan.curve(plan.clock.steps) == 0
    assert (plan.clock.examples, plan.clock.epochs) == (made_up.EXAMPLES, 10)
    assert made_up.study().recommend(epochs=3).clock.epochs == 3


def test_adam_warms_up_as_long_as_its_second_moments_remember():
    adam = made_up.study(facts={"beta_2": 0.99})
    plan = adam.recommend(epochs=100)
    assert np.argmax(plan.curve(np.arange(plan.clock.steps))) == 200  # round(2 / (1 - 0.99))
    short = adam.recommend(epochs=2)
    assert np.argmax(short.curve(np.arange(short.clock.steps))) <= short.clock.steps // 4


def test_the_square_root_rule_where_the_study_had_it():
    study = made_up.study()
    settings = dataclasses.replace(study.settings, scaling=0.5)
    runs = tuple(dataclasses.replace(r, peak=0.1 * math.sqrt(r.batch_size / 32)) for r in study.runs)
    plan = dataclasses.replace(study, settings=settings, runs=runs).recommend()
    assert plan.profile.peak == pytest.approx(0.1 * math.sqrt(256 / 32), rel=0.01)


def growing(*scales):
    """A study whose noise scale is at these values behind 0, 25,000, 26,000 and 50,000 examples."""
    places = zip((0, 25_000, 26_000, 50_000), (0.1, 0.3, 0.5, 0.85), scales, strict=True)
    return made_up.study(
        noise=tuple(Noise(place, value, made_up.noise(scale)) for place, value, scale in places)
    )


def test_a_noise_scale_that_grows_makes_the_batch_grow():
    study = growing(4.0, 4.0, 100.0, 400.0)
    plan = study.recommend()
    found = (
        plan.clock.batch_size_at(plan.clock.step_at(examples=0)),
        plan.clock.batch_size_at(plan.clock.steps - 1),
    )
    assert found == (16, 256) and plan.scaling == 1  # sqrt(1e5 * 4 / 1e3) = 20
    assert plan.clock.batch_size_at(plan.clock.step_at(examples=30_000)) == 128
    # The learning rate for each example is that of the rule, whatever the batch.
    assert plan.profile.peak / 16 == pytest.approx(0.1 / 32, rel=0.01)
    assert "so the batch begins at 16 and grows with it" in study.advise().reasons[0].why


def test_a_batch_that_grows_without_gaining_a_tenth_is_not_advised():
    # A little growth, soon behind the beginning: the first thousands of examples are all that could be gained.
    study = growing(90.0, 300.0, 350.0, 400.0)
    assert sizes(study.recommend()) == 256
    why = study.advise().reasons[0].why
    assert "a batch that begins at 128 and grows with it is predicted to take" in why
    assert why.endswith("a difference of less than 10 %, and so the batch stays.")
    noise = [(place.examples, place.scale.value) for place in study.noise]
    small, large = (
        predicted_seconds(noise, 32, steps, made_up.FIXED, made_up.PER_EXAMPLE)
        for steps in ([(0, 128), (25_000, 256)], [(0, 256)])
    )
    assert large / 1.1 < small and f"{small:.3g} s to the target, and 256 throughout {large:.3g} s" in why


def test_the_warmup_is_no_longer_than_the_one_that_was_seen_to_do():
    # The study's own trainings see 100,000 examples and warm up over 10,000 of them: 39 updates.
    study = made_up.study()
    advice = study.advise(epochs=100)
    rates = advice.plan.curve(np.arange(advice.plan.clock.steps))
    assert np.argmax(rates) == 39 and advice.reasons[2].choice == "39 updates"
    assert (
        "of the 3 at batch size 256 none diverged with it. 5 % of the run would be 195 updates."
        in advice.reasons[2].why
    )
    # For other goals, and where one diverged, it is the usual share of the run.
    runs = tuple(
        made_up.run(s, seed, diverged=s == 256 and not seed) for s in made_up.SIZES for seed in range(3)
    )
    for plan in (study.recommend("quality", epochs=100), made_up.study(runs).recommend(epochs=100)):
        assert np.argmax(plan.curve(np.arange(plan.clock.steps))) == pytest.approx(
            0.05 * plan.clock.steps, abs=1
        )


def test_the_run_is_as_long_as_the_trainings_and_long_enough_for_a_rate_that_falls():
    study = made_up.study()
    settings = dataclasses.replace(study.settings, run_examples=101_000)
    assert dataclasses.replace(study, settings=settings).recommend("quality").clock.epochs == 11
    # 256 needs 40 (1 + 400 / 256) updates, and 2 % more in the median seed; the mean of a falling rate is half of it.
    settings = dataclasses.replace(study.settings, run_examples=30_000)
    advice = dataclasses.replace(study, settings=settings).advise()
    assert (
        advice.plan.clock.epochs == 6
        and "twice the 26,884 that batch size 256 needed" in advice.reasons[3].why
    )
    assert dataclasses.replace(study, settings=settings).recommend("quality").clock.epochs == 3
    assert "In a run 5 times as long the rate falls later" in study.advise(epochs=50).reasons[3].why


def test_a_stopwatch_that_tells_every_seed_apart_overrules_the_formula():
    slow = [
        made_up.run(s, seed, updates=300 if s == 256 else None) for s in made_up.SIZES for seed in range(3)
    ]
    advice = made_up.study(slow).advise("time")
    assert sizes(advice.plan) != 256 and "But by the stopwatch" in advice.reasons[0].why
    # One seed cannot tell anything apart.
    assert sizes(made_up.study([run for run in slow if run.seed == 0]).recommend()) == 256


def test_numbers_are_written_for_a_reader():
    study = made_up.study(scales=(1234.0, 1234.0, 1234.0))
    noise = tuple(place._replace(value=0.1) for place in study.noise)
    why = dataclasses.replace(study, noise=noise).advise().reasons[0].why
    assert "the noise scale at the end of the first training, short of the target, is 1,230;" in why


def test_examples():
    # A tenth of the critical batch size, 40.
    plan = made_up.study().recommend("examples")
    assert sizes(plan) == 32


def test_memory():
    # (1e-3 + 1e-5 B)(1 + 400 / B) is 7.9 at 16 .. 3.4 at 64, 2.9 at 128, 2.6 at 256, in 1e-3.
    times = {s: made_up.seconds(s) * (1 + 400 / s) for s in made_up.SIZES}
    smallest = min(s for s in times if times[s] <= 1.5 * min(times[s] for s in times))
    assert sizes(made_up.study().recommend("memory")) == smallest


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 512),  # all alike: the largest
        ({512: 0.8, 256: 0.85}, 128),
        ({16: 0.95}, 16),
    ],
    ids=["no difference", "large ones worse", "one better"],
)
def test_quality(values, expected):
    runs = [
        made_up.run(s, seed, validation=values.get(s, 0.9) + 0.001 * seed * (-1) ** s)
        for s in made_up.SIZES
        for seed in range(3)
    ]
    assert sizes(made_up.study(runs).recommend("quality")) == expected


def test_batch_sizes_that_diverge_are_not_advised():
    runs = [made_up.run(s, seed, diverged=s > 64) for s in made_up.SIZES for seed in range(3)]
    assert sizes(made_up.study(runs).recommend()) == 64
    with pytest.raises(ValueError, match="a study in which every training diverged"):
        made_up.study([made_up.run(64, diverged=True)]).recommend()


def test_where_nothing_came_to_the_target_the_noise_scale_speaks_alone():
    runs = [made_up.run(s, seed, reaches=False) for s in made_up.SIZES for seed in range(3)]
    study = made_up.study(runs)
    assert study.tradeoff is None and sizes(study.recommend()) == 256
    assert "No training came to the target" in study.advise().reasons[0].why
    with pytest.raises(
        ValueError, match="expected a noise scale, or updates to the target at three batch sizes"
    ):
        made_up.study(runs, noise=()).recommend()


def test_without_a_noise_scale_the_critical_batch_size_of_the_fit_counts():
    study = made_up.study(noise=())
    assert study.tradeoff.critical_batch_size == pytest.approx(400, rel=0.1)
    assert sizes(study.recommend()) == 256


def test_own_peaks():
    runs = [
        made_up.run(s, seed, factor=factor, updates=None if factor == 0.5 else 500)
        for s in made_up.SIZES for seed in range(3) for factor in (0.5, 1.0)
    ]  # fmt: skip
    advice = made_up.study(runs).advise()
    assert advice.plan.profile.peak == pytest.approx(0.5 * 0.1 * 256 / 32)
    assert "0.5 times was best" in advice.reasons[1].why


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ({"goal": "speed"}, "`goal`: expected one of 'time', 'examples', 'memory', 'quality'."),
        ({"epochs": 0}, "`epochs`: expected a whole number, 1 or more."),
        ({"epochs": 1.5}, "`epochs`: expected a whole number, 1 or more."),
    ],
    ids=["goal", "zero", "fraction"],
)
def test_what_is_wrong_is_said(arguments, first):
    with pytest.raises(ValueError) as caught:
        made_up.study().advise(**arguments)
    assert str(caught.value).startswith(first)


def test_a_study_comes_back_from_its_file(tmp_path):
    study = made_up.study()
    study.save(tmp_path / "deep" / "study.json")
    assert Study.load(tmp_path / "deep" / "study.json") == study
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "study.json"]
    assert Plan.from_json(study.recommend().to_json()) == study.recommend()
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match="`data`: expected the data of a study"):
        Study.load(tmp_path / "other.json")
    (tmp_path / "other.json").write_text("{")
    with pytest.raises(ValueError, match="`path`: expected the JSON file of a study"):
        Study.load(tmp_path / "other.json")


def test_numbers_that_are_not_finite_are_written_as_json_knows_them(tmp_path):
    endless = made_up.study(scales=(400.0, 400.0, math.inf))
    endless.save(tmp_path / "study.json")
    json.loads((tmp_path / "study.json").read_text(), parse_constant=pytest.fail)
    assert Study.load(tmp_path / "study.json") == endless


def test_updates_and_seconds_to_the_target():
    study = made_up.study()
    found = study.updates_to_target(64)
    assert found.low == pytest.approx(40 * (1 + 400 / 64), rel=0.01) and (found.reached, found.seeds) == (
        3,
        3,
    )
    assert study.seconds_to_target(64).low == pytest.approx(found.low * made_up.seconds(64), rel=0.01)
    assert study.spread(64, study.gap).median == pytest.approx(0.05)
    assert study.noise_at_target.value == 400
