"""The noisy quadratic model of Zhang et al. 2019 in closed form: what a study should find, without training.

A loss of 1/2 sum h w^2 whose gradients have the variance c / B in each direction. Under a constant learning
rate a, E[w^2] goes from 1 towards a steady state by the factor (1 - a h)^2 an update.
"""

import numpy as np

CURVATURES = 1 / np.arange(1, 101)
TARGET = 0.1

#: Updates to the target at the best constant learning rate, and that rate: it moves with the batch size at first.
UPDATES = {
    1: 1719,
    2: 867,
    4: 442,
    8: 229,
    16: 124,
    32: 74,
    64: 51,
    128: 40,
    256: 35,
    512: 32,
    1024: 30,
    2048: 29,
}
RATES = {1: 0.0558, 2: 0.1126, 4: 0.2131, 8: 0.4035, 16: 0.7167, 32: 1.0511, 64: 1.3568}


def loss(updates, learning_rate, batch_size, noise=CURVATURES):
    """Return the expected loss behind some updates; arrays of updates and learning rates go together."""
    rates = np.asarray(learning_rate, "float64")[..., np.newaxis]
    factors = (1 - rates * CURVATURES) ** 2
    steady = rates**2 * noise / (batch_size * (1 - factors))
    squares = factors ** np.asarray(updates)[..., np.newaxis] * (1 - steady) + steady
    return (CURVATURES * squares).sum(-1) / 2


def updates_to_target(batch_size, learning_rates=None):
    """Return the fewest updates to the target over learning rates, and the rate that needs them."""
    rates = np.geomspace(0.02, 1.99, 4_000) if learning_rates is None else np.asarray(learning_rates)
    low, high = np.zeros(len(rates), int), np.full(len(rates), 1 << 12)
    never = loss(high, rates, batch_size) > TARGET
    while (high - low > 1).any():
        middle = (low + high) // 2
        there = loss(middle, rates, batch_size) <= TARGET
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    high = np.where(never, 1 << 30, high)
    best = np.flatnonzero(high == high.min())
    return int(high.min()), float(rates[best[len(best) // 2]])


def descend(updates, learning_rate, batch_size, seed):
    """Return the mean loss of many noisy descents, computed update by update."""
    draw = np.random.default_rng(seed)
    weights = np.ones((2_000, len(CURVATURES)))
    for _ in range(updates):
        noise = draw.normal(size=weights.shape) * np.sqrt(CURVATURES / batch_size)
        weights -= learning_rate * (CURVATURES * weights + noise)
    return float((CURVATURES * weights**2).sum(1).mean() / 2)
