"""What the batch size does to the speed of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kwarmup.studies.difference import ratio
from kwarmup.studies.effects.panels import GREY, ORANGE, batch_sizes, legend, logarithmic, panels, points
from kwarmup.studies.words import interval, number, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kwarmup.studies.result import Study

#: A line that is off by more than this does not say how long an update takes.
_OFF = 0.2


def finding_speed(study: Study) -> str:
    """Return what the batch size does to the examples per second."""
    found = study.throughput
    if found is None:
        return "How fast training is was not measured."
    first, last = found.batch_sizes[0], found.batch_sizes[-1]
    slow, fast = found.examples_per_second(first), found.examples_per_second(last)
    if first == last:
        return (
            f"Training takes {number(slow.median)} examples per second at batch size {first:,}, the only one "
            "measured."
        )
    faster = ratio(_speeds(study, last), _speeds(study, first))
    assert faster is not None
    repeats = len(found.seconds)
    if not faster.told:
        return (
            f"There is no difference in speed between batch sizes {first:,} and {last:,} that {repeats} "
            f"repeat{'s' if repeats > 1 else ''} could tell: some {number(slow.median)} and {number(fast.median)} "
            "examples per second."
        )
    words = (
        f"Training takes {number(slow.median)} examples per second at batch size {first:,} and {number(fast.median)} "
        f"at {last:,}, {times(faster.mean)} as many"
    )
    if found.knee == last:
        return f"{words}, and was still getting faster there."
    if found.knee == first:
        return f"{words}: larger batches are no faster."
    return f"{words}, and from {found.knee:,} on there is hardly any speed left to gain."


def notes_speed(study: Study) -> list[str]:
    """Return the fit in figures, how far off it is, and what did not fit into memory."""
    found = study.throughput
    if found is None:
        return []
    notes = []
    if len(found.batch_sizes) > 1:
        time = found.step_time
        fixed = interval(1e3 * time.fixed_interval[0], 1e3 * time.fixed_interval[1])
        each = interval(1e6 * time.per_example_interval[0], 1e6 * time.per_example_interval[1])
        notes.append(
            f"An update takes {number(1e3 * time.fixed)} ms {fixed} and {number(1e6 * time.per_example)} µs {each} for "
            f"each example; what was measured is off this line by up to {100 * time.error:.0f} %."
        )
        if time.error > _OFF:
            notes.append("That is far: machines bend where caches overflow. Trust the points, not the line.")
    if found.interrupted:
        notes.append("The measurement was interrupted; what is here stands.")
    slowest = max(zip(found.compile_seconds, found.batch_sizes, strict=True))
    if slowest[0] >= 0.1:
        notes.append(f"Compiling is not in these times: up to {number(slowest[0], 2)} s, at {slowest[1]:,}.")
    return notes


def draw_speed(study: Study) -> Figure | None:
    """Draw examples per second against batch size, with the fit and the knee."""
    found = study.throughput
    if found is None:
        return None
    figure, (panel,) = panels(3.0)
    sizes = found.batch_sizes
    points(panel, {size: list(_speeds(study, size).values()) for size in sizes})
    if len(sizes) > 1:
        time = found.step_time
        places = np.geomspace(sizes[0], sizes[-1], 60)
        panel.plot(places, time.examples_per_second(places), "--", color=ORANGE, label="fit")  # type: ignore[arg-type]
        ends = [time.fixed_interval[end] + time.per_example_interval[end] * places for end in (0, 1)]
        if ends[0].all():
            panel.fill_between(
                places, places / ends[0], places / ends[1], color=ORANGE, alpha=0.2, linewidth=0
            )
        if found.knee != sizes[-1]:
            panel.axvline(found.knee, color=GREY, linestyle=":", label=f"knee, {found.knee:,}")
    panel.set_ylabel("examples per second")
    logarithmic(panel.yaxis)
    batch_sizes(panel, sizes)
    legend(panel)
    return figure


def _speeds(study: Study, size: int) -> dict[int, float]:
    """The examples per second in each repeat."""
    assert study.throughput is not None
    place = study.throughput.batch_sizes.index(size)
    return {repeat: size / row[place] for repeat, row in enumerate(study.throughput.seconds)}
