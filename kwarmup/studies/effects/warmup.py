"""What warmup buys: how much larger the peak of the learning rate may be with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kwarmup.studies.effects.panels import BLUE, ORANGE, crosses, legend, logarithmic, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kwarmup.studies.result import Study


def finding_warmup(study: Study) -> str:
    """Return how many times larger the peak may be with warmup."""
    if study.gain is None:
        return "What warmup buys was not measured."
    return str(study.gain)


def notes_warmup(study: Study) -> list[str]:
    """Return what was trained for it."""
    gain = study.gain
    if gain is None:
        return ["Ask for it: study(..., warmup_gain=True)."]
    data = "validation examples" if gain.validated else "the last tenth of the updates"
    seeds = len(gain.with_warmup[0])
    return [
        f"{gain.steps:,} updates of {gain.batch_size:,} examples from {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{gain.profiles[0]} against {gain.profiles[1]}; the loss is that of {data}, and a peak is good within 5 % of "
        f"the best. The interval holds the median over endlessly many seeds with a probability of "
        f"{100 * gain.confidence:.0f} %."
    ]


def draw_warmup(study: Study) -> Figure | None:
    """Draw the final loss against the peak, with warmup and without."""
    gain = study.gain
    if gain is None:
        return None
    figure, (panel,) = panels(2.8)
    drawn = []
    arms = (("with warmup", gain.with_warmup, BLUE), ("without", gain.without_warmup, ORANGE))
    for label, losses, colour in arms:
        table = np.array(losses)
        medians = np.median(table, axis=1)
        panel.plot(
            gain.peaks, np.where(np.isfinite(medians), medians, math.nan), "o-", color=colour, label=label
        )
        for seed in table.T:
            panel.plot(gain.peaks, np.where(np.isfinite(seed), seed, math.nan), ".", color=colour, alpha=0.5)
        drawn += table[np.isfinite(table)].tolist()
    lost = np.isinf(np.array(gain.without_warmup)).any(axis=1) | np.isinf(np.array(gain.with_warmup)).any(
        axis=1
    )
    crosses(panel, np.array(gain.peaks)[lost].tolist(), "some diverged")
    panel.set_xlabel("peak of the learning rate")
    panel.set_ylabel("final loss")
    logarithmic(panel.xaxis)
    if drawn and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
        logarithmic(panel.yaxis)
    legend(panel)
    return figure
