"""keras-tuner's oracles, for which failures are results, and a grid."""

from __future__ import annotations

import contextlib
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner import oracles

from kwarmup.searches import evenly, outcome
from kwarmup.searches.hypermodel import PlanHyperModel
from kwarmup.searches.space import BATCH_SIZE, own
from kwarmup.searches.spent import is_promoted

#: What keras-tuner calls the states of a trial and of a search.
_RUNNING, _IDLE, _STOPPED, _COMPLETED, _FAILED = "RUNNING", "IDLE", "STOPPED", "COMPLETED", "FAILED"
#: Hyperband writes its bookkeeping beside the values.
_BOOKKEEPING = "tuner/"


class Learning(keras_tuner.Oracle):
    """What an oracle learns from failures; to be put in front of one of keras-tuner's.

    A trial that did not finish counts as one that came to the worst score so far. A batch size at or above one that
    ran out of memory is not asked for. Failures in a row do not end the search, and nothing is tried twice. Values
    that were drawn at random are replaced by ones that fill the space evenly: with few trials, random ones leave
    gaps of half a decade and more.
    """

    def __init__(self, project: Path, hypermodel: PlanHyperModel, **arguments: Any):
        self.project, self.hypermodel = project, hypermodel
        # A search that ended at the third failure in a row would end at the first large learning rates.
        arguments.setdefault("max_consecutive_failed_trials", sys.maxsize)
        super().__init__(max_retries_per_trial=0, **arguments)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the values of the next trial, as keras-tuner does."""
        feasible = self.feasible()
        if not feasible:
            return {"status": _IDLE if self.ongoing_trials else _STOPPED}
        with self.seen():
            response = super().populate_space(trial_id)
            values = response.get("values")
            if response["status"] == _RUNNING and values is not None:
                even = evenly.values(self.get_space().space, len(self.trials), self.seed)
                if self.is_random(values) and not self.is_tried(even) or self.is_tried(values):
                    books = {name: v for name, v in values.items() if name.startswith(_BOOKKEEPING)}
                    response["values"] = values = {**even, **books}
        if response["status"] == _RUNNING and values is not None:
            if not self.trials:
                values.update(self.hypermodel.start)
            # One that goes on from another keeps what it was trained by.
            if values[BATCH_SIZE] not in feasible and not is_promoted(values):
                values[BATCH_SIZE] = self.instead(values[BATCH_SIZE], feasible, trial_id)
        return response

    def is_random(self, values: dict[str, Any]) -> bool:
        """Return whether values that were just chosen are not better than any others."""
        return True

    def is_tried(self, values: dict[str, Any]) -> bool:
        """Return whether a trial had these values; one that goes on from another has Hyperband's notes beside them."""
        return values in [_plain(trial.hyperparameters.values) for trial in self.trials.values()]

    def feasible(self) -> tuple[int, ...]:
        """Return the batch sizes below all that ran out of memory.

        Where there is no smaller one it is something else that does not fit, if `build` has something to choose.
        """
        limit, sizes = outcome.infeasible(outcome.read_all(self.project)), self.hypermodel.space.batch_sizes
        return tuple(size for size in sizes if size < limit) or (
            sizes[:1] if own(self.hyperparameters) else ()
        )

    def instead(self, size: int, feasible: tuple[int, ...], trial_id: str) -> int:
        """Return the batch size to try in place of one that does not fit: any other, as if it had been drawn."""
        return random.Random(f"{self.seed}/{trial_id}").choice(feasible)

    @contextlib.contextmanager
    def seen(self) -> Iterator[None]:
        """While inside, trials that failed have the worst score of those that finished."""
        scores = [t.score for t in self.trials.values() if t.status == _COMPLETED]
        failed = [t for t in self.trials.values() if t.status == _FAILED] if scores else []
        for trial in failed:
            trial.status = _COMPLETED
            trial.score = min(scores) if self.objective.direction == "max" else max(scores)
        try:
            yield
        finally:
            for trial in failed:
                trial.status, trial.score = _FAILED, float("nan")


class Random(Learning, oracles.RandomSearchOracle):
    """Values that do not depend on those before."""


