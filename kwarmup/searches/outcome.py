"""What came of a trial, as a file beside it: a failure is a result like any other."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from kwarmup.plan import Plan, PlanWarning

OUTCOME = "outcome.json"
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
#: The first that did not fit, and those that were not tried for it.
OUT_OF_MEMORY, INFEASIBLE = "out of memory", "infeasible"


class Outcome(NamedTuple):
    """A trial of a search.

    Args:
        trial: its identifier.
        status: `"finished"`, `"diverged"`, `"out of memory"`, `"infeasible"` (not tried, as it or a size below it
            had run out of memory) or `"failed"`.
        values: of the hyperparameters; the peak is told at the batch size of the reference plan.
        plan: what it was trained by, `None` where it came to none.
        score: the best value of the objective, `None` where it did not finish.
        epochs: passes that were trained.
        seconds: of this trial; where it went on behind a checkpoint, since then.
        message: what happened, for one that did not finish.
    """

    trial: str
    status: str
    values: dict[str, Any]
    plan: Plan | None
    score: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `from_dict` reads it back."""
        return {**self._asdict(), "plan": None if self.plan is None else self.plan.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Outcome:
        """Return what `to_dict` wrote."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlanWarning)
            return cls(**{**data, "plan": data["plan"] and Plan.from_dict(data["plan"])})


def write(folder: Path, outcome: Outcome) -> None:
    """Keep the outcome of a trial in its folder."""
    write_json(folder / OUTCOME, outcome.to_dict())


def read(folder: Path) -> Outcome | None:
    """Return the outcome that is kept in the folder of a trial, `None` where there is none yet."""
    try:
        return Outcome.from_dict(json.loads((folder / OUTCOME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def read_all(project: Path) -> list[Outcome]:
    """Return the outcomes of all trials of a search, in the order in which they were begun."""
    found = (read(folder) for folder in sorted(project.glob("trial_*"), key=_place))
    return [outcome for outcome in found if outcome is not None]


def _place(folder: Path) -> tuple[bool, int, str]:
    """Sort by the number of the trial; those that a tuner names otherwise come last, by name.

    keras-tuner numbers trials with as many digits as `max_trials` has: where that grows, `10` follows `9`.
    """
    name = folder.name.removeprefix("trial_")
    counted = name.isdecimal()
    return not counted, int(name) if counted else 0, name


def infeasible(outcomes: list[Outcome]) -> float:
    """Return the smallest batch size that ran out of memory, infinite where none did.

    >>> infeasible([Outcome(str(n), OUT_OF_MEMORY, {"batch_size": size}, None) for n, size in enumerate((128, 64))])
    64
    """
    return min((o.values["batch_size"] for o in outcomes if o.status == OUT_OF_MEMORY), default=float("inf"))


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(json.dumps(data, indent=1))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
