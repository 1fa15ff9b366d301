"""The arithmetic of gradient noise: unbiased estimates of its trace and of the squared gradient, and their ratio.

Gradients of batches of one size scatter with covariance Sigma / size around the gradient G. From squared
norms at two sizes follow tr(Sigma) and |G|^2, each without bias; the noise scale is their ratio. Both keep
their sign until they are read: an estimate of |G|^2 may be negative, and one that is cut off at zero is
biased. What is averaged is the two, never their ratio.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple

import numpy as np

#: Micro-batches are summed in so many groups; the scatter between these gives the interval.
GROUPS = 16
_CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """Estimates of tr(Sigma) and |G|^2, their covariance matrix, and its degrees of freedom."""

    trace: float
    squared_norm: float
    covariance: np.ndarray
    freedom: float

    @property
    def value(self) -> float:
        """The noise scale tr(Sigma) / |G|^2: infinite where the estimate of |G|^2 is not positive."""
        return ratio(self.trace, self.squared_norm)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval; the upper end is infinite where |G|^2 cannot be told from 0."""
        if not np.isfinite(self.covariance).all():
            return 0.0, math.inf  # of one measurement, or of none
        low, high = fieller(self.trace, self.squared_norm, self.covariance, quantile(self.freedom))
        # Where nothing is uncertain, rounding alone may put the value beside it.
        return min(low, self.value), max(high, self.value)


def ratio(trace: float, squared_norm: float) -> float:
    """Return tr(Sigma) / |G|^2 of two averages; infinite where the gradient drowns in noise."""
    if math.isnan(trace) or math.isnan(squared_norm):
        return math.nan
    return max(0.0, trace / squared_norm) if squared_norm > 0 else math.inf


def gain(variance: Any, squared_norm: Any, scale: Any, xp: Any = np) -> Any:
    """Return how many updates with the base batch one with `scale` times of it is worth: from 1 to `scale`.

    Args:
        variance: tr(Sigma) of gradients of the base batch; an average, of either sign.
        squared_norm: |G|^2, likewise.
        scale: 1 or more.
        xp: the array module, numpy or `keras.ops`.

    Paper: Johnson et al. 2020, "AdaScale SGD".

    Example:

    >>> [round(float(gain(1.0, 1.0, scale)), 4) for scale in (1, 2, 8, 32)]
    [1.0, 1.3333, 1.7778, 1.9394]
    >>> float(gain(1.0, 0.0, 8.0)), float(gain(0.0, 1.0, 8.0))
    (8.0, 1.0)
    """
    variance, squared_norm = xp.maximum(variance, 0.0), xp.maximum(squared_norm, 0.0)
    below = variance / scale + squared_norm
    found = (variance + squared_norm) / xp.where(below > 0, below, 1.0)
    # With neither noise nor a gradient there is nothing to gain.
    return xp.minimum(xp.maximum(found, 1.0), scale)


def two_sizes(small: Any, big: Any, small_size: Any, big_size: Any, population: Any = math.inf) -> Any:
    """Return unbiased estimates of tr(Sigma) and |G|^2 from mean squared norms at two batch sizes.

    Args:
        small: the mean of |g|^2 over batches of `small_size` that make up the big one.
        big: |g|^2 of the mean gradient of those.
        small_size: examples.
        big_size: examples.
        population: number of examples that all of these are drawn from without replacement. The mean of
            all of them has no noise left: the factor 1 - big_size / population.

    Paper: McCandlish et al. 2018, appendix A.1; the factor for finite populations is Cochran's.

    Example:

    >>> two_sizes(small=5.0, big=2.0, small_size=1, big_size=4)
    (4.0, 1.0)
    >>> two_sizes(small=5.0, big=2.0, small_size=1, big_size=4, population=4)
    (4.0, 2.0)
    """
    trace = (small - big) / (1 / small_size - 1 / big_size)
    return trace, big - trace * (1 / big_size - 1 / population)


class Sums:
    """Gradients of micro-batches of one size, summed in groups.

    Args:
        size: examples in a micro-batch.
        population: as in `two_sizes`; it may be set later.

    A jackknife over the groups needs their sums one by one: memory of 16 gradients, on the host.
    """

    def __init__(self, size: int, population: float = math.inf):
        self.size, self.population = size, population
        self.micro_batches = 0
        self._sums: np.ndarray | None = None
        self._squares = np.zeros(GROUPS)

    @property
    def examples(self) -> int:
        return self.micro_batches * self.size

    @property
    def even(self) -> bool:
        """Whether all groups hold the same number of gradients, as an estimate needs."""
        return self.micro_batches > 0 and self.micro_batches % GROUPS == 0

    def add(self, gradient: np.ndarray) -> None:
        """Add the gradient of one micro-batch, as a flat array."""
        if self._sums is None:
            self._sums = np.zeros((GROUPS, gradient.size), "float32")
        group = self.micro_batches % GROUPS
        self._sums[group] += gradient
        self._squares[group] += np.dot(gradient, gradient)
        self.micro_batches += 1

    def add_examples(self, gradient: np.ndarray, squares: np.ndarray) -> None:
        """Add the mean gradient of some examples, of each of which |g|^2 is known; `size` is 1 then.

        Args:
            gradient: as a flat array.
            squares: |g|^2 of each example; as many in each call.
        """
        if self._sums is None:
            self._sums = np.zeros((GROUPS, gradient.size), "float32")
        group = self.micro_batches // len(squares) % GROUPS
        self._sums[group] += len(squares) * gradient
        self._squares[group] += squares.sum(dtype="float64")
        self.micro_batches += len(squares)

    def estimate(self) -> Estimate:
        """Return the estimates from all gradients so far, with a delete-one-group jackknife."""
        assert self._sums is not None and self.even
        return jackknife(
            _products(self._sums), self._squares, self.micro_batches // GROUPS, self.size, self.population
        )


