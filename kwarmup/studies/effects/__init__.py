"""What a batch size does to a training, effect by effect: what was found, in words and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from kwarmup.studies.effects.generalisation import (
    draw_generalisation,
    finding_generalisation,
    notes_generalisation,
)
from kwarmup.studies.effects.learning_rate import (
    draw_learning_rate,
    finding_learning_rate,
    notes_learning_rate,
)
from kwarmup.studies.effects.memory import draw_memory, finding_memory, notes_memory
from kwarmup.studies.effects.noise import draw_noise, finding_noise, notes_noise
from kwarmup.studies.effects.optimisation import draw_optimisation, finding_optimisation, notes_optimisation
from kwarmup.studies.effects.speed import draw_speed, finding_speed, notes_speed
from kwarmup.studies.effects.warmup import draw_warmup, finding_warmup, notes_warmup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kwarmup.studies.result import Study


class Effect(NamedTuple):
    """One thing that a batch size, or a learning rate, does.

    Args:
        name: a word for it, in identifiers.
        title: what it is called.
        finding: what a study says about it, in one sentence.
        notes: the figures behind it and what they do not say, a sentence or two each.
        draw: its picture; `None` where there is nothing to see.
        picture: what the picture shows, for readers who do not see it.
    """

    name: str
    title: str
    finding: Callable[[Study], str]
    notes: Callable[[Study], list[str]]
    draw: Callable[[Study], Figure | None]
    picture: str


EFFECTS = (
    Effect(
        "speed", "Speed", finding_speed, notes_speed, draw_speed,
        "Examples per second against batch size: every repeat as a point, medians as a line, the fit dashed.",
    ),
    Effect(
        "memory", "Memory", finding_memory, notes_memory, draw_memory,
        "Memory of an update against batch size: measured points, and a straight line through them dashed.",
    ),
    Effect(
        "optimisation", "Optimisation", finding_optimisation, notes_optimisation, draw_optimisation,
        "Updates, examples and seconds to the target against batch size: every seed as a point, medians as a line, "
        "the fit dashed; below, the critical batch size from the fit and from the gradient noise.",
    ),
    Effect(
        "generalisation", "Generalisation", finding_generalisation, notes_generalisation, draw_generalisation,
        "The validation metric at the end, and the gap to training examples, against batch size: every seed as a "
        "point, medians as a line.",
    ),
    Effect(
        "noise", "Gradient noise", finding_noise, notes_noise, draw_noise,
        "The noise scale with its interval along a training, and the batch size that trains fastest at it.",
    ),
    Effect(
        "learning-rate", "Learning rate", finding_learning_rate, notes_learning_rate, draw_learning_rate,
        "The loss of each batch of the range test against its learning rate, and where it falls fastest.",
    ),
    Effect(
        "warmup", "Warmup", finding_warmup, notes_warmup, draw_warmup,
        "The final loss against the peak of the learning rate, with warmup and without.",
    ),
)  # fmt: skip
