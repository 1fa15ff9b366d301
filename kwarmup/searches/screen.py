"""What a search shows while it runs: the trial at hand, the best so far and the time left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kwarmup.searches.outcome import FINISHED, Outcome
from kwarmup.searches.space import BATCH_SIZE, PEAK

if TYPE_CHECKING:
    from rich.console import Console


class Screen:
    """A bar where there is a terminal, and a line for each trial; on standard error, as the words of results are not.

    Args:
        tuner: whose trials they are.
        shown: whether anything is.
        console: the rich console to write to; `None` for standard error.
    """

    def __init__(self, tuner: Any, shown: bool, console: Console | None = None):
        self.tuner, self.shown, self._console = tuner, shown, console
        self._bar: Any = None
        self._best: float | None = None
        self._done = 0
        self._words, self._begun = "", time.monotonic()

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
            found = self.tuner.results()
            self._best = None if found.best is None else found.best.score
            self._done = len(found.trials)
            # Of workers the chief alone knows how many trials there are.
            total = getattr(self.tuner.oracle, "max_trials", None)
            self._task = self._bar.add_task("search", total=total, completed=self._done)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def trial_begins(self, trial: Any) -> None:
        """Show which trial is at hand."""
        hp = trial.hyperparameters
        self._words = f"trial {trial.trial_id}: peak {hp.get(PEAK):.3g}, batch size {hp.get(BATCH_SIZE)}"
        self._show("")

    def pass_ended(self, epoch: int, logs: dict[str, Any] | None) -> None:
        """Show how far the trial is."""
        name, value = self.tuner.oracle.objective.name, None
        value = (logs or {}).get(name)
        self._show(f", pass {epoch + 1}" + ("" if value is None else f", {name} {value:.4g}"))

    def trial_ended(self, found: Outcome) -> None:
        """Write a line about a trial that is over."""
        objective = self.tuner.oracle.objective
        if found.score is not None and (self._best is None or objective.better_than(found.score, self._best)):
            self._best = found.score
        self._done += 1
        if self.shown and self._console is not None:
            what = f"{objective.name} {found.score:.4g}" if found.status == FINISHED else found.status
            self._console.print(f"{self._words}: {what} ({found.seconds:.0f} s)", markup=False)
        self._show("")

    def _show(self, more: str) -> None:
        if self._bar is not None:
            best = "" if self._best is None else f", best {self._best:.4g}"
            self._bar.update(self._task, description=f"{self._words}{more}{best}", completed=self._done)
