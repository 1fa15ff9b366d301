"""Whether a batch that grows pays: the seconds of a training, predicted from how its noise scale grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Pieces that a training is cut into; within each the noise scale counts as constant.
_PIECES = 1_000


def predicted_seconds(
    noise: Sequence[tuple[float, float]],
    reference: int,
    steps: Sequence[tuple[int, int]],
    fixed: float,
    per_example: float,
) -> float:
    """Return the seconds that batch sizes along a run take for the progress of a reference training.

    An update with a batch of B takes fixed + per_example · B seconds, and moves a model whose gradients have the
    noise scale φ as far as 1 / (1 + φ / B) updates without noise would. The reference training says how φ grows
    with that progress, whichever batch makes it; the learning rate is taken to be the best for each batch.

    Args:
        noise: examples that the reference training has seen, and the noise scale there; straight lines between.
        reference: its batch size.
        steps: from which example on the run has which batch size; the first from 0 on.
        fixed: seconds of an update that do not depend on its batch.
        per_example: seconds more with each example.

    Paper: McCandlish et al. 2018, section 2.3 and appendix D.

    Without noise every update counts alike, and 50 of a millisecond each are as many whatever their batch:

    >>> round(predicted_seconds([(0, 0.0), (1_600, 0.0)], 32, [(0, 256)], fixed=1e-3, per_example=0.0), 6)
    0.05

    Where the noise scale is as large as the batch, twice as many:

    >>> round(predicted_seconds([(0, 32.0), (3_200, 32.0)], 32, [(0, 32)], fixed=1e-3, per_example=0.0), 6)
    0.1
    """
    places, scales = np.asarray(noise, "float64").T
    ends = np.linspace(places[0], places[-1], _PIECES + 1)
    seen = seconds = 0.0
    for scale in np.interp((ends[:-1] + ends[1:]) / 2, places, scales):
        updates = (ends[1] - ends[0]) / (reference + scale)  # without noise
        size = [size for begin, size in steps if begin <= seen][-1]
        seen += updates * (size + scale)
        seconds += updates * (1 + scale / size) * (fixed + per_example * size)
    return float(seconds)
