"""The line through the seconds of an update: planted parts, their intervals, and what follows from a throughput."""

import numpy as np
import pytest

from kwarmup import StepTime, Throughput
from kwarmup.step_time import fit_step_time

SIZES = (8, 32, 128, 512, 2048)
FIXED, PER_EXAMPLE = 1e-3, 4e-6


def rows(seed=0, repeats=5, scatter=0.0, fixed=FIXED, per_example=PER_EXAMPLE):
    draw = np.random.default_rng(seed)
    return (fixed + per_example * np.array(SIZES)) * np.exp(scatter * draw.normal(size=(repeats, len(SIZES))))


def test_the_planted_line_is_found():
    found = fit_step_time(SIZES, rows())
    assert found.fixed == pytest.approx(FIXED) and found.per_example == pytest.approx(PER_EXAMPLE)
    assert found.error < 1e-9
    assert found.fixed_interval == pytest.approx((FIXED, FIXED))
    assert found.seconds(1000) == pytest.approx(0.005)
    assert found.examples_per_second(1000) == pytest.approx(200_000)


@pytest.mark.parametrize("repeats", [2, 3, 5, 9])
def test_the_intervals_hold_what_is_planted(repeats):
    held = np.zeros(2)
    for seed in range(200):
        found = fit_step_time(SIZES, rows(seed, repeats, scatter=0.05))
        held += [
            found.fixed_interval[0] <= FIXED <= found.fixed_interval[1],
            found.per_example_interval[0] <= PER_EXAMPLE <= found.per_example_interval[1],
        ]
    assert (held >= 0.9 * 200).all() and (held <= 0.99 * 200).all(), held


def test_one_repeat_tells_no_width():
    found = fit_step_time(SIZES, rows(repeats=1, scatter=0.05))
    assert found.fixed_interval == (found.fixed,) * 2


def test_one_slow_repeat_moves_nothing():
    slow = rows()
    slow[2] *= 10
    assert fit_step_time(SIZES, slow).fixed == pytest.approx(FIXED)


@pytest.mark.parametrize(("fixed", "per_example"), [(0.0, 1e-6), (1e-3, 0.0)])
def test_no_part_is_negative(fixed, per_example):
    found = [fit_step_time(SIZES, rows(seed, 3, 0.1, fixed, per_example)) for seed in range(20)]
    assert min(one.fixed for one in found) >= 0 and min(one.per_example for one in found) >= 0
    assert min(one.fixed if fixed == 0 else one.per_example for one in found) == 0


def test_what_bends_is_said():
    bent = rows()
    bent[:, -1] *= 2
    assert fit_step_time(SIZES, bent).error > 0.2


def test_they_come_back_from_plain_values():
    found = fit_step_time(SIZES, rows(scatter=0.1))
    assert StepTime.from_dict(found.to_dict()) == found
    speed = Throughput(SIZES, rows(scatter=0.1), [0.1] * 5, out_of_memory=(4096,))
    assert Throughput.from_dict(speed.to_dict()) == speed
    assert "4096 does not fit" in repr(speed)


@pytest.mark.parametrize(
    ("sizes", "seconds", "argument"),
    [((8,), [[1.0]], "batch_sizes"), ((8, 8), [[1.0, 1.0]], "batch_sizes"), ((8, 16), [[1.0]], "batch_sizes"),
     ((8, 16), [[1.0, 0.0]], "seconds"), ((8, 16), [[1.0, float("nan")]], "seconds")],
)  # fmt: skip
def test_what_is_wrong_is_said(sizes, seconds, argument):
    with pytest.raises(ValueError, match=f"`{argument}`: expected"):
        fit_step_time(sizes, seconds)


def test_examples_a_second_and_the_knee():
    speed = Throughput(SIZES, rows(), [0.0] * 5)
    assert speed.examples_per_second(512).median == pytest.approx(512 / (FIXED + PER_EXAMPLE * 512))
    # 2048 has 223,000; 512 has 168,000, which is less than 90 %.
    assert speed.knee == 2048
    assert Throughput(SIZES, rows(fixed=1e-5), [0.0] * 5).knee == 32
    with pytest.raises(ValueError, match="`batch_size`: expected one that was measured: 8, 32"):
        speed.examples_per_second(100)
    slow = rows()
    slow[0] *= 3
    spread = Throughput(SIZES, slow, [0.0] * 5).examples_per_second(8)
    assert spread.low == pytest.approx(spread.median / 3) and spread.high == spread.median
