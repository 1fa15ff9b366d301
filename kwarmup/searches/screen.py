"""What a search shows while it runs: the trial at hand, the best so far and the time left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kwarmup.searches.outcome import FINISHED, Outcome
from kwarmup.searches.space import BATCH_SIZE, PEAK

if TYPE_CHECKING:
    from rich.console import Console

    from kwarmup.searches.result import SearchResult


class Screen:
    """A bar where there is a terminal, and a line for each trial; on standard error, as the words of results are not.

    Args:
        found: what there is of the search already.
        total: trials in all, `None` where nobody knows.
        shown: whether anything is.
        console: the rich console to write to; `None` for standard error.
    """

    def __init__(self, found: SearchResult, total: int | None, shown: bool, console: Console | None = None):
        self.objective, self.direction, self.total = found.objective, found.direction, total
        self.shown, self._console = shown, console
        self._bar: Any = None
        self._best: float | None = None if found.best is None else found.best.score
        self._done = len(found.trials)
        self._words = ""

    def __enter__(self) -> Screen:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._console = self._console or Console(stderr=True, highlight=False, soft_wrap=True)
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
                TimeRemainingColumn(), console=self._console, transient=True,
                disable=not self._console.is_terminal,
                # A trial takes longer than the half minute that rich looks back by itself.
                speed_estimate_period=3600,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("search", total=self.total, completed=self._done)
            self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def trial_begins(self, trial: Any) -> None:
        """Show which trial is at hand."""
        self._words = _words(trial.trial_id, trial.hyperparameters.values)
        self._show()

    def pass_ended(self, epoch: int, logs: dict[str, Any] | None) -> None:
        """Show how far the trial is."""
        value = (logs or {}).get(self.objective)
        self._show(f"pass {epoch + 1}", "" if value is None else f"{self.objective} {value:.4g}")

    def trial_ended(self, found: Outcome) -> None:
        """Write a line about a trial that is over."""
        better = max if self.direction == "max" else min
        if found.score is not None:
            self._best = found.score if self._best is None else better(found.score, self._best)
        self._done += 1
        if self.shown and self._console is not None:
            what = f"{self.objective} {found.score:.4g}" if found.status == FINISHED else found.status
            words = _words(found.trial, found.values)
            self._console.print(f"{words}: {what} ({found.seconds:.0f} s)", markup=False)
        self._show()

    def _show(self, *more: str) -> None:
        if self._bar is not None:
            best = "" if self._best is None else f"best {self._best:.4g}"
            words = ", ".join(part for part in (self._words, *more, best) if part)
            self._bar.update(self._task, description=words or "search", completed=self._done)


def _words(trial: str, values: Mapping[str, Any]) -> str:
    return f"trial {trial}: peak {values[PEAK]:.3g}, batch size {values[BATCH_SIZE]}"
