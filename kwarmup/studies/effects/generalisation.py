"""What the batch size does to the quality at the end, on examples that were not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kwarmup.studies.difference import paired
from kwarmup.studies.effects.panels import GREY, batch_sizes, crosses, legend, panels, points
from kwarmup.studies.words import interval, listed, metric, number, seeds, sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kwarmup.studies.result import Study
    from kwarmup.studies.run import Run


def finding_generalisation(study: Study) -> str:
    """Return whether the metric at the end differs between the smallest and the largest batch."""
    name, sizes = metric(study), _sizes(study)
    if not study.runs:
        return "No training was finished, so nothing is known of the quality at the end."
    if not sizes:
        return "Every training diverged, so nothing is known of the quality at the end."
    first, last = sizes[0], sizes[-1]
    middles = [
        study.spread(size, lambda run: None if run.diverged else run.validation) for size in (first, last)
    ]
    small, large = (None if middle is None else middle.median for middle in middles)
    if first == last:
        return f"{sentence(name)} at the end is {number(small)} at batch size {first:,}, the only one to look at."
    moved = paired(_values(study, first), _values(study, last))
    values = f"{number(small)} and {number(large)}"
    if moved is None:
        return f"Batch sizes {first:,} and {last:,} share no seed that did not diverge: {name} {values} say little."
    if moved.seeds < 2:
        return (
            f"After as many examples {name} is {number(small)} at batch size {first:,} and {number(large)} at "
            f"{last:,}, from one seed, which cannot tell chance."
        )
    if not moved.told:
        return (
            f"After as many examples there is no difference in {name} between batch sizes {first:,} and {last:,} that "
            f"{seeds(moved.seeds)} could tell: {values}."
        )
    word = "better" if study.settings.sign * moved.mean > 0 else "worse"
    low, high = sorted((abs(moved.low), abs(moved.high)))
    return (
        f"After as many examples {name} is {word} at batch size {last:,} than at {first:,}, by "
        f"{number(abs(moved.mean))} {interval(low, high)}: {values}."
    )


def notes_generalisation(study: Study) -> list[str]:
    """Return the gap, what diverged, and what equal examples do not say."""
    sizes = _sizes(study)
    notes = []
    if len(sizes) > 1:
        gaps = {
            size: study.spread(size, lambda run: None if run.diverged else study.gap(run)) for size in sizes
        }
        known = {size: gap for size, gap in gaps.items() if gap is not None}
        if len(known) > 1:
            first, last = min(known), max(known)
            moved = paired(_values(study, first, study.gap), _values(study, last, study.gap))
            told = "" if moved is not None and moved.told else ", which the seeds cannot tell apart"
            notes.append(
                f"The generalisation gap, by which {metric(study)} is better on training examples, is "
                f"{number(known[first].median, 2)} at {first:,} and {number(known[last].median, 2)} at {last:,}{told}."
            )
    if lost := diverged(study):
        words = [f"{count} of {total} at batch size {size:,}" for size, (count, total) in lost.items()]
        notes.append(f"Diverged: {listed(words)}; these are left out here.")
    if len(study.batch_sizes) > 1:
        factor = study.batch_sizes[-1] / study.batch_sizes[0]
        notes.append(
            f"All trainings saw the same {study.settings.run_examples:,} examples, so the largest batch made "
            f"{number(factor)} times fewer updates than the smallest. What differs here may come from fewer updates, "
            "and with as many updates larger batches may well be no worse (Shallue et al. 2019)."
        )
    held_out = study.facts.get("validation_examples")
    if held_out:
        notes.append(
            f"On {held_out:,} validation examples: with others, all values would move a little together."
        )
    return notes


def draw_generalisation(study: Study) -> Figure | None:
    """Draw the metric at the end and the generalisation gap against batch size."""
    if not _sizes(study):
        return None
    figure, (above, below) = panels(2.4, 1.7)
    sizes = study.batch_sizes
    points(above, {size: list(_values(study, size).values()) for size in sizes})
    points(below, {size: list(_values(study, size, study.gap).values()) for size in sizes})
    crosses(above, [run.batch_size for size in sizes for run in study.at(size) if run.diverged])
    if diverged(study):
        legend(above)
    above.set_ylabel(f"validation {metric(study)}")
    below.axhline(0, color=GREY, linewidth=1)
    below.set_ylabel("generalisation gap")
    batch_sizes(below, sizes)
    return figure


def diverged(study: Study) -> dict[int, tuple[int, int]]:
    """Return for each batch size how many of how many trainings diverged, where any did."""
    found = {size: study.at(size) for size in study.batch_sizes}
    counts = {size: (sum(run.diverged for run in runs), len(runs)) for size, runs in found.items()}
    return {size: count for size, count in counts.items() if count[0]}


def _sizes(study: Study) -> list[int]:
    return [size for size in study.batch_sizes if _values(study, size)]


def _values(study: Study, size: int, value: object = None) -> dict[int, float]:
    """The metric, or something else of a run, for each seed that did not diverge."""
    read = value if callable(value) else _validation
    return {run.seed: float(read(run)) for run in study.at(size) if not run.diverged}


def _validation(run: Run) -> float:
    return run.validation
