"""A study as text for a terminal: a table of the batch sizes, what follows, and the recommended plan."""

from __future__ import annotations

import textwrap

from kwarmup.studies.effects import EFFECTS
from kwarmup.studies.effects.learning_rate import first_line
from kwarmup.studies.effects.optimisation import critical, stopwatch
from kwarmup.studies.result import Study
from kwarmup.studies.rows import Rows, batch_sizes


def lines(study: Study, goal: str, width: int = 100) -> str:
    """Return what a study has found, as lines of at most `width` columns where words allow it.

    Args:
        study: with one training or more.
        goal: of the plan, as for `Study.advise`.
        width: columns of the terminal.
    """
    parts = [table(study, width)] if study.runs else []
    parts += [textwrap.fill(text, width, subsequent_indent="  ") for text in findings(study)]
    if study.missing:
        parts += [
            "Not measured:",
            *(textwrap.fill(f"  {text}", width, subsequent_indent="  ") for text in study.missing),
        ]
    try:
        advice = study.advise(goal)
    except ValueError as error:
        return "\n".join(
            [*parts, textwrap.fill(f"No plan for the goal {goal!r}: {first_line(error)}", width)]
        )
    parts.append(f"Recommended, for {goal}:")
    for reason in advice.reasons:
        parts.append(f"  {reason.part}: {reason.choice}")
        parts.append(textwrap.fill(reason.why, width, initial_indent="    ", subsequent_indent="    "))
    return "\n".join([*parts, repr(advice.plan)])


def table(study: Study, width: int) -> str:
    """Return a row for each batch size: medians over the seeds, with the lowest and the highest where they fit.

    Args:
        study: with one training or more.
        width: columns of the terminal.
    """
    made = _aligned(batch_sizes(study))
    return made if max(map(len, made.splitlines())) <= width else _aligned(batch_sizes(study, ranges=False))


def findings(study: Study) -> list[str]:
    """Return what the figures say: a sentence for each effect, then the critical batch size and the stopwatch."""
    found = [f"{effect.title}: {effect.finding(study)}" for effect in EFFECTS]
    return [*found, critical(study), *stopwatch(study)] if study.runs else found


def _aligned(rows: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
