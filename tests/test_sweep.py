"""Suggestions: pure functions of the numbers of a sweep, on curves whose answer is known."""

import json
import math

import numpy as np
import pytest

from kwarmup import Suggestion, Sweep
from kwarmup.descent import divergence
from kwarmup.sweep import METHODS

RATES = np.geomspace(1e-7, 10, 100)
STEP = RATES[1] / RATES[0]
CENTRE, EXPLODES = 1e-3, 0.03


def losses(noise=0.0, seed=0, centre=CENTRE, rates=RATES):
    """2.3, falling to 0.3 along a logistic curve that is steepest at `centre`, and exploding from 0.03 on."""
    falls = 2.3 - 2.0 / (1 + (centre / rates) ** 1.5)
    explodes = np.where(rates > EXPLODES, 2.0 ** np.arange(len(rates)) / 2.0 ** np.sum(rates <= EXPLODES), 0)
    return falls + explodes + noise * np.random.default_rng(seed).normal(size=len(rates))


def sweep(rows, rates=RATES, **arguments):
    ends = [divergence(row) for row in rows]
    rows = [row if end is None else row[: end + 1] for row, end in zip(rows, ends, strict=True)]
    return Sweep(rates, rows, 32, **arguments)


CLEAN = sweep([losses()])


@pytest.mark.parametrize("method", ["steepest", "valley"])
def test_the_middle_of_a_symmetric_descent_is_found(method):
    assert CLEAN.suggest(method).learning_rate == pytest.approx(CENTRE, rel=STEP - 1)


def test_slide_is_half_its_width_below_the_steepest_place():
    assert CLEAN.suggest("slide").learning_rate == pytest.approx(CENTRE / 10**0.6, rel=2 * (STEP - 1))


def test_minimum_is_a_tenth_of_the_lowest_place():
    valley = 2 + (np.log10(RATES) + 2) ** 2 / 10  # a parabola, lowest at 0.01
    assert Sweep(RATES, [valley], 32).suggest("minimum").learning_rate == pytest.approx(1e-3, rel=STEP - 1)


def test_divergence_is_where_the_loss_begins_to_rise_for_good():
    assert CLEAN.divergence().learning_rate == pytest.approx(EXPLODES, rel=STEP - 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.01, 30.0])
def test_a_suggestion_moves_with_the_learning_rates(method, factor):
    moved = Sweep(factor * RATES, CLEAN.losses, 32)
    expected = factor * CLEAN.suggest(method).learning_rate
    assert moved.suggest(method).learning_rate == pytest.approx(expected, rel=1.01 * (STEP - 1))  # a tie


@pytest.mark.parametrize("method", METHODS)
def test_a_suggestion_does_not_depend_on_the_unit_of_the_loss(method):
    scaled, expected = sweep([7 * losses()]), CLEAN.suggest(method).learning_rate
    assert scaled.suggest(method).learning_rate == pytest.approx(expected, rel=1.01 * (STEP - 1))


@pytest.mark.parametrize("method", METHODS)
def test_how_fast_a_training_explodes_moves_nothing(method):
    row = np.array(CLEAN.losses[0])
    faster = sweep([np.where(row > 2.4, 1e6 * row, row)])
    expected = CLEAN.suggest(method).learning_rate
    assert faster.suggest(method).learning_rate == pytest.approx(expected, rel=2 * (STEP - 1))


@pytest.mark.parametrize("method", METHODS)
def test_noise_moves_a_suggestion_by_less_than_a_factor_of_2(method):
    found = [
        sweep([losses(0.2, 100 * seed + repeat) for repeat in range(5)]).suggest(method).learning_rate
        for seed in range(20)
    ]
    assert max(found) / min(found) <= 2
    assert np.median(found) == pytest.approx(CLEAN.suggest(method).learning_rate, rel=0.3)


def test_noise_alone_would_move_the_steepest_difference_of_two_losses():
    # Or the test above could not fail.
    raw = [RATES[np.argmin(np.diff(losses(0.2, seed)[:65]))] for seed in range(20)]
    assert max(raw) / min(raw) > 100


def test_a_linear_sweep_gives_the_same_place():
    rates = np.linspace(1e-5, 0.05, 1_000)
    found = sweep([losses(rates=rates)], rates).suggest("steepest").learning_rate
    assert found == pytest.approx(CENTRE, rel=0.25)


def test_the_interval_is_that_of_the_order_of_the_repeats():
    assert Suggestion.of([3.0, 1.0, 2.0], "steepest") == Suggestion(2.0, 1.0, 3.0, 0.75, "steepest")
    assert Suggestion.of([2.0], "valley") == Suggestion(2.0, 2.0, 2.0, 0.0, "valley")
    assert Suggestion.of([1.0, 4.0], "valley").learning_rate == 2
    many = Suggestion.of([float(i) for i in range(1, 21)], "valley")
    assert (many.low, many.high, round(many.confidence, 4)) == (6.0, 15.0, 0.9586)


