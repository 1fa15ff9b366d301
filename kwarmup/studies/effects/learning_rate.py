"""Which learning rates the model can be trained with, by the range test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kwarmup.studies.effects.panels import legend, logarithmic, panels
from kwarmup.studies.words import interval, number
from kwarmup.sweep import Suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kwarmup.studies.result import Study


def finding_learning_rate(study: Study) -> str:
    """Return what the range test suggests."""
    sweep = study.sweep
    if sweep is None:
        return "No learning-rate range test was made."
    try:
        found = sweep.suggest()
    except ValueError as error:
        return f"The range test at batch size {sweep.batch_size:,} suggests nothing: {first_line(error)}"
    words = (
        f"At batch size {sweep.batch_size:,} the loss falls fastest at a learning rate of "
        f"{number(found.learning_rate, 2)} {interval(found.low, found.high, 2)}"
    )
    try:
        end = sweep.divergence()
    except ValueError:
        return f"{words}, and did not diverge up to {number(sweep.learning_rates[-1], 2)}."
    return f"{words}, and only rises from {number(end.learning_rate, 2)} {interval(end.low, end.high, 2)} on."


def notes_learning_rate(study: Study) -> list[str]:
    """Return the largest stable learning rate, and how the peaks of the trainings followed."""
    notes = []
    if study.stable is not None:
        stable = study.stable
        notes.append(
            f"From the first weights, an update makes the loss smaller up to {number(stable.learning_rate, 2)} "
            f"{interval(stable.low, stable.high, 2)}; a warmup begins below that (Kalra and Barkeshli 2024)."
        )
    settings = study.settings
    if study.sweep is not None:
        confidence = Suggestion.of([1.0] * len(study.sweep.losses), "").confidence
        notes.append(
            f"The intervals of a range test come from the order of its {len(study.sweep.losses)} repeats: they hold "
            f"the median of endlessly many with a probability of {100 * confidence:.0f} %."
        )
    if study.pilots:
        peaks = ", ".join(f"{number(peak, 2)} ({number(loss)})" for peak, loss in study.pilots)
        notes.append(
            f"Short trainings with warmup were tried at peaks of {peaks}, with the validation loss that each came to; "
            "the lowest one counts."
        )
    rule = {1.0: "in proportion to the batch size", 0.5: "with the square root of the batch size"}.get(
        settings.scaling,
        "the same at every batch size" if not settings.scaling else f"by the power {settings.scaling:g}",
    )
    notes.append(
        f"The trainings had a peak of {number(settings.peak, 2)} at batch size {settings.reference:,}, {rule}"
        f"{', and half and twice that; the best of the three counts' if settings.own_peaks else ''}."
    )
    return notes


def draw_learning_rate(study: Study) -> Figure | None:
    """Draw the range test."""
    if study.sweep is None:
        return None
    # The house's own picture of a sweep, in the width of the others.
    like, _ = panels(3.0)
    figure = study.sweep.plot()
    figure.set_size_inches(*like.get_size_inches())
    logarithmic(figure.axes[0].xaxis)
    legend(figure.axes[0], columns=1)
    return figure


def first_line(error: Exception) -> str:
    """Return what an error expects, without the line to write."""
    return str(error).splitlines()[0].partition(": ")[2] or str(error)
