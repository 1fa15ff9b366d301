"""The largest batch size that fits: what was tried, and where that ended."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, final

from kwarmup.capacity import BatchTrial


@final
@dataclasses.dataclass(frozen=True, repr=False)
class MaxBatchSize:
    """The largest batch size that was seen to train, and all that were tried.

    Args:
        value: examples per update; one that was tried, and fits.
        trials: batch sizes in the order in which they were tried, whether they fit, and the bytes held at the peak.
        limit: no larger size was to be tried.
        memory: bytes that there are, on one device or for the whole process; `None` where that is not known.
        counted: whether `memory` is a number that the peaks are held against. Otherwise the device itself says
            when it has no more.
        interrupted: whether Ctrl-C ended the search.

    Example:

    >>> from kwarmup import MaxBatchSize
    >>> found = MaxBatchSize(96, [(32, True, 700), (96, True, 1340), (97, False, None)], limit=1000, memory=1350)
    >>> found
    <MaxBatchSize: 96; 97 does not fit; 3 tried>
    >>> found.bytes_per_example, found.too_large
    (10.0, 97)
    """

    value: int
    trials: tuple[BatchTrial, ...]
    limit: int
    memory: int | None = None
    counted: bool = False
    interrupted: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "trials", tuple(BatchTrial(*trial) for trial in self.trials))

    @property
    def too_large(self) -> int | None:
        """The smallest batch size that was tried and does not fit; `None` if all of them fit."""
        return min((trial.batch_size for trial in self.trials if not trial.fits), default=None)

    @cached_property
    def bytes_per_example(self) -> float | None:
        """What one more example takes, by the largest size that fits and one of half of it or less.

        `None` where the device does not tell, or no size was tried that is so much smaller.
        """
        known = [(t.batch_size, t.peak) for t in self.trials if t.fits and t.peak is not None]
        upper, peak = max(known, default=(0, 0))
        lower, before = max((entry for entry in known if 2 * entry[0] <= upper), default=(0, 0))
        return (peak - before) / (upper - lower) if lower else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` reads them back."""
        return dataclasses.asdict(self) | {"trials": [list(trial) for trial in self.trials]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MaxBatchSize:
        """Return what `to_dict` wrote."""
        return cls(**data)

    def __repr__(self) -> str:
        return f"<MaxBatchSize: {self.value:,}; {self._end()}; {len(self.trials)} tried>"

    def _end(self) -> str:
        if self.interrupted:
            return "interrupted"
        if self.value == self.limit:
            return "the largest that was to be tried"
        if self.too_large is not None:
            return f"{self.too_large:,} does not fit"
        return f"more would not fit into {(self.memory or 0) / 2**20:,.0f} MiB"
