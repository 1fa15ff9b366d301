"""How noisy gradients are along a training, and the batch sizes that this speaks for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kwarmup.goodput import best_batch_size
from kwarmup.studies.effects.panels import BLUE, GREY, ORANGE, legend, logarithmic, panels
from kwarmup.studies.words import interval, listed, number, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kwarmup.studies.result import Noise, Study


def finding_noise(study: Study) -> str:
    """Return how the noise scale moves along the training."""
    if not study.noise:
        return "The gradient noise scale was not measured."
    first, last = study.noise[0], study.noise[-1]
    where = f"at batch size {study.settings.reference:,}"
    if len(study.noise) == 1:
        return f"The noise scale is {_said(first)} after {first.examples:,} examples {where}, the only place measured."
    endless = [place for place in study.noise if math.isinf(place.scale.value)]
    if len(endless) == len(study.noise):
        return "Nowhere along the training does a gradient show in its noise: the noise scale has no upper bound."
    if endless:
        finite = [place for place in study.noise if math.isfinite(place.scale.value)]
        return (
            f"At {len(endless)} of {len(study.noise)} places along the training no gradient shows in its noise; where "
            f"it does, the noise scale goes from {_said(finite[0])} to {_said(finite[-1])}."
        )
    seen = f"while {last.examples - first.examples:,} examples are trained on {where}"
    (low, high), (new_low, new_high) = first.scale.interval, last.scale.interval
    if new_low <= high and low <= new_high:
        return f"The noise scale does not change by more than its intervals {seen}: {_said(first)} and {_said(last)}."
    word, change = "grows", last.scale.value / max(first.scale.value, 1e-9)
    if change < 1:
        word, change = "falls", 1 / change
    return f"The noise scale {word} from {_said(first)} to {_said(last)}, {times(change)}, {seen}."


def notes_noise(study: Study) -> list[str]:
    """Return the batch sizes that the noise speaks for, and what is not known."""
    notes = []
    spoken = fastest(study)
    if spoken:
        ends = spoken if len(spoken) == 1 else [spoken[0], spoken[-1]]
        words = listed(f"{number(size, 2)} after {place.examples:,} examples" for place, size in ends)
        notes.append(
            f"With the times measured, √(fixed · noise scale / per example) trains fastest: batches of {words}, "
            "whether or not such a size was tried."
        )
    wide = [place for place in study.noise if not place.scale.converged]
    if wide:
        notes.append(
            f"At {len(wide)} of {len(study.noise)} places the interval stayed wider than asked for: "
            f"{wide[-1].scale.stopped}."
        )
    if study.noise:
        notes.append(
            "Batches far below the noise scale lose nothing by growing; far above it they gain little."
        )
    return notes


def fastest(study: Study) -> list[tuple[Noise, float]]:
    """Return each place with the batch size that trains fastest at its noise, where that is finite."""
    if study.throughput is None or len(study.throughput.batch_sizes) < 2:
        return []
    time = study.throughput.step_time
    if not time.per_example:
        return []
    optima = [
        (place, best_batch_size(time.fixed, time.per_example, place.scale.value, max=2**31).optimum)
        for place in study.noise
    ]
    return [(place, optimum) for place, optimum in optima if 0 < optimum < math.inf]


def draw_noise(study: Study) -> Figure | None:
    """Draw the noise scale with its intervals along the training, and the batch size that is fastest at it."""
    places = [place for place in study.noise if math.isfinite(place.scale.interval[0])]
    if not places:
        return None
    figure, (panel,) = panels(3.0)
    finite = [place for place in places if math.isfinite(place.scale.value) and place.scale.value > 0]
    spoken = fastest(study)
    ends = [end for p in places for end in (p.scale.value, *p.scale.interval) if 0 < end < math.inf]
    ends += [size for _, size in spoken]
    if not ends:
        return None
    panel.set_ylim(min(ends) / 1.5, max(ends) * 1.5)
    bottom, top = panel.get_ylim()
    # Where nothing is finite, the line has no points, but its bars still want a name.
    panel.plot(
        [p.examples for p in finite],
        [p.scale.value for p in finite],
        "o-",
        color=BLUE,
        markersize=4,
        label="noise scale",
    )
    for place in places:
        low, high = place.scale.interval
        panel.vlines(place.examples, max(low, bottom), min(high, top), color=BLUE, alpha=0.6, linewidth=2)
        if math.isinf(high):
            panel.plot([place.examples], [top], "^", color=BLUE, markersize=6, clip_on=False)
    if spoken:
        panel.plot(
            [place.examples for place, _ in spoken], [size for _, size in spoken], "s--", color=ORANGE,
            markersize=4, label="fastest batch size",
        )  # fmt: skip
    target = study.settings.target
    sign = study.settings.sign
    reached = [p.examples for p in study.noise if target is not None and sign * p.value >= sign * target]
    if reached:
        panel.axvline(reached[0], color=GREY, linestyle=":", label="target")
    panel.set_ylabel("examples")
    panel.set_xlabel("examples trained on")
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.locator_params(axis="x", nbins=5)
    logarithmic(panel.yaxis)
    legend(panel)
    return figure


def _said(place: Noise) -> str:
    value = "without an upper bound" if math.isinf(place.scale.value) else number(place.scale.value)
    return f"{value} {interval(*place.scale.interval)}"
