"""How a run is laid out: which micro-batches have which size, pass by pass."""

from __future__ import annotations

import bisect
import math
import sys
from fractions import Fraction
from typing import NamedTuple

from kwarmup.sizes import Stretch


class Segment(NamedTuple):
    """Micro-batches of one size, over a part of a pass or over several whole passes alike.

    The micro-batch `tick + q * pass_ticks + r` begins when
    `example + q * pass_examples + r * micro_batch` examples have been consumed. `batch_size` is the
    size of an update here; a last, partial batch has the one of the batches before it.
    """

    tick: int
    example: int
    ticks: int
    examples: int
    micro_batch: int
    pass_ticks: int
    pass_examples: int
    batch_size: int


class Passes(NamedTuple):
    """Equal passes over the data: the first one's number and where it begins."""

    epoch: int
    example: int
    count: int  # type: ignore[assignment]  # a tuple's own count is of no use here
    examples: int


def lay_out(
    sizes: list[Stretch], examples: int, epochs: int, drop_remainder: bool, parts: int
) -> tuple[list[Segment], list[Passes]]:
    """Walk through the run, size by size and pass by pass; equal whole passes are walked at once."""
    segments: list[Segment] = []
    runs: list[Passes] = []
    walk = _Sizes(sizes, parts)
    tick = example = epoch = 0
    # A batch larger than the data holds all of it, or is dropped like any other remainder.
    largest = sys.maxsize if drop_remainder else examples
    while epoch < epochs:
        began, position = example, epoch * examples
        micro = min(walk.at(tick, position) // parts, largest)
        ticks = examples // micro if drop_remainder else -(-examples // micro)
        consumed = ticks * micro if drop_remainder else examples
        passes = min(epochs - epoch, walk.whole_passes(tick, position, ticks, examples))
        if passes:
            if ticks:
                segments.append(
                    Segment(
                        tick,
                        example,
                        passes * ticks,
                        passes * consumed,
                        micro,
                        ticks,
                        consumed,
                        micro * parts,
                    )
                )
            runs.append(Passes(epoch, example, passes, consumed))
            tick, example, epoch = tick + passes * ticks, example + passes * consumed, epoch + passes
            continue
        left = examples
        while left:
            micro = min(walk.at(tick, position) // parts, largest)
            size = micro * parts
            count = min(left // micro, walk.ticks_left(tick, position, micro))
            if count == 0:
                if drop_remainder:
                    break
                micro, count = left, 1
            seen = count * micro
            segments.append(Segment(tick, example, count, seen, micro, count, seen, size))
            tick, example, left, position = tick + count, example + seen, left - seen, position + seen
        runs.append(Passes(epoch, began, 1, example - began))
        epoch += 1
    return segments, runs


class _Sizes:
    """The size in force, while the walk goes on; asked with ticks and data position that only grow."""

    def __init__(self, sizes: list[Stretch], parts: int):
        self.sizes, self.parts = sizes, parts
        self.index = 0
        self.began = Fraction(0)  # of the stretch, in its own unit
        self.offset = 0

    def at(self, tick: int, position: int) -> int:
        while True:
            stretch = self.sizes[self.index]
            now = self._now(stretch, tick, position)
            if stretch.length is not None and now >= stretch.length and self.index + 1 < len(self.sizes):
                end = self.began + stretch.length
                self.index += 1
                # The next phase begins where this one ends, in its own unit, if that is the same one.
                following = self.sizes[self.index]
                self.began = end if following.unit == stretch.unit else self._count(following, tick, position)
                self.offset = 0
                continue
            self.offset = bisect.bisect_right(stretch.offsets, now) - 1
            return stretch.sizes[self.offset]

    def ticks_left(self, tick: int, position: int, micro: int) -> int:
        """Micro-batches of size `micro` that begin before the size may change."""
        left = self._left(tick, position)
        if left is None:
            return 1 << 62
        return math.ceil(left * self.parts if self._unit == "steps" else left / micro)

    def whole_passes(self, tick: int, position: int, ticks: int, examples: int) -> int:
        """Whole passes that end before the size may change."""
        left = self._left(tick, position)
        if left is None:
            return 1 << 62
        return int(left * self.parts // max(1, ticks) if self._unit == "steps" else left // examples)

    @property
    def _unit(self) -> str:
        return self.sizes[self.index].unit

    def _left(self, tick: int, position: int) -> Fraction | None:
        stretch = self.sizes[self.index]
        changes = (*stretch.offsets[self.offset + 1 :][:1], stretch.length)[0]
        return None if changes is None else changes - self._now(stretch, tick, position)

    def _now(self, stretch: Stretch, tick: int, position: int) -> Fraction:
        return self._count(stretch, tick, position) - self.began

    def _count(self, stretch: Stretch, tick: int, position: int) -> Fraction:
        return Fraction(tick, self.parts) if stretch.unit == "steps" else Fraction(position)
