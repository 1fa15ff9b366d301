"""What a study was asked for, and what it decided where it was not told."""

from __future__ import annotations

import dataclasses
from typing import final


@final
@dataclasses.dataclass(frozen=True)
class Settings:
    """What the trainings of a study have in common.

    Args:
        batch_sizes: those asked for.
        seeds: trainings at each of them.
        examples: training examples in one pass.
        run_examples: examples that each training sees.
        reference: the batch size at which the learning rate was found.
        peak: the learning rate there.
        scaling: 1, 0.5 or 0: how the peak moves with the batch size.
        monitor: the metric that is followed, on the validation data.
        sign: 1 where more of it is better, -1 where less is.
        target: the value of it that all batch sizes run to.
        own_peaks: whether half and twice the peak were tried at each batch size.
    """

    batch_sizes: tuple[int, ...]
    seeds: int
    examples: int
    run_examples: int
    reference: int
    peak: float
    scaling: float
    monitor: str
    sign: float
    target: float | None = None
    own_peaks: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_sizes", tuple(self.batch_sizes))
