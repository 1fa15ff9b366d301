"""The look that the pictures of a study share: panels above each other, batch sizes along the bottom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kwarmup.studies.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f6fb4", "#d9661f", "#8a8a8a"
#: Inches: narrow, since a wide picture that is shrunk to a telephone has letters that nobody can read.
_WIDTH = 4.6
#: Labels of batch sizes that fit side by side.
_LABELS = 6
#: How far a picture goes beyond the batch sizes in it, so that nothing stands on its edge.
_MARGIN = 1.3


def panels(*heights: float, shared: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of such heights, in inches, above each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.4), layout="constrained")
    made = list(figure.subplots(len(heights), 1, sharex=shared, squeeze=False, height_ratios=heights)[:, 0])
    for panel in made:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, color="#808080", alpha=0.25, linewidth=0.7)  # on a light and on a dark page
        panel.set_axisbelow(True)
    return figure, made


def batch_sizes(panel: Axes, sizes: Sequence[int], wide: Sequence[float] = ()) -> None:
    """Make the lower axis one of batch sizes, with labels at those measured.

    Args:
        panel: the lowest one.
        sizes: those measured.
        wide: other places that the axis must reach to.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    panel.set_xscale("log", base=2)
    every = -(-len(sizes) // _LABELS)
    shown = sorted(sizes)[::-1][::every]
    panel.xaxis.set_major_locator(FixedLocator(shown))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_xlim(min([*sizes, *wide]) / _MARGIN, max([*sizes, *wide]) * _MARGIN)
    panel.set_xlabel("batch size")


def logarithmic(axis: Any) -> None:
    """Make an axis logarithmic, with plain numbers, at a 2 and a 5 too where decades alone are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 1.0
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.2 else (1.0, 2.0, 5.0), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def points(
    panel: Axes, rows: Mapping[int, Sequence[float]], colour: str = BLUE, label: str = "median"
) -> None:
    """Draw all seeds as points, their range as a bar and the medians as a line; what is not finite is left out.

    Args:
        panel: where.
        rows: for each batch size a value for each seed.
        colour: of all of it.
        label: of the line.
    """
    found = {size: [v for v in values if math.isfinite(v)] for size, values in sorted(rows.items())}
    found = {size: values for size, values in found.items() if values}
    if not found:
        return
    sizes = list(found)
    panel.plot(sizes, [float(np.median(values)) for values in found.values()], color=colour, label=label)
    panel.vlines(
        sizes, [min(v) for v in found.values()], [max(v) for v in found.values()], color=colour, alpha=0.5
    )
    for size, values in found.items():
        panel.plot([size] * len(values), values, "o", color=colour, markersize=3.5, alpha=0.7)


def crosses(panel: Axes, places: Sequence[float], label: str = "diverged") -> None:
    """Mark at the top of a panel where a value is missing because training diverged."""
    for index, place in enumerate(places):
        panel.plot(
            [place], [0.97], "x", color=ORANGE, markersize=6, markeredgewidth=1.8, clip_on=False,
            transform=panel.get_xaxis_transform(), label="" if index else label,
        )  # fmt: skip


def legend(panel: Axes, columns: int = 3) -> None:
    """Explain the lines above the panel, where they cannot cover anything."""
    panel.legend(
        frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=columns, columnspacing=1.2,
        handlelength=1.6,
    )  # fmt: skip
