"""What a search has found: its trials, the best of them, a table, a picture and JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from kwarmup.errors import Code, value_error
from kwarmup.plan import Plan
from kwarmup.searches.outcome import FINISHED, Outcome, infeasible, write_json
from kwarmup.searches.space import BATCH_SIZE, PEAK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult:
    """The trials of a search, failures among them.

    `tuner.results()` returns it, for `tuner` from `kw.search`, while the search runs too.

    Args:
        objective: the metric that was searched for.
        direction: `"max"` or `"min"`.
        reference: the batch size that peaks are told at.
        batch_sizes: those there were to choose among.
        trials: in the order they were begun; each has `trial`, `status`, `values`, `plan`, `score`, `epochs`,
            `seconds` and `message`.

    Example:

    >>> from kwarmup import Plan, SearchResult
    >>> from kwarmup.searches.outcome import Outcome
    >>> plan = Plan(learning_rate=0.2, batch_size=64, examples=640, epochs=2)
    >>> good = Outcome("00", "finished", {"peak": 0.1, "batch_size": 64}, plan, score=0.91, epochs=2, seconds=3.0)
    >>> bad = Outcome("01", "diverged", {"peak": 9.0, "batch_size": 32}, None, message="The loss is nan")
    >>> result = SearchResult("val_accuracy", "max", 32, (32, 64), (good, bad))
    >>> print(result.table())
    trial  val_accuracy  batch size  learning rate  peak at 32  passes  updates  seconds
       00          0.91          64            0.2         0.1       2       20      3.0
       01      diverged          32                          9                       0.0
    >>> result.best_plan() == plan
    True
    """

    objective: str
    direction: str
    reference: int
    batch_sizes: tuple[int, ...]
    trials: tuple[Outcome, ...]

    @property
    def finished(self) -> tuple[Outcome, ...]:
        """The trials that came to their end, the best first."""
        done = [trial for trial in self.trials if trial.status == FINISHED and trial.score is not None]
        return tuple(sorted(done, key=lambda t: t.score, reverse=self.direction == "max"))  # type: ignore[arg-type, return-value]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The trials that did not."""
        return tuple(trial for trial in self.trials if trial.status != FINISHED)

    @property
    def best(self) -> Outcome | None:
        """The best trial, `None` where none finished."""
        return self.finished[0] if self.finished else None

    @property
    def infeasible(self) -> float:
        """The smallest batch size that ran out of memory, infinite where none did."""
        return infeasible(list(self.trials))

    def best_plan(self) -> Plan:
        """Return the plan of the best trial.

        Raises:
            ValueError: if none finished.
        """
        if self.best is None or self.best.plan is None:
            raise value_error(
                "trials", Code(f"{len(self.trials)} trials, of which none finished"), "one that finished",
                "tuner.search(x, y, validation_data=(xv, yv))",
            )  # fmt: skip
        return self.best.plan

    def table(self) -> str:
        """Return the trials as text: those that finished from the best to the worst, then the others."""
        rows = [
            ("trial", self.objective, "batch size", "learning rate", f"peak at {self.reference}", *self._more,
             "passes", "updates", "seconds")
        ]  # fmt: skip
        for trial in (*self.finished, *self.failed):
            score = trial.status if trial.score is None else f"{trial.score:.4g}"
            plan, updates = trial.plan, ""
            if plan is not None and trial.epochs:
                updates = f"{plan.clock.step_at(epochs=min(trial.epochs, plan.clock.epochs)):,}"
            rows.append((
                trial.trial, score, str(trial.values[BATCH_SIZE]),
                "" if plan is None else f"{plan.profile.peak:.3g}", f"{trial.values[PEAK]:.3g}",
                *(_word(trial.values.get(name)) for name in self._more),
                f"{trial.epochs}" if trial.epochs else "", updates, f"{trial.seconds:.1f}",
            ))  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines)

    def importance(self) -> dict[str, float]:
        """Return how much of the score each hyperparameter moves, as shares of 1, the largest first.

        A random forest is fitted to the trials that finished; the share of one is how much worse the forest gets
        where its values are shuffled. For one that only some trials have, such as the momentum of an optimizer that
        was chosen, having it counts as one of its values. A handful of trials says little.

        Raises:
            ValueError: if fewer than five trials finished.
        """
        from kwarmup.searches.importance import importance

        return importance(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the score over peak and batch size, where trials failed, and the importance of hyperparameters.

        Args:
            path: file to write, its ending says the format (`.png`, `.svg`, `.pdf`); `None` for none.

        Returns:
            The figure, which notebooks show as they are.

        Raises:
            ValueError: if there is no trial, or matplotlib does not know the ending.
        """
        from kwarmup.searches.picture import plot

        return plot(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `from_dict` reads it back."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        trials = [trial.to_dict() for trial in self.trials]
        return {**data, "batch_sizes": list(self.batch_sizes), "trials": trials}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SearchResult:
        """Return the result that `to_dict` wrote.

        Raises:
            ValueError: if it is not such data.
        """
        if not isinstance(data, dict) or set(data) != {field.name for field in dataclasses.fields(cls)}:
            raise value_error(
                "data", Code(repr(data)[:200]), "the data of a search", "SearchResult.from_dict(result.to_dict())"
            )  # fmt: skip
        trials = tuple(Outcome.from_dict(trial) for trial in data["trials"])
        return cls(**{**data, "batch_sizes": tuple(data["batch_sizes"]), "trials": trials})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trials as JSON, whole or not at all."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SearchResult:
        """Return the result that `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    @property
    def _more(self) -> tuple[str, ...]:
        """Hyperparameters beside peak and batch size; Hyperband's bookkeeping is none."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.values)
        return tuple(
            name for name in names if name not in (PEAK, BATCH_SIZE) and not name.startswith("tuner/")
        )

    def __repr__(self) -> str:
        best = "none" if self.best is None else f"{self.best.score:.4g}"
        trials = f"{len(self.trials)} trials, {len(self.failed)} of them failed"
        return f"SearchResult({trials}; best {self.objective}: {best})"


def _word(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
