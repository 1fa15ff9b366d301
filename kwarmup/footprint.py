"""How much memory training holds at each batch size: what was measured, and the line through it."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np

from kwarmup.errors import value_error


class Line(NamedTuple):
    """Bytes of a training step beside what was held before: `fixed + per_example * batch_size`.

    Args:
        fixed: bytes whatever the batch size: gradients, the optimizer's working space.
        per_example: bytes for each example: its inputs, and what the backward pass needs of the forward one.
        error: the largest deviation of a measured batch size from the line, relative to it.
    """

    fixed: float
    per_example: float
    error: float

    def bytes(self, batch_size: float) -> float:
        """Return the bytes of a step.

        Args:
            batch_size: examples per update.
        """
        return self.fixed + self.per_example * batch_size


@final
@dataclasses.dataclass(frozen=True, repr=False)
class MemoryUse:
    """The bytes that training held at its peak, batch size by batch size.

    Args:
        batch_sizes: those that were measured, from small to large.
        peaks: bytes held at the peak of a few updates with each: by the process on a CPU, by the fullest device on
            accelerators.
        held: bytes held before the first of them, the model's variables among them.
        memory: bytes that there are; `None` where that is not known.
        out_of_memory: batch sizes that did not fit; larger ones were not tried.
        interrupted: whether Ctrl-C ended the measurement.

    Example:

    >>> from kwarmup import MemoryUse
    >>> found = MemoryUse((10, 100, 1000), (1_300_000, 2_200_000, 11_200_000), held=1_000_000, memory=101_200_000)
    >>> found
    <MemoryUse: 10: 0.3 MB, 100: 1.2 MB, 1000: 10.2 MB beside the 1 MB held before>
    >>> round(found.line.per_example), found.expected_to_fit
    (10000, 10000)
    """

    batch_sizes: tuple[int, ...]
    peaks: tuple[int, ...]
    held: int
    memory: int | None = None
    out_of_memory: tuple[int, ...] = ()
    interrupted: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "peaks", "out_of_memory"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def bytes(self, batch_size: int) -> int:
        """Return the bytes of a step beside what was held before.

        Args:
            batch_size: one that was measured.

        Raises:
            ValueError: if it is another one; `line` goes through all of them.
        """
        if batch_size not in self.batch_sizes:
            raise value_error(
                "batch_size", batch_size, f"one that was measured: {', '.join(map(str, self.batch_sizes))}",
                "memory.line.bytes(batch_size)",
            )  # fmt: skip
        return max(0, self.peaks[self.batch_sizes.index(batch_size)] - self.held)

    @cached_property
    def line(self) -> Line:
        """The line through the bytes of a step, by least squares, with no part below 0.

        Raises:
            ValueError: if fewer than two batch sizes were measured.
        """
        if len(self.batch_sizes) < 2:
            raise value_error(
                "batch_sizes", list(self.batch_sizes), "two or more that fit", "memory_use(model, x, y)"
            )
        sizes = np.array(self.batch_sizes, "float64")
        taken = np.array([self.bytes(size) for size in self.batch_sizes], "float64")
        rows = np.stack([np.ones(len(sizes)), sizes], axis=1)
        (fixed, per_example), *_ = np.linalg.lstsq(rows, taken, rcond=None)
        if fixed < 0:
            fixed, per_example = 0.0, float(sizes @ taken / (sizes @ sizes))
        if per_example < 0:
            fixed, per_example = float(taken.mean()), 0.0
        line = fixed + per_example * sizes
        error = float(np.max(np.abs(taken - line) / np.maximum(line, 1.0)))
        return Line(float(fixed), float(per_example), error)

    @property
    def expected_to_fit(self) -> int | None:
        """The batch size at which the line comes to the memory that there is: expected, and not tried.

        `None` where the memory is not known, or no example takes any that was seen. `kw.max_batch_size` tries.
        """
        if self.memory is None or len(self.batch_sizes) < 2 or not self.line.per_example:
            return None
        return max(0, round((self.memory - self.held - self.line.fixed) / self.line.per_example))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MemoryUse:
        """Return what `to_dict` wrote."""
        return cls(**data)

    def __repr__(self) -> str:
        taken = [f"{size}: {self.bytes(size) / 1e6:,.3g} MB" for size in self.batch_sizes]
        lost = f"; {self.out_of_memory[0]} does not fit" if self.out_of_memory else ""
        return f"<MemoryUse: {', '.join(taken)} beside the {self.held / 1e6:,.3g} MB held before{lost}>"
