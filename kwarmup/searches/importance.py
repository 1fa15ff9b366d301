"""How much each hyperparameter of a search moves its score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kwarmup.errors import Code, value_error
from kwarmup.searches.space import PEAK

if TYPE_CHECKING:
    from kwarmup.searches.result import SearchResult

_LEAST = 5
#: How often the values of a hyperparameter are shuffled.
_SHUFFLES = 10


def importance(result: SearchResult) -> dict[str, float]:
    """Return shares of 1 by hyperparameter, the largest first; see `SearchResult.importance`."""
    done = result.finished
    if len(done) < _LEAST:
        raise value_error(
            "trials", Code(f"{len(done)} trials that finished"), f"{_LEAST} or more", "search(..., max_trials=20)"
        )  # fmt: skip
    # Some trials only have what others do not: the momentum of an optimizer that was chosen.
    names = dict.fromkeys(name for trial in done for name in trial.values)
    columns = {
        name: _columns([trial.values.get(name) for trial in done], name == PEAK)
        for name in names
        if not name.startswith("tuner/")
    }
    rises = _rises(columns, np.array([trial.score for trial in done], "float64"))
    total = sum(rises.values()) or 1
    shares = {name: rise / total for name, rise in rises.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _rises(columns: dict[str, np.ndarray], scores: np.ndarray) -> dict[str, float]:
    """Return how much the squared error of a forest rises where a hyperparameter is shuffled among the trials.

    All columns of one are shuffled together, so that whether a trial has it counts as its own.
    """
    from sklearn.ensemble import RandomForestRegressor

    rises = dict.fromkeys(columns, 0.0)
    if np.ptp(scores) == 0:
        return rises
    x = np.hstack(list(columns.values()))
    forest = RandomForestRegressor(n_estimators=200, random_state=0, n_jobs=1).fit(x, scores)

    def error(rows: np.ndarray) -> float:
        found = forest.predict(rows).reshape(-1, len(scores))
        return float(((found - scores) ** 2).mean())

    least, random, first = error(x), np.random.default_rng(0), 0
    for name, own in columns.items():
        last = first + own.shape[1]
        if np.ptp(own, axis=0).any():  # or rounding alone would be its share
            shuffled = np.tile(x, (_SHUFFLES, 1))
            shuffled[:, first:last] = np.vstack([random.permutation(own) for _ in range(_SHUFFLES)])
            rises[name] = max(0.0, error(shuffled) - least)
        first = last
    return rises


def _columns(values: list[Any], logarithm: bool) -> np.ndarray:
    """Return the values as a column of numbers, and where trials are without one, whether each has it as another.

    The numbers must not tell the score: the trials are sorted by it, so words are numbered by the alphabet, not as
    they appear, and a gap holds what the others are on average.
    """
    active = np.array([value is not None for value in values])
    given = [value for value in values if value is not None]
    if not all(isinstance(value, int | float) for value in given):
        words = sorted({str(value) for value in given})
        given = [words.index(str(value)) for value in given]
    numbers = np.log(given) if logarithm else np.array(given, "float64")
    column = np.full(len(values), numbers.mean() if len(numbers) else 0.0)
    column[active] = numbers
    return column[:, None] if active.all() else np.column_stack([column, active])
