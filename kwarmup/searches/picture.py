"""The picture of a search: the score over peak and batch size, and what each hyperparameter has to do with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from kwarmup.errors import Code, value_error
from kwarmup.plot import check_path
from kwarmup.searches.outcome import DIVERGED, FAILED
from kwarmup.searches.space import BATCH_SIZE, PEAK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kwarmup.searches.result import SearchResult

_RED, _GREY, _BLUE = "#b3261e", "#8a8a8a", "#1f6fb4"
#: Scores below this quantile share the darkest colour: one failure must not flatten all that is good.
_FLOOR = 0.25


def plot(result: SearchResult, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw a search; see `SearchResult.plot`."""
    from matplotlib.figure import Figure

    if path is not None:
        check_path(path)
    if not result.trials:
        raise value_error(
            "trials", Code("none"), "one trial or more", "tuner.search(x, y, validation_data=(xv, yv))"
        )
    try:
        shares = result.importance()
    except ValueError:
        shares = {}
    figure = Figure(figsize=(8.0, 4.2 + 0.3 * len(shares) + 0.6 * bool(shares)), layout="constrained")
    if shares:
        panels = figure.subplots(2, 1, height_ratios=[4.2, 0.6 + 0.3 * len(shares)])
        _bars(panels[1], shares)
        surface: Any = panels[0]
    else:
        surface = figure.subplots()
    _surface(figure, surface, result)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _surface(figure: Figure, panel: Axes, result: SearchResult) -> None:
    """Batch sizes stand at equal distances, as they were chosen among; the peak is told at the reference."""
    rows = {size: row for row, size in enumerate(result.batch_sizes)}
    peaks = [trial.values[PEAK] for trial in result.trials]
    low, high = min(peaks) / 1.4, max(peaks) * 1.4
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    panel.set_ylim(-0.6, len(rows) - 0.4)
    done = [trial for trial in result.finished if trial.values[BATCH_SIZE] in rows]
    if done:
        x, y = [t.values[PEAK] for t in done], [rows[t.values[BATCH_SIZE]] for t in done]
        scores = np.array([t.score for t in done], "float64")
        worst, best = np.quantile(scores, _FLOOR if result.direction == "max" else 1 - _FLOOR), scores[0]
        if worst == best:
            worst = scores[-1]
        # Along each batch size between its trials: what lies between the sizes was not tried.
        colours = "viridis" if result.direction == "max" else "viridis_r"
        limits = {"vmin": min(worst, best), "vmax": max(worst, best) + 1e-12}
        _bands(panel, x, y, scores, (low, high), colours, limits)
        dots = panel.scatter(
            x, y, c=scores, cmap=colours, s=46, edgecolors="white", linewidths=1.0, zorder=3, **limits
        )
        extend = "min" if result.direction == "max" else "max"
        figure.colorbar(dots, ax=panel, label=result.objective.replace("_", " "), extend=extend, pad=0.01)
        panel.scatter(
            x[:1],
            y[:1],
            marker="*",
            s=330,
            c="white",
            edgecolors="black",
            zorder=4,
            label=f"best: {scores[0]:.4g}",
        )
    _failures(panel, result, rows)
    panel.set_yticks(range(len(rows)), [f"{size:,}" for size in rows])
    panel.set_ylabel("batch size")
    panel.set_xlabel(f"peak learning rate, told at batch size {result.reference}")
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)


def _bands(
    panel: Axes,
    x: list[float],
    y: list[int],
    scores: np.ndarray,
    ends: tuple[float, float],
    colours: str,
    limits: Any,
) -> None:
    grid = np.geomspace(*ends, 400)
    for row in set(y):
        here = sorted(
            (np.log(peak), score) for peak, at, score in zip(x, y, scores, strict=True) if at == row
        )
        places, values = zip(*here, strict=True)
        # No further than a factor of 1.4 from what was tried.
        inside = (np.log(grid) >= places[0] - 0.34) & (np.log(grid) <= places[-1] + 0.34)
        line = np.where(inside, np.interp(np.log(grid), places, values), np.nan)
        edges = np.geomspace(*ends, 401)
        panel.pcolormesh(
            edges, [row - 0.3, row + 0.3], line[np.newaxis], cmap=colours, alpha=0.45, zorder=1, **limits
        )


def _failures(panel: Axes, result: SearchResult, rows: dict[int, int]) -> None:
    beyond = [row for size, row in rows.items() if size >= result.infeasible]
    if beyond:
        panel.axhspan(
            min(beyond) - 0.5, max(beyond) + 0.6, facecolor="none", edgecolor=_GREY, hatch="//", alpha=0.6, zorder=0,
            label="out of memory",
        )  # fmt: skip
    for status, marker, colour in ((DIVERGED, "x", _RED), (FAILED, "s", _GREY)):
        here = [t for t in result.failed if t.status == status and t.values[BATCH_SIZE] in rows]
        if here:
            x, y = [t.values[PEAK] for t in here], [rows[t.values[BATCH_SIZE]] for t in here]
            panel.scatter(x, y, marker=marker, c=colour, s=60, zorder=3, label=status)
            for row in set(y) if status == DIVERGED else ():
                least = min(peak for peak, at in zip(x, y, strict=True) if at == row)
                panel.fill_betweenx(
                    [row - 0.3, row + 0.3],
                    least,
                    panel.get_xlim()[1],
                    color=_RED,
                    alpha=0.12,
                    zorder=0,
                    linewidth=0,
                )


def _bars(panel: Axes, shares: dict[str, float]) -> None:
    names = list(reversed(shares))
    panel.barh(
        [name.replace("_", " ") for name in names], [shares[name] for name in names], color=_BLUE, height=0.6
    )
    panel.set_xlim(0, 1)
    panel.xaxis.set_major_formatter("{x:.0%}")
    panel.set_xlabel("importance: share of the score's changes")
    panel.spines[["top", "right"]].set_visible(False)