def test_the_interval_holds_the_median_as_often_as_it_says():
    draws = np.random.default_rng(0).lognormal(size=(4_000, 7))
    found = [Suggestion.of(row, "steepest") for row in draws]
    held = np.mean([one.low <= 1 <= one.high for one in found])
    assert held == pytest.approx(found[0].confidence, abs=0.01)


@pytest.mark.parametrize(
    ("rows", "expected", "write"),
    [
        (
            [2.3 + 0.1 * np.random.default_rng(0).normal(size=100)],
            "losses that fall clearly further",
            "steps=400",
        ),
        ([losses(centre=100.0)], "learning rates that go higher", "high=1e+04"),
        ([np.array([2.3, 1e9, math.nan])], "learning rates that begin lower", "low=1e-10"),
        ([np.full(3, math.nan)], "a loss that is finite before the first update", "np.isfinite(x).all()"),
        ([], "a repeat that was not interrupted", "find_lr(model, x, y)"),
    ],
)
def test_where_there_is_nothing_to_find_it_is_said(rows, expected, write):
    if rows and len(rows[0]) == 100 and expected.startswith("learning rates that go"):
        rows = [np.minimum(rows[0], 2.3) - np.where(RATES > 0.1, np.log10(RATES) + 1, 0)]
    with pytest.raises(ValueError) as caught:
        sweep(rows).suggest()
    said = str(caught.value)
    assert said.startswith("`sweep`: expected ") and expected in said and write in said


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError) as caught:
        CLEAN.suggest("steep")
    assert str(caught.value) == (
        "`method`: expected one of 'steepest', 'valley', 'minimum', 'slide'.\nReceived: 'steep'\n"
        'Write: sweep.suggest("steepest")'
    )


def test_a_repeat_that_was_interrupted_does_not_count():
    rows = [losses(), losses()[:50]]
    assert sweep(rows, interrupted=True).suggest() == CLEAN.suggest()
    # One that had come to its end when Ctrl-C came does.
    assert sweep([losses(), losses()], interrupted=True).suggest().confidence == 0.5


@pytest.mark.parametrize(
    ("values", "ended"),
    [
        ([2.0] * 10, None),
        ([2.0, math.nan], 1),
        ([2.0, 1.0, math.inf, 1.0], 2),
        ([2.0] * 5 + [9.0] * 2 + [2.0] * 5, None),  # two hard batches
        ([2.0] * 5 + [9.0] * 3, 7),
        ([2.0] * 5 + [0.1] * 5 + [1.9] * 5, None),  # above its best, but not worse than untrained
        ([2.0] * 5 + [0.1] * 5 + [2.1] * 5, 12),
        ([-2.0] * 5 + [-8.0] * 5 + [-1.0] * 5, None),
        ([-2.0] * 5 + [-8.0] * 5 + [30.0] * 5, 12),
        ([], None),
    ],
)
def test_divergence_is_told_from_hard_batches(values, ended):
    assert divergence(values) == ended


def test_json_and_back():
    odd = Sweep([0.1, 0.2], [[1.0, math.nan], [math.inf], [-math.inf]], 8, interrupted=True)
    data = json.loads(odd.to_json(), parse_constant=pytest.fail)
    assert data["losses"] == [[1.0, "nan"], ["inf"], ["-inf"]]
    assert Sweep.from_json(odd.to_json()) == odd
    assert hash(Sweep.from_dict(CLEAN.to_dict())) == hash(CLEAN)
    assert repr(odd) == "<Sweep of 2 learning rates from 0.1 to 0.2, 3 repeats, batch size 8, interrupted>"


def test_other_data_is_refused():
    for data in ({"losses": []}, {**CLEAN.to_dict(), "losses": [["x"]]}, {**CLEAN.to_dict(), "more": 1}):
        with pytest.raises(ValueError, match="`data`: expected the data of a sweep"):
            Sweep.from_dict(data)


def test_the_picture_shows_the_losses_the_curves_and_the_suggestion(tmp_path):
    two = sweep([losses(0.1), losses(0.1, 1)])
    figure = two.plot(tmp_path / "sweep.png", method="valley")
    (axes,) = figure.axes
    assert (tmp_path / "sweep.png").stat().st_size > 5_000
    dots = [line for line in axes.get_lines() if line.get_marker() == "." and len(line.get_xdata())]
    np.testing.assert_array_equal(dots[1].get_ydata(), two.losses[1])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["batches", "smoothed, a repeat each", f"valley: {two.suggest('valley')}"]
    low, high = axes.get_ylim()
    assert low < 0.3 and 2.3 < high < 5  # the explosion is cut off


def test_a_picture_without_a_suggestion_is_the_losses():
    (axes,) = sweep([np.full(100, 2.3)]).plot().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["batches"]


def test_a_picture_of_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="a name that ends in .png"):
        CLEAN.plot("sweep.xyz")
    with pytest.raises(ValueError, match="`method`"):
        CLEAN.plot(method="steep")
