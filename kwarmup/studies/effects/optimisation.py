"""What the batch size does to how fast a training comes to the target: in updates, examples and seconds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kwarmup.studies.difference import Difference, ratio
from kwarmup.studies.effects.panels import BLUE, ORANGE, batch_sizes, legend, logarithmic, panels, points
from kwarmup.studies.words import interval, listed, metric, number, seeds, spread, times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kwarmup.studies.result import Study
    from kwarmup.tradeoff import Tradeoff

#: How far beyond the batch sizes measured the picture follows a critical batch size.
_BEYOND = 4
#: What a fit does not say, by the side on which no bend shows.
_BEND = {
    "shown": "",
    "above": " No batch size that came to the target is large enough to show where larger ones stop paying.",
    "below": " No batch size is small enough to show where smaller ones stop saving examples.",
    "nowhere": " The batch sizes tried do not show where larger ones stop paying.",
}


def finding_optimisation(study: Study) -> str:
    """Return what the batch size does to the updates and the examples that the target takes."""
    if not study.runs:
        return "No training was finished, so nothing is known of the updates that a target takes."
    if study.settings.target is None:
        return "There is no target, so nothing is known of the updates that it takes."
    goal = f"{metric(study)} {number(study.settings.target)}"
    reached = _reached(study)
    if not reached:
        return (
            f"No training came to {goal} within {study.settings.run_examples:,} examples, so what the batch size does "
            "to the updates that takes is not known."
        )
    if all(found == 0 for size in reached for found in _updates(study, size).values()):
        return f"The untrained model is at {goal} already, so the target says nothing about batch sizes."
    if len(reached) == 1:
        only = reached[0]
        others = " of several" if len(study.batch_sizes) > 1 else ", the only one tried,"
        needed = spread(study.updates_to_target(only))
        return f"One batch size{others} came to {goal}: {only:,}, after {needed} updates."
    compared = _compared(study)
    first, last = compared[0], compared[-1]
    fewer = ratio(_updates(study, first), _updates(study, last))
    sizes = f"batch sizes {first:,} and {last:,}"
    missing = [size for size in study.batch_sizes if size not in reached]
    tail = f"; {listed(missing)} did not come there" if missing else ""
    if fewer is None or first == last:
        return f"To {goal} came {listed(reached)}, but no seed that could be compared at two of them{tail}."
    words = (
        f"To reach {goal}, {times(last / first)} the batch ({first:,} to {last:,}) takes {_fewer(fewer)} and "
        f"{_more(last / first / fewer.mean)}"
    )
    if fewer.seeds < 2:
        return f"{words}, from one seed, which cannot tell chance{tail}."
    if not fewer.told:
        chance = f"that {seeds(fewer.seeds)} could tell"
        return f"To {goal} there is no difference in updates between {sizes} {chance}{tail}."
    return f"{words}{tail}."


def notes_optimisation(study: Study) -> list[str]:
    """Return the critical batch size from both sides, the stopwatch, and what is missing."""
    notes = [critical(study)] if study.runs else []
    fit = study.tradeoff
    if fit is not None:
        notes.append(
            f"The fit: at least {number(fit.min_updates)} updates {interval(*fit.min_updates_interval)} and at least "
            f"{number(fit.min_examples)} examples {interval(*fit.min_examples_interval)}; the medians lie "
            f"{number(100 * fit.error, 2)} % off it.{_BEND[fit.bend]} The stopwatch is predicted by the fit times the "
            "seconds of an update."
        )
    notes += stopwatch(study)
    partly = {
        size: found for size in study.batch_sizes
        if (found := study.updates_to_target(size)) is not None and found.reached < found.seeds
    }  # fmt: skip
    if partly:
        words = [f"{found.reached} of {seeds(found.seeds)} at {size:,}" for size, found in partly.items()]
        notes.append(f"Not all came to the target: {listed(words)}. The points show those that did.")
    if not study.settings.own_peaks and len(study.batch_sizes) > 1:
        notes.append(
            "Each batch size had the learning rate of the scaling rule, not its own best one: where the rule ends, "
            "large batches look worse than they are."
        )
    return notes


def critical(study: Study) -> str:
    """Return the critical batch size from the fit and from the noise scale, side by side."""
    fit, noise = study.tradeoff, study.noise_at_target
    by_fit = by_noise = ""
    if fit is not None:
        by_fit = (
            f"{number(fit.critical_batch_size)} {interval(*fit.critical_interval)} by the fit to the updates"
        )
    if noise is not None:
        sign, target = study.settings.sign, study.settings.target
        reached = any(target is not None and sign * place.value >= sign * target for place in study.noise)
        where = "at the target" if reached else "at the last place measured"
        by_noise = f"{number(noise.value)} {interval(*noise.interval)} by the gradient noise {where}"
    if fit is None and noise is None:
        return (
            "The critical batch size is not known: fewer than three batch sizes came to a target, and no noise scale "
            "was measured at one."
        )
    if fit is None or noise is None:
        lacks = (
            "fewer than three batch sizes came to the target"
            if fit is None
            else "no noise scale was measured"
        )
        return f"The critical batch size is {by_fit or by_noise}; {lacks}, so nothing confirms it."
    low = max(fit.critical_interval[0], noise.interval[0])
    high = min(fit.critical_interval[1], noise.interval[1])
    if low <= high and math.isinf(max(fit.critical_interval[1], noise.interval[1])):
        verdict = "The two do not contradict each other, but not both have an upper end."
    elif low <= high:
        verdict = "The intervals overlap."
    else:
        apart = _apart(fit.critical_batch_size, noise.value)
        verdict = (
            f"The intervals do not overlap{apart}: both estimate the same thing, but the noise scale takes the "
            "loss for a quadratic that is as steep in every direction."
        )
    return f"The critical batch size is {by_fit}, and {by_noise}. {verdict}"


def stopwatch(study: Study) -> list[str]:
    """Return which batch size came to the target in the fewest seconds of training."""
    found = {size: one for size in _compared(study) if (one := study.seconds_to_target(size)) is not None}
    if len(found) < 2 or not all(one.low for one in found.values()):
        return []
    best = min(found, key=lambda size: found[size].median)
    alike = [size for size, one in found.items() if size != best and not _slower(study, best, size)]
    words = (
        f"By the stopwatch {best:,} came to the target soonest, in {spread(found[best], ' s')} of training"
    )
    if alike:
        words += f"; {listed(alike)} cannot be told from it"
    return [f"{words}."]


def draw_optimisation(study: Study) -> Figure | None:
    """Draw updates, examples and seconds to the target, and the critical batch sizes below."""
    reached = [size for size in _reached(study) if min(_updates(study, size).values()) > 0]
    if not reached:
        return None
    critical_sizes = _critical_sizes(study)
    figure, drawn = panels(1.9, 1.9, 1.9, *([0.8] if critical_sizes else []))
    updates, examples, clock = drawn[:3]
    rows = {size: list(_updates(study, size).values()) for size in reached}
    points(updates, rows)
    points(examples, {size: [size * one for one in found] for size, found in rows.items()})
    points(clock, {size: list(_seconds(study, size).values()) for size in reached})
    places = np.geomspace(reached[0], reached[-1], 60)
    if (fit := study.tradeoff) is not None:
        band = _band(fit, places)
        time = None
        if study.throughput is not None and len(study.throughput.batch_sizes) > 1:
            time = study.throughput.step_time.seconds(places)  # type: ignore[arg-type]
        for panel, factor in ((updates, 1.0), (examples, places), (clock, time)):
            if factor is None:
                continue
            label = "fit" if panel is not clock else "predicted"
            panel.plot(places, fit.updates(places) * factor, "--", color=ORANGE, label=label)
            panel.fill_between(
                places, band[0] * factor, band[1] * factor, color=ORANGE, alpha=0.2, linewidth=0
            )
    for panel, label in zip(drawn, ("updates", "examples", "seconds"), strict=False):
        panel.set_ylabel(f"{label} to target")
        logarithmic(panel.yaxis)
    legend(updates)
    if clock.get_lines() and fit is not None:
        legend(clock)
    limits = (study.batch_sizes[0] / _BEYOND, study.batch_sizes[-1] * _BEYOND)
    wide = [min(max(value, limits[0]), limits[1]) for value, _, _ in critical_sizes.values() if value > 0]
    batch_sizes(drawn[-1], study.batch_sizes, wide)
    if critical_sizes:
        _draw_critical(drawn[3], critical_sizes)
    return figure


def _band(fit: Tradeoff, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest of the curves that fit best at each critical batch size within its interval."""
    pairs = [pair for pair in zip(fit.batch_sizes, fit.medians, strict=True) if math.isfinite(pair[1])]
    sizes, medians = np.array(pairs, "float64").T
    # Far beyond the sizes a curve does not change any more.
    ends = (max(fit.critical_interval[0], sizes[0] / 1e3), min(fit.critical_interval[1], sizes[-1] * 1e3))
    curves = []
    for size in np.geomspace(*ends, 40):
        scale = np.exp(np.mean(np.log(medians / (1 + size / sizes))))
        curves.append(scale * (1 + size / places))
    curves.append(fit.updates(places))
    return np.min(curves, axis=0), np.max(curves, axis=0)


