"""The fastest batch size: against brute force for any three numbers, its interval, and what is nearly as fast."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwarmup import NoiseScale, best_batch_size
from kwarmup.goodput import Known, efficiency, goodput

positive = st.floats(1e-9, 1e9)


def seconds(sizes, fixed, per_example, noise_scale):
    """Of S(B) = 1 + phi / B steps."""
    return (fixed + per_example * sizes) * (1 + noise_scale / sizes)


def test_an_example_of_the_base_is_worth_one():
    assert efficiency(32, noise_scale=100.0, base=32) == 1
    assert efficiency(1, noise_scale=0.0) == 1 and efficiency(64, noise_scale=math.inf) == 1
    # With the noise scale as large as the base: 2 / (1 + B / base).
    sizes = np.array([8, 16, 64])
    np.testing.assert_allclose(efficiency(sizes, noise_scale=8, base=8), [1, 2 / 3, 2 / 9])


@settings(max_examples=100, deadline=None)
@given(fixed=positive, per_example=positive, noise_scale=positive)
def test_goodput_times_the_time_to_a_target_is_the_same_at_every_size(fixed, per_example, noise_scale):
    sizes = np.geomspace(1, 1e6, 50)
    product = goodput(sizes, fixed, per_example, noise_scale) * seconds(
        sizes, fixed, per_example, noise_scale
    )
    np.testing.assert_allclose(product, 1 + noise_scale, rtol=1e-9)


@settings(max_examples=300, deadline=None)
@given(
    optimum=st.floats(0.1, 1e4),
    noise_scale=st.floats(1e-3, 1e7),
    per_example=st.floats(1e-9, 1.0),
    multiple_of=st.integers(1, 64),
    low=st.integers(1, 500),
    many=st.integers(0, 1_000),
)
def test_it_equals_brute_force(optimum, noise_scale, per_example, multiple_of, low, many):
    fixed = optimum**2 * per_example / noise_scale
    high = multiple_of * (low + many)
    sizes = np.arange(-(-low // multiple_of), low + many + 1) * multiple_of
    times = seconds(sizes.astype(float), fixed, per_example, noise_scale)
    best = best_batch_size(fixed, per_example, noise_scale, min=low, max=high, multiple_of=multiple_of)
    index = int(np.argmin(times))
    assert (
        abs(best.batch_size - sizes[index]) <= multiple_of
    )  # one step, where rounding makes two sizes equal
    assert times[list(sizes).index(best.batch_size)] == pytest.approx(times[index], rel=1e-9)
    near = sizes[times <= times[index] * 1.1]
    assert abs(best.near[0] - near[0]) <= multiple_of and abs(best.near[1] - near[-1]) <= multiple_of
    # Only rounding may decide otherwise.
    for size in best.near:
        assert times[list(sizes).index(size)] <= times[index] * (1.1 + 1e-9)
    assert {"min": optimum < sizes[0], "max": optimum > sizes[-1], "": True}[best.limited]


def test_the_measured_network():
    # 1.17 ms a step and 3.9 µs an example, noise scale 467; a sweep found 256 to 1,024 the fastest.
    best = best_batch_size(1.17e-3, 3.9e-6, 467)
    assert round(best.optimum) == best.batch_size == 374 and best.limited == ""
    assert best.near[0] < 256 < 640 < best.near[1]


def test_the_interval_is_what_sampling_gives():
    draw = np.random.default_rng(0)
    value, spread = 400.0, 0.3
    noise = Known(value, (value * math.exp(-1.96 * spread), value * math.exp(1.96 * spread)))
    sampled = np.sqrt(1e-3 / 4e-6 * value * np.exp(spread * draw.normal(size=200_000)))
    low, high = best_batch_size(1e-3, 4e-6, noise).interval
    np.testing.assert_allclose([low, high], np.quantile(sampled, [0.025, 0.975]), rtol=0.01)


def test_the_interval_covers_parts_of_a_step_that_lean_on_each_other():
    draw = np.random.default_rng(0)
    # As in a fit: what the one has too much of, the other lacks.
    steps = draw.multivariate_normal([0, 0], [[0.04, -0.0396], [-0.0396, 0.04]], 100_000)
    noise = 0.3 * draw.normal(size=100_000)
    sampled = np.sqrt(1e-3 / 4e-6 * 400 * np.exp(steps[:, 0] - steps[:, 1] + noise))

    def known(value, spread):
        return Known(value, (value * math.exp(-1.96 * spread), value * math.exp(1.96 * spread)))

    low, high = best_batch_size(known(1e-3, 0.2), known(4e-6, 0.2), known(400.0, 0.3)).interval
    assert 0.94 < np.mean((low <= sampled) & (sampled <= high)) < 0.97


def test_a_measured_noise_scale_is_taken_as_it_is():
    noise = NoiseScale(400.0, (100.0, math.inf), 8.0, 0.02, 12_800, 32, True, "")
    best = best_batch_size(1e-3, 4e-6, noise, max=4096)
    assert best.interval == (pytest.approx(math.sqrt(250 * 100)), 4096)
    assert best.batch_size == 316
    unlimited = best_batch_size(1e-3, 4e-6, noise)
    assert unlimited.interval[1] == math.inf
    assert json.loads(json.dumps(unlimited.to_dict()))["interval"][1] == "inf"


def test_limits_keep_the_batch_and_its_interval():
    noise = Known(400.0, (380.0, 420.0))
    assert best_batch_size(1e-3, 4e-6, noise, max=64).interval == (64, 64)
    small = best_batch_size(1e-3, 4e-6, noise, min=1000, multiple_of=256)
    assert (small.batch_size, small.limited, small.near[0]) == (1024, "min", 1024)
    assert str(small).startswith("1,024, the smallest allowed; optimum 316 [1,024, 1,024]; 1,024 to ")


@pytest.mark.parametrize(
    ("numbers", "batch_size", "near"),
    [
        ((0.0, 1e-3, 400.0), 1, (1, 41)),  # a step without a price of its own: 401 (1 + 0.1)
        ((1e-3, 1e-6, 0.0), 1, (1, 101)),  # no noise: every example beyond the first is wasted
        ((1e-3, 1e-6, math.inf), 4096, (2714, 4096)),  # nothing but noise: 1 / B + 1 / 1000
        ((1e-3, 0.0, 400.0), 4096, (1929, 4096)),  # examples for free: 1 + 400 / B
    ],
)
def test_ends_where_there_is_no_optimum(numbers, batch_size, near):
    best = best_batch_size(*numbers, max=4096)
    assert best.batch_size == batch_size
    assert best.near == near


def test_an_unknown_noise_scale_has_a_lower_bound():
    best = best_batch_size(1e-3, 4e-6, Known(math.inf, (1600.0, math.inf)), max=4096)
    assert best.interval == (pytest.approx(math.sqrt(250 * 1600)), 4096) and best.limited == "max"
    assert best.to_dict()["optimum"] == "inf"
