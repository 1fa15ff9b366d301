"""How much each hyperparameter of a search moves its score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kwarmup.errors import Code, value_error
from kwarmup.searches.space import PEAK

if TYPE_CHECKING:
    from kwarmup.searches.result import SearchResult

_LEAST = 5


def importance(result: SearchResult) -> dict[str, float]:
    """Return shares of 1 by hyperparameter, the largest first; see `SearchResult.importance`."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    done = result.finished
    if len(done) < _LEAST:
        raise value_error(
            "trials", Code(f"{len(done)} trials that finished"), f"{_LEAST} or more", "search(..., max_trials=20)"
        )  # fmt: skip
    # Some trials only have what others do not: the momentum of an optimizer that was chosen.
    union = dict.fromkeys(name for trial in done for name in trial.values)
    names = [name for name in union if not name.startswith("tuner/")]
    columns = [_numbers([trial.values.get(name) for trial in done], name == PEAK) for name in names]
    moved = [len(set(column)) > 1 for column in columns]
    x = np.array(columns).T
    y = np.array([trial.score for trial in done], "float64")
    found = np.zeros(len(names))
    if y.std() > 0:
        forest = RandomForestRegressor(n_estimators=200, random_state=0, n_jobs=1).fit(x, y)
        found = permutation_importance(forest, x, y, n_repeats=10, random_state=0, n_jobs=1).importances_mean
        found = np.where(moved, np.maximum(found, 0), 0)
    total = found.sum() or 1
    shares = {name: float(value / total) for name, value in zip(names, found, strict=True)}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _numbers(values: list[Any], logarithm: bool) -> list[float]:
    """Return values as numbers: the peak by its logarithm, words and gaps by their order of appearance."""
    if all(isinstance(value, int | float) for value in values):
        return [float(np.log(value)) if logarithm else float(value) for value in values]
    known = list(dict.fromkeys(values))
    return [float(known.index(value)) for value in values]