def _draw_critical(panel: Axes, found: dict[str, tuple[float, float, float]]) -> None:
    """Draw the critical batch sizes as points with bars; an arrow where one goes on beyond the picture."""
    low, high = panel.get_xlim()
    for row, (name, (value, *ends)) in enumerate(found.items()):
        colour = (ORANGE, BLUE)[name != "fit"]
        panel.hlines(row, max(ends[0], low), min(ends[1], high), color=colour, linewidth=3, alpha=0.6)
        for end, edge, marker in ((ends[0], low, "<"), (ends[1], high, ">")):
            if (end - edge) * (1 if marker == ">" else -1) > 0:
                panel.plot([edge], [row], marker, color=colour, markersize=7, clip_on=False)
        if low < value < high:
            panel.plot([value], [row], "o", color=colour, markersize=6)
    panel.set_yticks(range(len(found)), list(found))
    panel.set_ylim(len(found) - 0.4, -0.6)
    panel.set_title("critical batch size, 95 % intervals", loc="left", fontsize="medium")
    panel.grid(False, axis="y")


def _critical_sizes(study: Study) -> dict[str, tuple[float, float, float]]:
    found: dict[str, Any] = {"fit": study.tradeoff, "noise": study.noise_at_target}
    return {
        name: (one.critical_batch_size, *(one.critical_interval if name == "fit" else one.interval))
        for name, one in found.items()
        if one is not None
    }


