"""What warmup buys on a model: how large the peak of the learning rate may be with it and without it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, final

import numpy as np

from kwarmup.errors import Code, value_error
from kwarmup.sweep import Suggestion

#: A peak is good where its final loss is at most so much above the best one.
TOLERANCE = 0.05

Losses = tuple[tuple[float, ...], ...]


def good(losses: np.ndarray | Sequence[float]) -> np.ndarray:
    """Return which of some final losses, one a peak, are within 5 % of the best.

    >>> good([2.0, 1.04, 1.0, 1.06, float("inf")]).tolist()
    [False, True, True, False, False]
    """
    found = np.asarray(losses, "float64")
    best = found.min()
    if math.isinf(best):
        return np.zeros(len(found), bool)
    return found <= best + TOLERANCE * abs(best)


@final
@dataclass(frozen=True, repr=False)
class WarmupGain:
    """The final losses of short trainings at rising peaks, with a warmup and without, and what follows from them.

    A peak is good where its final loss is within 5 % of the best of the same seed and arm; the gain is the largest
    good peak with warmup over that without.

    Args:
        peaks: of the learning rate, rising by factors of two.
        with_warmup: for each peak the final loss of each seed; infinite where it diverged.
        without_warmup: the same from the same weights, on the same batches, in as many updates.
        profiles: the learning rate with warmup and without, as code.
        steps: updates in a training.
        batch_size: examples per update.
        validated: whether the losses are of validation data, or else of the last tenth of the updates.
        interrupted: whether Ctrl-C ended it before all peaks were tried.

    Paper: Kalra and Barkeshli 2024.

    Example:

    >>> from kwarmup import WarmupGain
    >>> gain = WarmupGain(
    ...     peaks=(0.1, 0.2, 0.4, 0.8),
    ...     with_warmup=((1.2, 1.2), (1.0, 1.1), (1.01, 1.12), (3.0, 2.9)),
    ...     without_warmup=((1.0, 1.1), (1.3, 1.4), (9.0, float("inf")), (float("inf"), float("inf"))),
    ...     profiles=("warmup(fraction=0.25) >> linear()", "linear()"), steps=200, batch_size=32,
    ... )
    >>> gain.gain, gain.interval
    (4.0, (4.0, 4.0))
    >>> print(gain)
    With warmup the peak can be 4 [4, 4] times larger: 0.4 against 0.1. Best loss 1.05 with it and 1.05 without.
    """

    peaks: tuple[float, ...]
    with_warmup: Losses
    without_warmup: Losses
    profiles: tuple[str, str]
    steps: int
    batch_size: int
    validated: bool = False
    interrupted: bool = False

    @property
    def peak_with(self) -> float:
        """The largest good peak with warmup, the median over the seeds."""
        return Suggestion.of(self._largest(self.with_warmup), "").learning_rate

    @property
    def peak_without(self) -> float:
        """The largest good peak without warmup, the median over the seeds."""
        return Suggestion.of(self._largest(self.without_warmup), "").learning_rate

    @property
    def gain(self) -> float:
        """How many times larger the peak can be with warmup, the median over the seeds; 1 where warmup buys nothing."""
        return self._gain.learning_rate

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the gain that the order of the seeds gives, with the probability `confidence`."""
        return self._gain.low, self._gain.high

    @property
    def confidence(self) -> float:
        """How probable it is that the interval holds the median over endlessly many seeds; 0 for one seed."""
        return self._gain.confidence

    @property
    def best_with(self) -> float:
        """The best final loss with warmup, at the peak where the median over the seeds is least."""
        return float(np.median(self.with_warmup, axis=1).min())

    @property
    def best_without(self) -> float:
        """The best final loss without warmup."""
        return float(np.median(self.without_warmup, axis=1).min())

    @property
    def bounded(self) -> bool:
        """Whether peaks were tried that are too large in both arms: else a gain is only what was seen of it."""
        arms = np.array([self.with_warmup, self.without_warmup])
        return not any(good(arm)[-1] for arm in np.median(arms, axis=2))

    @property
    def pays(self) -> bool:
        """Whether warmup allows a larger peak, for all seeds within the interval."""
        return self.interval[0] > 1

    @property
    def _gain(self) -> Suggestion:
        arms = zip(self._largest(self.with_warmup), self._largest(self.without_warmup), strict=True)
        return Suggestion.of([with_it / without_it for with_it, without_it in arms], "")

    def _largest(self, losses: Losses) -> list[float]:
        return [self.peaks[int(np.flatnonzero(good(of_seed))[-1])] for of_seed in zip(*losses, strict=True)]

    def table(self) -> str:
        """Return the losses as text: a line for each peak, the median and the worst of the seeds, `*` where it is good.

        >>> from kwarmup import WarmupGain
        >>> print(WarmupGain((0.1, 0.2), ((1.0,), (2.0,)), ((1.0,), (float("inf"),)), ("", ""), 200, 32).table())
        peak  with warmup      without
         0.1        1 – 1  *     1 – 1  *
         0.2        2 – 2     diverged
        """
        cells: list[tuple[str, ...]] = [("peak", "with warmup   ", "without   ")]
        arms = [np.array(self.with_warmup), np.array(self.without_warmup)]
        marks = [good(np.median(arm, axis=1)) for arm in arms]
        for row, peak in enumerate(self.peaks):
            words = [_words(arm[row], mark[row]) for arm, mark in zip(arms, marks, strict=True)]
            cells.append((f"{peak:.3g}", *words))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells
        ]
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        low, high = self.interval
        peaks = f"{self.peak_with:.3g} against {self.peak_without:.3g}"
        if self.pays:
            said = (
                f"With warmup the peak can be {self.gain:.3g} [{low:.3g}, {high:.3g}] times larger: {peaks}."
            )
        elif high <= 1:
            said = f"Warmup buys nothing here: the largest good peak is {peaks} without."
        else:
            gain = f"{self.gain:.3g} [{low:.3g}, {high:.3g}]"
            said = f"The seeds do not agree that warmup buys anything: a gain of {gain}."
        if not self.bounded:
            said += " Larger peaks were not tried."
        return f"{said} Best loss {self.best_with:.3g} with it and {self.best_without:.3g} without."

    def __repr__(self) -> str:
        seeds, first, last = len(self.with_warmup[0]), self.peaks[0], self.peaks[-1]
        return (
            f"<WarmupGain {self.gain:.3g} over {len(self.peaks)} peaks from {first:.3g} to {last:.3g}, "
            f"{seeds} seed{'s' if seeds != 1 else ''}, {self.steps} updates of {self.batch_size}"
            f"{', interrupted' if self.interrupted else ''}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinity: it is written as a word."""
        data = asdict(self)
        for name in ("with_warmup", "without_warmup"):
            data[name] = [[one if math.isfinite(one) else repr(one) for one in row] for row in data[name]]
        return {**data, "peaks": list(self.peaks), "profiles": list(self.profiles)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> WarmupGain:
        """Return the gain that `to_dict` wrote.

        Raises:
            ValueError: if it is not such data.
        """
        try:
            if set(data) != {field.name for field in fields(cls)}:
                raise ValueError
            losses = {
                name: tuple(tuple(map(float, row)) for row in data[name])
                for name in ("with_warmup", "without_warmup")
            }
            peaks, profiles = tuple(map(float, data["peaks"])), tuple(map(str, data["profiles"]))
            return cls(**{**data, **losses, "peaks": peaks, "profiles": profiles})
        except (TypeError, ValueError):
            shown = Code(repr(data)[:200])
            raise value_error(
                "data", shown, "the data of a warmup gain", "WarmupGain.from_dict(gain.to_dict())"
            ) from None

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict())


def _words(losses: np.ndarray, is_good: bool) -> str:
    diverged = int(np.isinf(losses).sum())
    if diverged == len(losses):
        return "diverged   "
    worst = f"{diverged} of {len(losses)} diverged" if diverged else f"{losses.max():.3g}"
    return f"{np.median(losses):.3g} – {worst}  {'*' if is_good else ' '}"
