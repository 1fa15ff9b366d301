"""How long a warmup is, and how the peak moves with the batch size, by optimizer."""

from __future__ import annotations

from typing import Any

import keras

#: Share of a training that SGD warms up in, and the most that any optimizer does.
SHARE, _MOST = 0.1, 0.25


def beta_2(optimizer: keras.optimizers.Optimizer) -> float | None:
    """Return how Adam and its kin forget squared gradients; `None` for optimizers that do not keep them so.

    >>> import keras
    >>> beta_2(keras.optimizers.Adam(beta_2=0.5)), beta_2(keras.optimizers.SGD())
    (0.5, None)
    """
    inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
    found = getattr(inner, "beta_2", None)
    return None if found is None else float(keras.ops.convert_to_numpy(found))


def warmup_updates(beta_2: float | None, updates: int) -> int:
    """Return the updates of a warmup: round(2 / (1 - beta_2)) for Adam and its kin, a tenth of a run for others.

    At most a quarter of the run.

    Args:
        beta_2: of the optimizer; `None` where it has none.
        updates: of the whole run.

    Paper: Ma and Yarats 2021, "On the Adequacy of Untuned Warmup for Adaptive Optimization".

    >>> warmup_updates(0.999, 100_000), warmup_updates(0.999, 1_000), warmup_updates(None, 1_000)
    (2000, 250, 100)
    """
    if beta_2 is None:
        return round(SHARE * updates)
    return min(round(2 / (1 - beta_2)), int(_MOST * updates))


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