def _reached(study: Study) -> list[int]:
    return [size for size in study.batch_sizes if study.updates_to_target(size) is not None]


def _compared(study: Study) -> list[int]:
    """The batch sizes where half the seeds or more came to the target; all that were reached, if there are none."""
    found = {size: study.updates_to_target(size) for size in _reached(study)}
    mostly = [size for size, one in found.items() if one is not None and 2 * one.reached >= one.seeds]
    return mostly or list(found)


def _updates(study: Study, size: int) -> dict[int, float]:
    return {run.seed: one.updates for run in study.at(size) if (one := study.to_target(run)) is not None}


def _seconds(study: Study, size: int) -> dict[int, float]:
    return {run.seed: one.seconds for run in study.at(size) if (one := study.to_target(run)) is not None}


def _slower(study: Study, best: int, size: int) -> bool:
    """Whether the seconds of a batch size are above those of the fastest by more than chance."""
    found = ratio(_seconds(study, size), _seconds(study, best))
    return found is not None and found.told and found.mean > 1


def _fewer(found: Difference) -> str:
    ends = (found.low, found.high) if found.seeds > 1 else ()
    if _same(found.mean):
        return "as many updates"
    if found.mean >= 1:
        return f"{times(found.mean, *ends)} fewer updates"
    turned = [1 / end if end else math.inf for end in reversed(ends)]
    return f"{times(1 / found.mean, *turned)} as many updates"


def _more(factor: float) -> str:
    if _same(factor):
        return "as many examples"
    return f"{times(factor)} as many examples" if factor > 1 else f"{times(1 / factor)} fewer examples"


def _same(factor: float) -> bool:
    """Whether a ratio reads as none: one that nobody would act upon."""
    return 0.95 < factor < 1.05


def _apart(one: float, other: float) -> str:
    if not (0 < one < math.inf and 0 < other < math.inf):
        return ""
    return f", and the two differ by {times(max(one / other, other / one))}"
