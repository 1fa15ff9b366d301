"""How long a warmup is and where it begins, by optimizer."""

from __future__ import annotations

from typing import Any

import keras

#: Share of a training that SGD warms up in, and the most that any optimizer does.
_SHARE, _MOST = 0.1, 0.25


def warmup_updates(optimizer: keras.optimizers.Optimizer, updates: int) -> int:
    """Return the updates of a warmup: round(2 / (1 - beta_2)) for Adam and its kin, a tenth of a run for others.

    At most a quarter of the run.

    Args:
        optimizer: its `beta_2` counts, where it has one.
        updates: of the whole run.

    Paper: Ma and Yarats 2021, "On the Adequacy of Untuned Warmup for Adaptive Optimization".

    >>> import keras
    >>> warmup_updates(keras.optimizers.Adam(), 100_000), warmup_updates(keras.optimizers.Adam(), 1_000)
    (2000, 250)
    >>> warmup_updates(keras.optimizers.SGD(), 1_000)
    100
    """
    inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
    beta_2 = getattr(inner, "beta_2", None)
    if beta_2 is None:
        return round(_SHARE * updates)
    return min(round(2 / (1 - float(keras.ops.convert_to_numpy(beta_2)))), int(_MOST * updates))


def scaling_rule(optimizer: keras.optimizers.Optimizer) -> float:
    """Return how the learning rate moves with the batch size: 1, or 0.5 where the gradient is normalised.

    Args:
        optimizer: SGD and its kin take the linear rule (Goyal et al. 2017); whatever divides by the size of
            past gradients, or takes their sign, the square root (Malladi et al. 2022).

    >>> import keras
    >>> scaling_rule(keras.optimizers.SGD()), scaling_rule(keras.optimizers.AdamW())
    (1.0, 0.5)
    """
    inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
    return 1.0 if isinstance(inner, keras.optimizers.SGD) else 0.5
