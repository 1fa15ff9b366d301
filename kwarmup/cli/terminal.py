"""What the commands print: charts of block characters and tables that fit the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kwarmup.plan import Plan

#: Columns of a terminal below which a plan's table leaves out what is said elsewhere.
_NARROW = 72

_BLOCKS = " ▁▂▃▄▅▆▇█"

#: What a history holds beside metrics.
_NO_METRICS = ("learning_rate", "batch_size")


def console() -> Console:
    """Return the console of standard output; wide enough for every table where it is not a terminal."""
    from rich.console import Console

    # Where the encoding lacks a character (ASCII, code pages), a `?` is better than a traceback.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    made = Console(highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made = Console(highlight=False, width=120)
    return made


def chart(values: Sequence[float] | np.ndarray, rows: int = 4) -> list[str]:
    """Return a chart of block characters, one value a column, from 0 (or the least, if below) to the largest.

    >>> chart([0, 1, 2, 3, 4, 3, 2, 1, 0], rows=1)
    ['▁▃▄▆█▆▄▃▁']
    """
    heights = np.asarray(values, "float64")
    low, high = min(0.0, heights.min()), max(0.0, heights.max())
    # A value of 0 keeps a line at the bottom, so that the curve is seen to be there.
    levels = np.rint((heights - low) / ((high - low) or 1) * (rows * 8 - 1) + 1).astype(int)
    return [
        "".join(_BLOCKS[min(8, max(0, level - 8 * row))] for level in levels) for row in reversed(range(rows))
    ]


def plan_chart(plan: Plan, width: int) -> str:
    """Return a chart of a plan's learning rate, its range at the left and the updates under it.

    Where the batch size moves, its chart stands below, over the same updates.
    """
    clock = plan.clock
    # Between two columns there may be a peak or a jump; both lie where a phase begins or ends.
    ends = [rate for row in plan.rows for rate in row.learning_rates]
    marks = [f"{max(0.0, *ends):.4g}", f"{min(0.0, *ends):.4g}"]
    moves = not isinstance(clock.batch_size, int)
    largest = f"{max(segment.batch_size for _, segment in clock.segments_between(0, None)):,}"
    margin = max(map(len, [*marks, largest] if moves else marks))
    columns = max(8, min(64, width - margin - 3))
    places = np.linspace(0, clock.steps - 1, columns).round().astype("int64")
    lines = _marked(chart(plan.curve(places)), marks, margin)
    if moves:
        sizes = _marked(chart(clock.batch_size_at(places), rows=2), [largest, "0"], margin)
        lines = ["learning rate", *lines, "batch size", *sizes]
    end = f"{clock.steps:,} updates"
    return "\n".join([*lines, f"{' ' * margin}  0{end.rjust(columns - 1)}"])


def _marked(lines: list[str], marks: list[str], margin: int) -> list[str]:
    """Return the lines of a chart with its upper and its lower end at the left."""
    left = [marks[0], *[""] * (len(lines) - 2), marks[1]]
    return [f"{mark.rjust(margin)} │{line.rstrip()}" for mark, line in zip(left, lines, strict=True)]


def scaled(plan: Plan) -> str:
    """Return what is said behind a batch size that moves: how the learning rate goes with it."""
    words = {
        0: "",
        0.5: "; the learning rate moves with its square root",
        1: "; the learning rate moves with it",
    }
    return words[plan.scaling]


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table, its first column to the left and the others to the right."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, head in enumerate(heads):
        made.add_column(head, justify="right" if index else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    return made


def plan_table(plan: Plan, width: int) -> Table:
    """Return a plan as a table, a row for each phase; with fewer columns where the terminal has few."""
    if width < _NARROW:
        return steps_table(plan, endless=False)
    rows = [
        (
            row.phase,
            f"{row.first:,} – {row.last:,}",
            f"{row.epochs[0]:.4g} – {row.epochs[1]:.4g}",
            _change(f"{size:,}" for size in row.batch_sizes),
            _change(f"{rate:.4g}" for rate in row.learning_rates),
        )
        for row in plan.rows
    ]
    return table(("phase", "updates", "epochs", "batch size", "learning rate"), rows)


def steps_table(plan: Plan, endless: bool) -> Table:
    """Return the table of a profile whose lengths are all in steps."""
    rows = [
        (row.phase, f"{row.first:,} – {row.last:,}", _change(f"{rate:.4g}" for rate in row.learning_rates))
        for row in plan.rows
    ]
    if endless:
        phase, updates, rates = rows[-1]
        rows[-1] = (phase, f"{updates.partition(' ')[0]} – …", rates)
    return table(("phase", "updates", "learning rate"), rows)


def results_table(last: Mapping[str, float]) -> Table:
    """Return the metrics of the last epoch, training beside validation."""
    names = [name for name in last if not name.startswith("val_") and name not in _NO_METRICS]
    names.sort(key=lambda name: name != "loss")
    rows = [(name, _digits(last[name]), _digits(last.get(f"val_{name}"))) for name in names]
    return table(("last epoch", "training", "validation"), rows)


def _digits(value: float | None) -> str:
    return (
        "" if value is None else f"{value:.4f}" if 0.01 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"
    )


def _change(values: Iterable[str]) -> str:
    """Return `a → b`, or only one of them where they are alike."""
    return " → ".join(dict.fromkeys(values))