def _products(sums: np.ndarray) -> np.ndarray:
    """The scalar products of all rows in double precision, without a copy of them all."""
    found = np.zeros((len(sums), len(sums)))
    for begin in range(0, sums.shape[1], 1 << 16):
        part = sums[:, begin : begin + (1 << 16)].astype("float64")
        found += part @ part.T
    return found


def jackknife(
    products: np.ndarray, squares: np.ndarray, count: int, size: int, population: float = math.inf
) -> Estimate:
    """Return estimates and their covariance from groups of `count` gradients.

    Args:
        products: the scalar product of each group's summed gradient with each other's.
        squares: for each group the sum of |g|^2.
        count: micro-batches in a group.
        size: examples in a micro-batch.
        population: as in `two_sizes`.
    """
    groups = len(squares)

    def estimates(product: Any, square: Any, number: int) -> np.ndarray:
        found = two_sizes(square / number, product / number**2, size, number * size, population)
        return np.stack(found, axis=-1)

    product, square, number = products.sum(), squares.sum(), groups * count
    without = product - 2 * products.sum(1) + np.diag(products), square - squares, number - count
    trace, squared_norm = estimates(product, square, number)
    scatter = estimates(*without)
    scatter -= scatter.mean(0)
    covariance = (groups - 1) / groups * scatter.T @ scatter
    # The jackknife takes the examples as drawn from endless data. What is known of all examples is exact, but
    # which of them met in a micro-batch stays chance: it moves the trace unless each is alone.
    unseen = max(0.0, 1 - number * size / population)
    covariance *= [[max(0.0, 1 - number / population), unseen], [unseen, unseen]]
    return Estimate(float(trace), float(squared_norm), covariance, groups - 1)


def fieller(trace: float, squared_norm: float, covariance: np.ndarray, width: float) -> tuple[float, float]:
    """Return the interval of a ratio of two estimates: all B at which trace - B |G|^2 may be 0.

    Args:
        trace: the upper one.
        squared_norm: the lower one.
        covariance: of the two.
        width: standard deviations on either side.

    Paper: Fieller 1954.

    Example:

    >>> fieller(4.0, 1.0, np.zeros((2, 2)), 2.0)
    (4.0, 4.0)
    >>> fieller(4.0, 1.0, np.diag([0.0, 1.0]), 2.0)[1]
    inf
    """
    (of_trace, of_both), (_, of_norm) = (width**2 * covariance).tolist()
    a, b, c = squared_norm**2 - of_norm, trace * squared_norm - of_both, trace**2 - of_trace
    if not all(map(math.isfinite, (a, b, c))):
        return 0.0, math.inf
    # b^2 - a c without its terms that cancel: where nothing is uncertain it is 0, and not a rounding error.
    square = trace**2 * of_norm - 2 * trace * squared_norm * of_both + squared_norm**2 * of_trace
    root = math.sqrt(max(0.0, square + of_both**2 - of_trace * of_norm))
    if a > 0 and squared_norm > 0:
        return max(0.0, (b - root) / a), max(0.0, (b + root) / a)
    # |G|^2 may be 0. With a trace that may not be, only B from the positive root upwards remain.
    ends = [c / (b + sign * root) for sign in (1, -1) if b + sign * root]
    return (min((end for end in ends if end > 0), default=0.0) if c > 0 else 0.0), math.inf


def quantile(freedom: float) -> float:
    """Return the two-sided 95 % quantile of Student's t distribution.

    Paper: Fisher & Cornish 1960, the expansion around the normal one: right to 0.1 % from 6 degrees of freedom.

    Example:

    >>> [round(quantile(freedom), 3) for freedom in (15, 60, math.inf)]
    [2.131, 2.0, 1.96]
    """
    z, f = statistics.NormalDist().inv_cdf((1 + _CONFIDENCE) / 2), freedom
    terms = (
        z,
        (z**3 + z) / (4 * f),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3),
    )
    return sum(terms)


#: How many there were, and the averages of trace, |G|^2, and their three products, with weights that fade.
NOTHING = np.zeros(6)


def average(averages: np.ndarray, decay: float, trace: float, squared_norm: float) -> np.ndarray:
    """Return exponential averages with one pair more; `NOTHING` is their begin."""
    new = [trace, squared_norm, trace**2, trace * squared_norm, squared_norm**2]
    return np.concatenate([averages[:1] + 1, decay * averages[1:] + (1 - decay) * np.array(new)])


def averaged(averages: np.ndarray, decay: float) -> Estimate:
    """Return what exponential averages say, freed of the zeros that they began with.

    Their covariance takes the pairs for independent of each other, as estimates from different batches are.
    """
    count = averages[0]
    if count == 0:
        return Estimate(math.nan, math.nan, np.full((2, 2), math.nan), 0)
    weight = 1 - decay**count
    trace, squared_norm, *products = averages[1:] / weight
    # The sum of the squared weights: one over the number of pairs that count.
    shares = (1 - decay) / (1 + decay) * (1 - decay ** (2 * count)) / weight**2
    freedom = 1 / shares - 1
    if freedom < 2:
        return Estimate(trace, squared_norm, np.full((2, 2), math.inf), freedom)
    mean = np.outer([trace, squared_norm], [trace, squared_norm])
    scatter = np.array([products[:2], products[1:]]) - mean
    return Estimate(trace, squared_norm, scatter * shares / (1 - shares), freedom)
