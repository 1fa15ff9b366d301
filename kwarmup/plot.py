"""Pictures of a curve, of a plan and of a training, drawn without a display.

matplotlib is imported when a picture is drawn. `pyplot` is not, so no backend is chosen for the program
that calls and no figure is left open.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kwarmup.clock import Clock
from kwarmup.curve import Curve
from kwarmup.errors import value_error
from kwarmup.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

_WIDTH = 7.0  # inches
_BLUE, _ORANGE, _GREY = "#1f6fb4", "#d9661f", "#8a8a8a"


def plot_curve(curve: Curve, steps: int, path: Path | None = None, label: str = "learning rate") -> Figure:
    """Draw a curve over its updates; a varying batch size is drawn below it.

    Args:
        curve: what to draw; with a clock, epochs are marked along the top.
        steps: updates to draw, 1 or more.
        path: file to write, its ending says the format (`.png`, `.svg`, `.pdf`); `None` for none.
        label: what the values are.

    Returns:
        The figure, which notebooks show as they are.

    Raises:
        ValueError: if `steps` is below 1, or matplotlib does not know the ending.

    Example:

    >>> from kwarmup import Curve, cosine, warmup
    >>> from kwarmup.plot import plot_curve
    >>> figure = plot_curve(Curve(0.1 * (warmup(steps=100) >> cosine(steps=900))), 1_000)
    >>> len(figure.axes)
    1
    """
    if steps < 1:
        raise value_error("steps", steps, "updates to draw, 1 or more", "plot_curve(curve, 1_000)")
    clock = curve.clock
    sized = clock is not None and not isinstance(clock.batch_size, int)
    figure, panels = _figure([3.0, 1.3] if sized else [3.0])
    places = _sample(curve, steps)
    _draw_curve(panels[0], places, curve(places), label)
    if sized:
        assert clock is not None
        _draw_batch_size(panels[1], places, clock.batch_size_at(places))
    panels[-1].set_xlabel("update")
    panels[-1].set_xlim(0, max(1, steps - 1))
    panels[-1].xaxis.set_major_locator(_whole_numbers())
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    if clock is not None and clock.epochs > 1:
        _mark_epochs(panels[0], clock, steps)
    return _written(figure, path)


def plot_plan(plan: Plan, path: Path | None = None) -> Figure:
    """Draw a plan's learning rate, and its batch size where that changes; see `plot_curve`.

    A batch size that is only measured in training is told in words.

    Example:

    >>> from kwarmup import Plan, cosine, warmup
    >>> from kwarmup.plot import plot_plan
    >>> profile = 0.1 * (warmup(epochs=1) >> cosine())
    >>> figure = plot_plan(Plan(learning_rate=profile, batch_size=250, examples=1_000, epochs=3))
    >>> figure.axes[0].get_ylabel()
    'learning rate'
    """
    figure = plot_curve(plan.curve, plan.clock.steps)
    if plan.follows is not None:
        text = f"batch size {plan.follows.start:,}, to grow with the noise up to {plan.follows.max:,}"
        figure.axes[0].set_title(text, fontsize="medium")
    return _written(figure, path)


def plot_training(
    history: Mapping[str, Sequence[float | None]],
    plan: Plan,
    path: Path | None = None,
    updates: int | None = None,
) -> Figure:
    """Draw the loss of each epoch, in training and validation, below it the learning rate, then the batch size.

    The batch size has its panel where it moves. The part of the plan that was not carried out is drawn dotted.

    Args:
        history: lists by name, one value an epoch, as `fit` returns them; `None` and NaN leave a gap.
        plan: the plan of the training.
        path: file to write, its ending says the format (`.png`, `.svg`, `.pdf`); `None` for none.
        updates: how many updates of the plan were carried out; `None` for all in the history's epochs.

    Returns:
        The figure, which notebooks show as they are.

    Raises:
        ValueError: if `history` has no `loss`, or matplotlib does not know the ending.

    Example:

    >>> from kwarmup import Plan, cosine, warmup
    >>> from kwarmup.plot import plot_training
    >>> profile = 0.1 * (warmup(epochs=1) >> cosine())
    >>> plan = Plan(learning_rate=profile, batch_size=250, examples=1_000, epochs=3)
    >>> figure = plot_training({"loss": [2.3, 0.9, 0.4], "val_loss": [1.2, 0.6, 0.5]}, plan)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss', 'learning rate']
    """
    if not history.get("loss"):
        write = "plot_training(model.fit(...).history, plan)"
        raise value_error("history", dict(history), "a history with `loss`", write)
    clock = plan.clock
    sized = not isinstance(clock.batch_size, int)
    figure, panels = _figure([2.6, 1.6, 1.1] if sized else [2.6, 1.6])
    above, below = panels[:2]
    losses = []
    for name, label, colour in (("loss", "training", _BLUE), ("val_loss", "validation", _ORANGE)):
        values = [math.nan if value is None else float(value) for value in history.get(name, ())]
        if values:
            marker = "o" if len(values) <= 40 else ""
            epochs = np.arange(1, len(values) + 1)
            above.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3)
        losses += [value for value in values if math.isfinite(value)]
    above.set_ylabel("loss")
    above.legend(frameon=False)
    if losses and min(losses) > 0 and max(losses) > 30 * min(losses):
        _logarithmic(above)
    if updates is None:
        updates = clock.step_at(epochs=min(clock.epochs, len(history["loss"])))
    places = _sample(plan.curve, clock.steps)
    epochs = _epochs_at(clock, places)
    rates = plan.curve(places)
    below.plot(epochs, rates, color=_GREY, linestyle=":")
    _draw_curve(below, epochs[places < updates], rates[places < updates], "learning rate")
    if sized:
        # A learning rate holds at an update, a batch size over all of it: up to where the next one begins.
        for end, colour, style in ((clock.steps, _GREY, ":"), (min(updates, clock.steps), _ORANGE, "-")):
            drawn = np.append(places[places < end], end)
            sizes = clock.batch_size_at(np.minimum(drawn, clock.steps - 1))
            _draw_batch_size(panels[2], _epochs_at(clock, drawn), sizes, colour, style)
    panels[-1].set_xlabel("epoch")
    panels[-1].set_xlim(0, clock.epochs)
    panels[-1].xaxis.set_major_locator(_whole_numbers())
    return _written(figure, path)


def _figure(heights: list[float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, color="#808080", alpha=0.25, linewidth=0.7)  # on a light and on a dark page
        panel.set_axisbelow(True)
    return figure, list(panels)


def _draw_curve(panel: Axes, places: np.ndarray, values: np.ndarray, label: str) -> None:
    panel.plot(places, values, color=_BLUE)
    panel.set_ylabel(label)
    if values.size and values.min() >= 0:
        panel.set_ylim(bottom=0)


def _draw_batch_size(
    panel: Axes, places: np.ndarray, sizes: np.ndarray, colour: str = _ORANGE, style: str = "-"
) -> None:
    panel.plot(places, sizes, color=colour, linestyle=style, drawstyle="steps-post")
    panel.set_ylabel("batch size")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_locator(_whole_numbers(4))
    panel.yaxis.set_major_formatter("{x:,.0f}")


def _epochs_at(clock: Clock, places: np.ndarray) -> np.ndarray:
    return np.array([clock.epoch_at(place) for place in places.tolist()])


def _sample(curve: Curve, steps: int) -> np.ndarray:
    """Return updates to draw: all of a short run, else one for each pixel and both sides of a boundary."""
    if steps <= 4_000:
        return np.arange(steps)
    bounds = np.array([piece.tick for piece in curve.pieces]) // curve.parts
    places = np.concatenate([np.linspace(0, steps - 1, 2_000).astype("int64"), bounds - 1, bounds])
    return np.unique(places.clip(0, steps - 1))


def _mark_epochs(panel: Axes, clock: Clock, steps: int) -> None:
    places = np.unique(np.linspace(0, steps, 200).astype("int64"))
    epochs = _epochs_at(clock, places)
    top = panel.secondary_xaxis(
        "top",
        functions=(
            lambda place: np.interp(np.asarray(place), places, epochs),
            lambda epoch: np.interp(np.asarray(epoch), epochs, places),
        ),
    )
    top.set_xlabel("epoch")
    top.xaxis.set_major_locator(_whole_numbers())
    top.spines["top"].set_visible(False)


def _logarithmic(panel: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())


def _whole_numbers(parts: int = 9) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(parts, integer=True)


def _written(figure: Figure, path: Path | None) -> Figure:
    if path is not None:
        check_path(path)
        figure.savefig(path, dpi=150)
    return figure


def check_path(path: Path) -> None:
    """Raise where matplotlib cannot write the format that the ending of a path names.

    Raises:
        ValueError: if it cannot.
    """
    from matplotlib.figure import Figure

    ending = os.path.splitext(os.fspath(path))[1].removeprefix(".").lower()
    if ending not in Figure().canvas.get_supported_filetypes():
        write = 'path="plan.png"'
        raise value_error("path", os.fspath(path), "a name that ends in .png, .svg or .pdf", write)
