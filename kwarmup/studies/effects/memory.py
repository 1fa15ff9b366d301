"""What the batch size does to the memory that training holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kwarmup.studies.effects.panels import BLUE, ORANGE, batch_sizes, legend, logarithmic, panels
from kwarmup.studies.words import listed, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kwarmup.footprint import MemoryUse
    from kwarmup.studies.result import Study

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
#: A process holds some of this more or less from one moment to the next.
_CHANCE = 4e6


def finding_memory(study: Study) -> str:
    """Return how much memory the batch sizes take, and which did not fit."""
    lost = study.throughput.out_of_memory if study.throughput is not None else ()
    if lost:
        fitted = study.throughput.batch_sizes if study.throughput is not None else ()
        largest = f"; {fitted[-1]:,} does" if fitted else ""
        return f"Batch size {listed(lost)} does not fit into the memory of this machine{largest}."
    found = study.memory
    if found is None:
        return "How much memory a batch takes was not measured."
    first, last = found.batch_sizes[0], found.batch_sizes[-1]
    low, high = found.bytes(first), found.bytes(last)
    if first == last:
        return f"An update at batch size {first:,}, the only one measured, takes {size(low)} of memory."
    words = f"An update takes {size(low)} of memory at batch size {first:,} and {size(high)} at {last:,}"
    if high - low < _CHANCE:
        return (
            f"{words}, beside the {size(found.held)} that were held before: too little to tell them apart by."
        )
    return f"{words}, some {size(found.line.per_example)} for each example more."


def notes_memory(study: Study) -> list[str]:
    """Return what is counted, how far the line is off, and where it would fill the memory."""
    found = study.memory
    if found is None:
        return []
    notes = [
        f"Counted is the peak of two updates, beside the {size(found.held)} that were held before them, among these "
        "the model and the data."
    ]
    if len(found.batch_sizes) > 1 and _told(found):
        notes.append(
            f"What was measured is off a straight line by up to {100 * found.line.error:.0f} %: libraries compute "
            "larger batches in other ways."
        )
        if found.memory is not None and found.expected_to_fit is not None:
            notes.append(
                f"By that line a batch of some {number(found.expected_to_fit, 2)} would fill the "
                f"{size(found.memory - found.held)} that were left. It was not tried: kw.max_batch_size does that."
            )
    return notes


def draw_memory(study: Study) -> Figure | None:
    """Draw the bytes of an update against the batch size, with the line; `None` where there is nothing to see."""
    found = study.memory
    if found is None or len(found.batch_sizes) < 2:
        return None
    figure, (panel,) = panels(3.0)
    sizes = found.batch_sizes
    panel.plot(
        sizes, [found.bytes(one) / 1e6 for one in sizes], "o-", color=BLUE, markersize=4, label="measured"
    )
    if _told(found):
        places = np.geomspace(sizes[0], sizes[-1], 60)
        panel.plot(
            places,
            [found.line.bytes(place) / 1e6 for place in places],
            "--",
            color=ORANGE,
            label="straight line",
        )
    panel.set_ylabel("memory of an update, MB")
    if min(found.bytes(one) for one in sizes) > 0:
        logarithmic(panel.yaxis)
    batch_sizes(panel, sizes)
    legend(panel)
    return figure


def size(count: float) -> str:
    """Return a number of bytes in words.

    >>> size(12_345_678), size(999), size(2.5e9)
    ('12.3 MB', '999 bytes', '2.5 GB')
    """
    for unit, worth in _UNITS:
        if count >= worth:
            return f"{number(count / worth)} {unit}"
    return f"{count:.0f} bytes"


def _told(found: MemoryUse) -> bool:
    return found.bytes(found.batch_sizes[-1]) - found.bytes(found.batch_sizes[0]) >= _CHANCE
