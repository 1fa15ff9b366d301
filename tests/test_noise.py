"""The arithmetic of gradient noise on gradients of known noise: bias, coverage, and what breaks them."""

import math

import numpy as np
import pytest

from kwarmup import noise
from kwarmup.noise import GROUPS, Sums

# The loss |theta - x|^2 / 2 with Gaussian x: the gradient of an example is theta - x.
SPREAD = np.linspace(0.1, 3, 50)
MEAN = 0.3
TRACE, SQUARED_NORM = SPREAD.sum(), 50 * MEAN**2
TRUTH = TRACE / SQUARED_NORM  # 17.2222
SEEDS = 200


def gradients(seed, examples, mean=MEAN, spread=SPREAD):
    return np.random.default_rng(seed).normal(size=(examples, 50)) * np.sqrt(spread) + mean


def summed(examples, size, population=math.inf):
    sums = Sums(size, population)
    for batch in examples[: len(examples) // size * size].reshape(-1, size, 50).mean(1):
        sums.add(batch.astype("float32"))
    return sums


def alone(examples, batch, population=math.inf):
    """Sums of the same examples where |g|^2 of each is known."""
    sums = Sums(1, population)
    for some in examples[: len(examples) // batch * batch].reshape(-1, batch, 50):
        sums.add_examples(some.mean(0).astype("float32"), (some**2).sum(1))
    return sums


def trial(measure, seeds=SEEDS):
    """Return the share of intervals that cover the truth, and the bias of the median."""
    found = [measure(seed) for seed in range(seeds)]
    covered = [low <= truth <= high for (_, (low, high), truth) in found]
    return np.mean(covered), np.median([value / truth for value, _, truth in found]) - 1


def honest(coverage, bias):
    return 0.90 <= coverage <= 0.99 and abs(bias) < 0.03


def endless(size, micro_batches, mean=MEAN):
    def measure(seed):
        found = summed(gradients(seed, size * micro_batches, mean), size).estimate()
        return found.value, found.interval, TRACE / (50 * mean**2)

    return measure


def without_replacement(size, share, factor=True):
    """A part of 1000 examples is seen, and the truth is that of these 1000."""

    def measure(seed):
        data = gradients(seed, 1000)
        truth = data.var(0, ddof=1).sum() / (data.mean(0) ** 2).sum()
        micro_batches = int(1000 * share) // size // GROUPS * GROUPS
        drawn = data[np.random.default_rng(seed).permutation(1000)[: micro_batches * size]]
        found = summed(drawn, size, 1000 if factor else math.inf).estimate()
        return found.value, found.interval, truth

    return measure


@pytest.mark.parametrize(("size", "micro_batches"), [(1, 128), (4, 64), (4, 320), (16, 64)])
def test_the_interval_covers_the_truth_and_the_median_has_no_bias(size, micro_batches):
    assert honest(*trial(endless(size, micro_batches)))


def test_norms_of_single_examples_are_single_examples():
    data = gradients(0, 1000)
    together, one_by_one = alone(data[:640], 4, 1000).estimate(), summed(data[:640], 1, 1000).estimate()
    assert together[:2] == pytest.approx(one_by_one[:2], rel=1e-5)

    def measure(seed):
        found = alone(gradients(seed, 512), 16).estimate()
        return found.value, found.interval, TRUTH

    assert honest(*trial(measure))


@pytest.mark.parametrize(("size", "share"), [(2, 0.1), (4, 0.5), (8, 0.5), (4, 1.0), (8, 1.0)])
def test_without_replacement_too(size, share):
    assert honest(*trial(without_replacement(size, share)))


def test_without_the_factor_for_finite_populations_it_is_biased():
    coverage, bias = trial(without_replacement(4, 1.0, factor=False))
    assert not honest(coverage, bias) and bias > 0.01


def test_the_stop_at_a_narrow_interval_does_not_deceive():
    def measure(seed):
        sums, width, data = Sums(4), math.inf, iter(gradients(seed, 4_000).reshape(-1, 4, 50).mean(1))
        while width > 0.2:
            for _ in range(2 * GROUPS):
                sums.add(next(data).astype("float32"))
            found = sums.estimate()
            width = (found.interval[1] - found.interval[0]) / 2 / found.value
        return found.value, found.interval, TRUTH

    coverage, bias = trial(measure)
    assert coverage >= 0.90 and abs(bias) < 0.03


def test_both_estimates_are_unbiased_at_any_size():
    for size in (1, 8, 64):
        found = [summed(gradients(seed, 64 * size), size).estimate() for seed in range(SEEDS)]
        for name, truth in (("trace", TRACE), ("squared_norm", SQUARED_NORM)):
            values = [getattr(estimate, name) for estimate in found]
            assert abs(np.mean(values) - truth) < 3.5 * np.std(values) / math.sqrt(SEEDS)


def test_the_covariance_is_that_of_the_estimates():
    found = [summed(gradients(seed, 64 * 4), 4).estimate() for seed in range(1000)]
    real = np.cov([estimate.trace for estimate in found], [estimate.squared_norm for estimate in found])
    said = np.mean([estimate.covariance for estimate in found], axis=0)
    assert np.diag(said) == pytest.approx(np.diag(real), rel=0.15)
    # In closed form, for Gaussian examples in 64 batches of 4.
    of_squares = 2 * (SPREAD**2).sum()
    assert real[0, 0] == pytest.approx(of_squares / 63, rel=0.15)
    of_norm = 4 * MEAN**2 * TRACE / 256 + of_squares / 256**2 * (1 + 1 / 63)
    assert real[1, 1] == pytest.approx(of_norm, rel=0.15)


def test_all_examples_one_by_one_leave_no_doubt():
    data = gradients(0, 64)
    found = summed(data, 1, 64).estimate()
    assert found.trace == pytest.approx(data.var(0, ddof=1).sum(), rel=1e-5)
    assert found.squared_norm == pytest.approx((data.mean(0) ** 2).sum(), rel=1e-5)
    assert found.interval == pytest.approx((found.value, found.value))


@pytest.mark.parametrize("mean", [0.0, 0.02])
def test_a_gradient_that_drowns_in_noise_leaves_the_interval_open(mean):
    found = [summed(gradients(seed, 256, mean), 4).estimate() for seed in range(SEEDS)]
    opened = [estimate for estimate in found if estimate.interval[1] == math.inf]
    assert len(opened) >= 0.9 * SEEDS
    # Signed: about half of the estimates of a zero are negative, and there the scale is infinite.
    negative = [estimate for estimate in found if estimate.squared_norm <= 0]
    assert (len(negative) > 0.2 * SEEDS) and all(estimate.value == math.inf for estimate in negative)
    truth = TRACE / (50 * mean**2) if mean else math.inf
    assert np.mean([low <= truth <= high for low, high in (e.interval for e in found)]) >= 0.9


def test_no_noise_at_all():
    found = summed(np.ones((32, 50)), 2).estimate()
    assert found.value == 0 and found.interval == (0, 0) and found.squared_norm == pytest.approx(50)


# Two parts of a batch, again and again: the averages.


def pairs(seed, count, size):
    """Estimates from halves of `count` batches, as `two_sizes` makes them."""
    halves = gradients(seed, count * size).reshape(count, 2, size // 2, 50).mean(2)
    small, big = (halves**2).sum(2).mean(1), (halves.mean(1) ** 2).sum(1)
    return np.stack(noise.two_sizes(small, big, size / 2, size))


def faded(seed, average=noise.average, count=500, decay=0.99, size=32):
    averages = noise.NOTHING
    for trace, squared_norm in pairs(seed, count, size).T:
        averages = average(averages, decay, trace, squared_norm)
    return noise.averaged(averages, decay)


def of_averages(**arguments):
    def measure(seed):
        found = faded(seed, **arguments)
        return found.value, found.interval, TRUTH

    return measure


@pytest.mark.parametrize("count", [100, 500])
def test_averages_cover_the_truth(count):
    assert honest(*trial(of_averages(count=count)))


def clamped(averages, decay, trace, squared_norm):
    return noise.average(averages, decay, trace, max(0.0, squared_norm))


def ratios(averages, decay, trace, squared_norm):
    return noise.average(averages, decay, trace / squared_norm, 1.0)


@pytest.mark.parametrize("fault", [clamped, ratios])
def test_a_clamped_norm_and_a_mean_of_ratios_are_found(fault):
    assert not honest(*trial(of_averages(average=fault, size=4)))


def test_averages_forget_what_they_began_with():
    averages = noise.average(noise.NOTHING, 0.99, 6.0, 2.0)
    found = noise.averaged(averages, 0.99)
    assert (found.trace, found.squared_norm) == pytest.approx((6.0, 2.0))
    assert found.value == pytest.approx(3.0) and found.interval == (0, math.inf)
    assert math.isnan(noise.averaged(noise.NOTHING, 0.99).value)


def test_an_average_is_the_sum_with_fading_weights():
    found, decay = faded(0, count=50, decay=0.9), 0.9
    weights = decay ** np.arange(50)[::-1]
    weights /= weights.sum()
    trace, squared_norm = pairs(0, 50, 32) @ weights
    assert (found.trace, found.squared_norm) == pytest.approx((trace, squared_norm))
    scatter = np.cov(pairs(0, 50, 32), aweights=weights) * (weights**2).sum()
    assert found.covariance == pytest.approx(scatter)


@pytest.mark.parametrize(("freedom", "expected"), [(6, 2.4469), (15, 2.1314), (100, 1.9840)])
def test_the_quantile_is_that_of_the_tables(freedom, expected):
    assert noise.quantile(freedom) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.8])
def test_fieller_holds_the_ratios_that_cannot_be_refused(correlation):
    covariance = np.array([[0.5, 0.2 * correlation], [0.2 * correlation, 0.08]])
    low, high = noise.fieller(4.0, 1.0, covariance, 1.96)
    scales = np.linspace(0, 60, 6001)
    spread = np.sqrt(covariance[0, 0] - 2 * scales * covariance[0, 1] + scales**2 * covariance[1, 1])
    kept = scales[np.abs(4.0 - scales * 1.0) <= 1.96 * spread]
    assert (kept.min(), kept.max()) == pytest.approx((low, high), abs=0.011)


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_of_next_to_nothing_the_interval_is_all_there_is(pairs):
    averages = noise.NOTHING
    for _ in range(pairs):
        averages = noise.average(averages, 0.9, 4.0, 1.0)
    assert noise.averaged(averages, 0.9).interval == (0.0, math.inf)
