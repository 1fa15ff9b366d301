"""Whether two batch sizes differ by more than their seeds do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kwarmup.noise import quantile

#: Of Student's t, two-sided 95 %, where the expansion of `quantile` is not yet right: a study has few seeds.
_FEW = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}


class Difference(NamedTuple):
    """What changes on average over seeds, with its 95 % interval; endless where one seed tells nothing of chance.

    Args:
        mean: of the differences, or the geometric mean of the ratios.
        low: lower end of the interval.
        high: upper end of it.
        seeds: how many were compared.
        same: the value that says that nothing changes.
    """

    mean: float
    low: float
    high: float
    seeds: int
    same: float = 0.0

    @property
    def told(self) -> bool:
        """Whether it can be told from chance: the interval leaves out what says that nothing changes."""
        return not self.low <= self.same <= self.high


def paired(before: Mapping[int, float], after: Mapping[int, float]) -> Difference | None:
    """Return by how much `after` is above `before`, over the seeds that both have; `None` where they share none.

    Values of a seed belong together: they began at the same weights. Student's t makes the interval.

    Args:
        before: a value for each seed.
        after: the same at another batch size.

    >>> print("{:.2f} [{:.2f}, {:.2f}]".format(*paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 2.0, 1: 3.5, 2: 3.5, 3: 9.0})))
    1.00 [-0.24, 2.24]
    >>> paired({0: 1.0}, {0: 2.0}).told, paired({0: 1.0}, {1: 2.0})
    (False, None)
    """
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return None
    differences = np.array([after[seed] - before[seed] for seed in shared])
    count, mean = len(shared), float(differences.mean())
    if count < 2:
        return Difference(mean, -math.inf, math.inf, count)
    width = _FEW.get(count - 1) or quantile(count - 1)
    half = width * float(differences.std(ddof=1)) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, count)


def ratio(before: Mapping[int, float], after: Mapping[int, float]) -> Difference | None:
    """Return how many times `before` is `after`, as `paired` does it for the logarithms; 1 is no difference.

    >>> print("{:.2f} [{:.2f}, {:.2f}]".format(*ratio({0: 6.0, 1: 6.0}, {0: 2.0, 1: 2.0})))
    3.00 [3.00, 3.00]
    """
    logs = [
        {seed: math.log(value) for seed, value in values.items() if value > 0} for values in (before, after)
    ]
    found = paired(logs[1], logs[0])
    if found is None:
        return None
    mean, low, high = (math.exp(one) if one < 700 else math.inf for one in found[:3])
    return Difference(mean, low, high, found.seeds, same=1.0)
