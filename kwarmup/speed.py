"""How fast a model trains at each batch size: what was measured, and what follows."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np

from kwarmup.errors import value_error
from kwarmup.step_time import StepTime, fit_step_time


class Speed(NamedTuple):
    """Examples a second: the median over the repeats, and the slowest and fastest of them."""

    median: float
    low: float
    high: float


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Throughput:
    """Seconds of an update at each batch size, repeat by repeat.

    Args:
        batch_sizes: those that were measured, from small to large.
        seconds: one row for each repeat, with the seconds of an update at each batch size. The sizes of a row
            were measured right behind each other.
        compile_seconds: for each batch size, what its first update took longer than its others.
        out_of_memory: batch sizes that did not fit; larger ones were not tried.
        interrupted: whether Ctrl-C ended the measurement.

    Example:

    >>> from kwarmup import Throughput
    >>> found = Throughput((10, 100, 1000), [(0.0011, 0.002, 0.011)] * 3, (0.5, 0.0, 0.0))
    >>> found
    <Throughput: 10: 9,091, 100: 50,000, 1000: 90,909 examples a second>
    >>> found.knee
    1000
    """

    batch_sizes: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    compile_seconds: tuple[float, ...]
    out_of_memory: tuple[int, ...] = ()
    interrupted: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "compile_seconds", "out_of_memory"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "seconds", tuple(tuple(map(float, row)) for row in self.seconds))

    def examples_per_second(self, batch_size: int) -> Speed:
        """Return how many examples a second the model trains with.

        Args:
            batch_size: one that was measured.

        Raises:
            ValueError: if it is another one; `step_time` is the line through all of them.
        """
        if batch_size not in self.batch_sizes:
            raise value_error(
                "batch_size", batch_size, f"one that was measured: {', '.join(map(str, self.batch_sizes))}",
                "throughput.step_time.examples_per_second(batch_size)",
            )  # fmt: skip
        column = np.array(self.seconds)[:, self.batch_sizes.index(batch_size)]
        return Speed(*(float(batch_size / of(column)) for of in (np.median, np.max, np.min)))

    @cached_property
    def step_time(self) -> StepTime:
        """The line through the seconds of an update: what is fixed, and what each example costs."""
        return fit_step_time(self.batch_sizes, self.seconds)

    @cached_property
    def knee(self) -> int:
        """The smallest batch size with 90 % of the most examples a second, by the median of the repeats."""
        speeds = np.array(self.batch_sizes) / np.array(self.seconds)
        best = int(np.argmax(np.median(speeds, axis=0)))
        # Within a repeat, so that a slow minute of the machine meets both.
        ratios = np.median(speeds / speeds[:, best : best + 1], axis=0)
        return self.batch_sizes[int(np.argmax(ratios >= 0.9))]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Throughput:
        """Return what `to_dict` wrote."""
        return cls(**data)

    def __repr__(self) -> str:
        speeds = [f"{size}: {self.examples_per_second(size).median:,.0f}" for size in self.batch_sizes]
        lost = f"; {self.out_of_memory[0]} does not fit" if self.out_of_memory else ""
        return f"<Throughput: {', '.join(speeds)} examples a second{lost}>"
