"""What a learning-rate range test has measured, and which learning rates follow from it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from kwarmup.descent import Descent, NoDescent, divergence
from kwarmup.errors import Code, value_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What `suggest` can look for; each is a method of `Descent`.
METHODS = ("steepest", "valley", "minimum", "slide")


@final
@dataclass(frozen=True)
class Suggestion:
    """A learning rate with its interval.

    Args:
        learning_rate: the median over the repeats.
        low: lower end of the interval.
        high: upper end of it.
        confidence: how probable it is that the interval holds the median of endlessly many repeats; 0 for one
            repeat, which cannot tell.
        method: how it was found.

    Example:

    >>> from kwarmup import Suggestion
    >>> print(Suggestion(0.12, 0.1, 0.15, 0.9375, "steepest"))
    0.12 [0.1, 0.15]
    """

    learning_rate: float
    low: float
    high: float
    confidence: float
    method: str

    def __str__(self) -> str:
        return f"{self.learning_rate:.2g} [{self.low:.2g}, {self.high:.2g}]"

    @classmethod
    def of(cls, learning_rates: Sequence[float], method: str) -> Suggestion:
        """Return the median of what the repeats say, and the interval that their order gives.

        Any repeat is as likely above the true median as below it, whatever the distribution: so the smallest
        and largest of n hold it with probability 1 - 2^(1 - n), and with many repeats an inner pair will do
        for 95 %.
        """
        found = sorted(learning_rates)
        count = len(found)
        outside, skipped = 0.5**count, 0
        while 2 * (inner := outside + math.comb(count, skipped + 1) * 0.5**count) <= 0.05:
            outside, skipped = inner, skipped + 1
        middle = math.sqrt(found[(count - 1) // 2] * found[count // 2])
        return cls(middle, found[skipped], found[count - 1 - skipped], max(0.0, 1 - 2 * outside), method)


def check_method(method: str) -> None:
    """Raise a `ValueError` where `suggest` knows no such method."""
    if method not in METHODS:
        raise value_error(
            "method", method, f"one of {', '.join(map(repr, METHODS))}", 'sweep.suggest("steepest")'
        )


@final
@dataclass(frozen=True, repr=False)
class Sweep:
    """The losses of single batches while the learning rate rises, once or several times from the same weights.

    `losses[r][i]` is the loss of batch i in repeat r, computed before update i, which was made with
    `learning_rates[i]`; what that update did shows in the losses behind it. A repeat ends where training
    diverges, and its last loss is the one that told. All else is a pure function of these numbers.

    Args:
        learning_rates: one for each update, rising.
        losses: one row for each repeat, as long as `learning_rates` or shorter.
        batch_size: examples per update.
        interrupted: whether Ctrl-C ended the last repeat.

    Example:

    >>> import numpy as np
    >>> from kwarmup import Sweep
    >>> rates = np.geomspace(1e-5, 10, 61)
    >>> losses = [2.0 - 1.5 / (1 + (0.01 / rates) ** 2) + 9 * rates**2]
    >>> sweep = Sweep(rates, losses, batch_size=32)
    >>> sweep
    <Sweep of 61 learning rates from 1e-05 to 10, 1 repeat, batch size 32>
    >>> print(sweep.suggest("valley"))
    0.01 [0.01, 0.01]
    >>> Sweep.from_dict(sweep.to_dict()) == sweep
    True
    """

    learning_rates: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    batch_size: int
    interrupted: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rates", tuple(map(float, self.learning_rates)))
        # One and the same NaN: two sweeps are equal where their numbers are.
        losses = tuple(
            tuple(math.nan if math.isnan(loss) else loss for loss in map(float, row)) for row in self.losses
        )
        object.__setattr__(self, "losses", losses)

    def suggest(self, method: str = "steepest") -> Suggestion:
        """Return a learning rate, with an interval from the repeats.

        The losses are smoothed by a local regression on the logarithm of the learning rate, and those above
        the untrained model's count as that. On the smooth curve:

        - `"steepest"`: where the loss falls fastest, per decade of the learning rate (Smith 2017, as
          torch-lr-finder and Lightning read it).
        - `"valley"`: the middle, in decades, of the descent from a quarter to three quarters of the fall; fastai's
          `valley` is the middle of the longest run of falling losses, which begins in the noise.
        - `"minimum"`: a tenth of where the loss is lowest (fastai).
        - `"slide"`: an interval of 1.2 decades moves down from the lowest place until the loss falls as fast
          at its left end as at its right end; its left end (after fastai's `slide`, which begins at
          divergence and has a threshold in units of the loss).

        A repeat that Ctrl-C ended does not count. A sweep has neither warmup nor decay: with both the best peak was
        between 0.7 and 20 times `"steepest"` on 24 tasks, 4.5 times in the middle, and no reading was near it on all.

        Args:
            method: one of these names.

        Raises:
            ValueError: if there is no such method; or if the loss does not fall clearly further than its noise, or
                is lowest at the largest learning rate.

        Papers: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3; Cleveland
        1979, "Robust Locally Weighted Regression and Smoothing Scatterplots".
        """
        check_method(method)
        return Suggestion.of([10 ** getattr(descent, method)() for descent in self.descents()], method)

    def divergence(self) -> Suggestion:
        """Return the smallest learning rate from which on the loss only rises, with an interval.

        On a quadratic, with plain gradient descent, that is 2 over the largest curvature.

        Raises:
            ValueError: if no repeat diverges.
        """
        found = []
        for descent in self.descents():
            if descent.diverged:
                found.append(10 ** descent.unstable())
        if not found:
            raise self._error(NoDescent("high"))
        return Suggestion.of(found, "divergence")

    def descents(self) -> list[Descent]:
        """Return the smooth curve of each whole repeat.

        Raises:
            ValueError: if there is no whole repeat, or nothing to find in one.
        """
        rates = np.array(self.learning_rates)
        rows = self.losses[:-1] if self.interrupted and not self._ended(-1) else self.losses
        if not rows:
            raise value_error(
                "sweep", self, "a sweep with a repeat that was not interrupted", "find_lr(model, x, y)"
            )
        try:
            return [Descent(rates, np.array(row)) for row in rows]
        except NoDescent as error:
            raise self._error(error) from None

    def _ended(self, repeat: int) -> bool:
        row = self.losses[repeat]
        return len(row) == len(self.learning_rates) or divergence(row) is not None

    def _error(self, error: NoDescent) -> ValueError:
        low, high = self.learning_rates[0], self.learning_rates[-1]
        expected, write = {
            "low": (
                "learning rates that begin lower: training diverges at once",
                f"find_lr(model, x, y, low={low / 1000:.2g})",
            ),
            "high": (
                "learning rates that go higher: with these, training does not diverge",
                f"find_lr(model, x, y, high={high * 1000:.2g})",
            ),
            "data": (
                "a loss that is finite before the first update: it is not the learning rate",
                "assert np.isfinite(x).all() and np.isfinite(y).all()",
            ),
            "": (
                "losses that fall clearly further than their noise",
                f"find_lr(model, x, y, steps={4 * len(self.learning_rates)}, batch_size={4 * self.batch_size})",
            ),
        }[str(error)]
        return value_error("sweep", self, expected, write)

    def plot(self, path: str | os.PathLike[str] | None = None, method: str = "steepest") -> Figure:
        """Draw the losses over the learning rate, the smooth curves through them and a suggestion.

        Args:
            path: file to write, its ending says the format (`.png`, `.svg`, `.pdf`); `None` for none.
            method: which suggestion, as for `suggest`.

        Returns:
            The matplotlib figure, which notebooks show as they are.

        Raises:
            ValueError: if matplotlib does not know the ending, or there is no such method.
        """
        from kwarmup.plot_sweep import plot_sweep

        return plot_sweep(self, path, method)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `from_dict` reads it back.

        JSON has no NaN and no infinity: they are written as words.
        """
        data = asdict(self)
        data["learning_rates"] = list(self.learning_rates)
        data["losses"] = [
            [loss if math.isfinite(loss) else repr(loss) for loss in row] for row in self.losses
        ]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Sweep:
        """Return the sweep that `to_dict` wrote.

        Raises:
            ValueError: if it is not such data.
        """
        try:
            return cls(**data)
        except (TypeError, ValueError):
            shown = Code(repr(data)[:200])
            raise value_error(
                "data", shown, "the data of a sweep", "Sweep.from_dict(sweep.to_dict())"
            ) from None

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Sweep:
        """Return the sweep that `to_json` wrote.

        Raises:
            ValueError: if the text is not JSON, or not that of a sweep.
        """
        return cls.from_dict(json.loads(text))

    def __repr__(self) -> str:
        rates, repeats = self.learning_rates, len(self.losses)
        return (
            f"<Sweep of {len(rates)} learning rates from {rates[0]:.4g} to {rates[-1]:.4g}, "
            f"{repeats} repeat{'s' if repeats != 1 else ''}, batch size {self.batch_size}"
            f"{', interrupted' if self.interrupted else ''}>"
        )
