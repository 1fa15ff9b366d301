"""The picture of a learning-rate range test, drawn without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kwarmup.plot import Path, check_path
from kwarmup.sweep import Sweep, check_method

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_BLUE, _ORANGE, _GREY = "#1f6fb4", "#d9661f", "#8a8a8a"


def plot_sweep(sweep: Sweep, path: Path | None = None, method: str = "steepest") -> Figure:
    """Draw the losses over the learning rate, the smooth curves through them, and a suggestion.

    Args:
        sweep: what `find_lr` returned.
        path: file to write, its ending says the format (`.png`, `.svg`, `.pdf`); `None` for none.
        method: which suggestion is marked, with its interval; where there is none, the losses stand alone.

    Returns:
        The figure, which notebooks show as they are.

    Raises:
        ValueError: if matplotlib does not know the ending, or there is no such method.

    Example:

    >>> import numpy as np
    >>> from kwarmup import Sweep
    >>> from kwarmup.plot_sweep import plot_sweep
    >>> rates = np.geomspace(1e-5, 10, 61)
    >>> figure = plot_sweep(Sweep(rates, [2 - 1.5 / (1 + (0.01 / rates) ** 2) + 9 * rates**2], 32))
    >>> figure.axes[0].get_xlabel()
    'learning rate'
    """
    check_method(method)
    from matplotlib.figure import Figure

    if path is not None:
        check_path(path)
    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    panel = figure.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(True, color="#808080", alpha=0.25, linewidth=0.7)  # on a light and on a dark page
    panel.set_axisbelow(True)
    panel.set_xscale("log")
    rates = np.array(sweep.learning_rates)
    for row in sweep.losses:
        losses = np.array(row)
        panel.plot(rates[: len(losses)], losses, ".", color=_GREY, markersize=3, alpha=0.6)
    panel.plot([], [], ".", color=_GREY, label="batches")
    try:
        descents = sweep.descents()
    except ValueError:
        descents = []
    for descent in descents:
        panel.plot(10**descent.places, descent.values, color=_BLUE, linewidth=1)
    if descents:
        panel.plot([], [], color=_BLUE, label="smoothed, a repeat each")
        found = sweep.suggest(method)
        panel.axvspan(found.low, found.high, color=_ORANGE, alpha=0.2, linewidth=0)
        panel.axvline(found.learning_rate, color=_ORANGE, label=f"{method}: {found}")
    starts = [np.median(row[:10]) for row in sweep.losses]
    lows = [np.nanmin(row) for row in sweep.losses]
    # What explodes would leave nothing to see of the rest.
    low, high = min(lows), max(starts)
    panel.set_ylim(low - 0.35 * (high - low), high + 0.5 * (high - low or 1))
    panel.set_xlim(rates[0], rates[-1])
    panel.set_xlabel("learning rate")
    panel.set_ylabel("loss of a batch")
    panel.legend(frameon=False, loc="lower left")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