class Bayesian(Learning, oracles.BayesianOptimizationOracle):
    """Values where a Gaussian process expects the most.

    keras-tuner's process has one length for all hyperparameters, so that it could not make use of a peak that lies
    at the same place for all batch sizes. This one has a length for each, and knows that scores are noisy. What it
    sees of the scores is their order: one that is far off must not flatten all that is good.

    Paper: Salinas et al. 2020, "A quantile-based approach for hyperparameter transfer learning" (the order of scores
    as quantiles of a normal distribution).
    """

    num_initial_points: int | None

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the values of the next trial, without what scikit-learn says of a fit to few points."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        moves = sum(
            not isinstance(hp, keras_tuner.engine.hyperparameters.Fixed) for hp in self.hyperparameters.space
        )
        # Spread evenly, few say enough to begin with.
        self.num_initial_points = self.num_initial_points or 2 * moves + 1
        kernel = ConstantKernel(1.0, (0.1, 10.0)) * Matern(np.full(moves, 0.5), (0.1, 10.0), nu=2.5)
        self.gpr = GaussianProcessRegressor(
            kernel + WhiteKernel(0.05, (1e-3, 1.0)),
            n_restarts_optimizer=2,
            normalize_y=True,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().populate_space(trial_id)

    def is_random(self, values: dict[str, Any]) -> bool:
        """Return whether the process has not enough trials to begin with."""
        assert self.num_initial_points is not None
        return sum(trial.status == _COMPLETED for trial in self.trials.values()) < self.num_initial_points

    def instead(self, size: int, feasible: tuple[int, ...], trial_id: str) -> int:
        """Return the size next to the one that it wanted."""
        return max(feasible)

    @contextlib.contextmanager
    def seen(self) -> Iterator[None]:
        """While inside, scores are the quantiles of a normal distribution that their order stands for."""
        with super().seen():
            over = [trial for trial in self.trials.values() if trial.status == _COMPLETED]
            before = [trial.score for trial in over]
            order = np.sort(before)
            for trial, score in zip(over, before, strict=True):
                # Equal scores share the middle of their places.
                place = (np.searchsorted(order, score) + np.searchsorted(order, score, "right")) / 2
                trial.score = NormalDist().inv_cdf(float(place) / len(over))
            try:
                yield
            finally:
                for trial, score in zip(over, before, strict=True):
                    trial.score = score


class Hyperband(Learning, oracles.HyperbandOracle):
    """Many short trainings, of which the best go on."""

    def is_random(self, values: dict[str, Any]) -> bool:
        """Return whether the trial is a new one."""
        return not is_promoted(values)


class Grid(Learning):
    """Each combination once, the default first; of a range ten values, as keras-tuner's grid has them.

    keras-tuner's own goes from one combination to the next along the values that were tried, and cannot leave out
    a batch size on the way.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the first combination that was not tried and fits into the memory."""
        tried = [_plain(trial.hyperparameters.values) for trial in self.trials.values()]
        feasible = self.feasible()
        for values in _combinations(self.get_space().space, keras_tuner.HyperParameters()):
            if values[BATCH_SIZE] in feasible and values not in tried:
                return {"status": _RUNNING, "values": values}
        # A trial that is running may still come upon a hyperparameter.
        return {"status": _IDLE if self.ongoing_trials else _STOPPED}


def _combinations(space: list[Any], chosen: Any) -> Iterator[dict[str, Any]]:
    if not space:
        yield dict(chosen.values)
        return
    first, *rest = space
    chosen = chosen.copy()
    chosen.merge([first])
    if not chosen.is_active(first):
        chosen.values.pop(first.name, None)
        yield from _combinations(rest, chosen)
        return
    for value in _values(first):
        chosen.values[first.name] = value
        yield from _combinations(rest, chosen)


def _values(hp: Any) -> list[Any]:
    """The values of a hyperparameter: in the order of a choice, else rising, and the default first."""
    if not hasattr(hp, "values"):
        return [hp.value]  # it is fixed
    words = any(isinstance(value, str) for value in hp.values)
    rising = list(hp.values) if words else sorted(hp.values)
    return [*(value for value in rising if value == hp.default), *(v for v in rising if v != hp.default)]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith(_BOOKKEEPING)}
