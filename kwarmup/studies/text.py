"""A study as text for a terminal: a table of the batch sizes, what follows, and the recommended plan."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

from kwarmup.studies.result import Spread, Study


def lines(study: Study, goal: str, width: int = 100) -> str:
    """Return what a study has found, as lines of at most `width` columns where words allow it.

    Args:
        study: with one training or more.
        goal: of the plan, as for `Study.advise`.
        width: columns of the terminal.
    """
    parts = [table(study), *(textwrap.fill(text, width) for text in findings(study))]
    if study.missing:
        parts += [textwrap.fill(f"Not measured: {' '.join(study.missing)}", width)]
    if study.throughput is not None and study.runs:
        advice = study.advise(goal)
        parts.append(f"Recommended, for {goal}:")
        for reason in advice.reasons:
            parts.append(f"  {reason.part}: {reason.choice}")
            parts.append(textwrap.fill(reason.why, width, initial_indent="    ", subsequent_indent="    "))
        parts.append(repr(advice.plan))
    return "\n".join(parts)


def table(study: Study) -> str:
    """Return a row for each batch size: medians over the seeds, with the lowest and the highest."""
    monitor = study.settings.monitor
    heads = ("batch size", "examples/s", "updates to target", "seconds to target", monitor, "gap", "seeds")
    rows = [heads]
    for size in study.batch_sizes:
        runs = study.at(size)
        diverged = sum(run.diverged for run in runs)
        speed = "–"
        if study.throughput is not None and size in study.throughput.batch_sizes:
            speed = f"{study.throughput.examples_per_second(size).median:,.0f}"
        rows.append(
            (
                f"{size:,}", speed,
                _cell(study.updates_to_target(size), lambda value: f"{value:,.0f}"),
                _cell(study.seconds_to_target(size), lambda value: f"{value:.3g}"),
                _cell(study.spread(size, lambda run: run.validation), lambda value: f"{value:.4g}"),
                _cell(study.spread(size, study.gap), lambda value: f"{value:.2g}"),
                f"{len(runs)}, {diverged} diverged" if diverged else f"{len(runs)}",
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def findings(study: Study) -> list[str]:
    """Return what the figures say, a sentence or two for each kind."""
    found = []
    settings = study.settings
    if settings.target is not None:
        found.append(
            f"Target: {settings.monitor} of {settings.target:.4g} on the validation data; each training has seen "
            f"{settings.run_examples:,} examples, {settings.run_examples / settings.examples:.3g} passes."
        )
    if study.throughput is not None and len(study.throughput.batch_sizes) > 1:
        time = study.throughput.step_time
        found.append(
            f"Speed: an update takes {1e3 * time.fixed:.2f} ms and {1e6 * time.per_example:.2g} µs for each example "
            f"(the line is off by up to {100 * time.error:.0f} %); from {study.throughput.knee} on, larger batches are "
            "hardly faster."
        )
    if (fit := study.tradeoff) is not None:
        found.append(f"Updates: {fit}")
    if study.noise:
        words = ", ".join(
            f"{place.scale.value:.3g} after {place.examples:,} examples"
            for place in study.noise
            if math.isfinite(place.scale.value)
        )
        if (at_target := study.noise_at_target) is not None:
            low, high = at_target.interval
            words += f"; at the target {at_target.value:.3g} [{low:.3g}, {high:.3g}]"
        found.append(f"Noise scale: {words}.")
    found.append(f"Quality: {quality(study)}")
    if study.gain is not None:
        found.append(str(study.gain))
    return found


def quality(study: Study) -> str:
    """Return whether the metric at the end depends on the batch size, as far as the seeds can tell."""
    sizes = [size for size in study.batch_sizes if not all(run.diverged for run in study.at(size))]
    if len(sizes) < 2:
        return "there is only one batch size to look at."
    spreads = {size: study.spread(size, lambda run: run.validation) for size in sizes}
    known = {size: spread for size, spread in spreads.items() if spread is not None}
    sign = study.settings.sign
    best = max(known, key=lambda size: sign * known[size].median)
    worst = min(known, key=lambda size: sign * known[size].median)
    apart = known[worst].high < known[best].low if sign > 0 else known[worst].low > known[best].high
    if not apart or known[best].seeds < 2:
        return f"after as many examples, no difference between batch sizes that {known[best].seeds} seeds could tell."
    return (
        f"after as many examples, {best} came to {known[best].median:.4g} and {worst} to {known[worst].median:.4g}, "
        f"every seed of the one better than any of the other. Larger batches made fewer updates: that is not "
        "their noise alone."
    )


def _cell(spread: Spread | None, words: Callable[[float], str]) -> str:
    if spread is None:
        return "–"
    one = words(spread.median)
    if spread.reached < spread.seeds:
        one += f" ({spread.reached} of {spread.seeds})"
    elif spread.seeds > 1:
        one += f" [{words(spread.low)}, {words(spread.high)}]"
    return one
