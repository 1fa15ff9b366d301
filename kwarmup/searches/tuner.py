"""A keras-tuner tuner whose trials are trained by plans, go on behind a kill, and whose failures are results."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from kwarmup.batches import Batches
from kwarmup.errors import Code, message, type_error, value_error
from kwarmup.finite import LossNotFinite
from kwarmup.fit import listed
from kwarmup.memory import is_out_of_memory
from kwarmup.plan import Plan
from kwarmup.searches import outcome, spent
from kwarmup.searches.hypermodel import PlanHyperModel
from kwarmup.searches.outcome import DIVERGED, FAILED, FINISHED, INFEASIBLE, OUT_OF_MEMORY, Outcome
from kwarmup.searches.result import SearchResult
from kwarmup.searches.screen import Screen
from kwarmup.searches.space import BATCH_SIZE, own
from kwarmup.searches.spent import BEFORE, TRAINING, is_promoted
from kwarmup.untouched import same_random_numbers

_WEIGHTS = "checkpoint.weights.h5"
_WRITE = 'search(build, plan, ..., objective="val_loss").search(x, y, validation_data=(xv, yv))'
#: Arguments of `Plan.fit` and of Keras's `fit` that mean nothing for each trial, and what to write instead.
_DECIDED = {
    "epochs": "plan.replace(epochs=8) in search(build, plan, ...)",
    "initial_epoch": "tuner.search(x, y), which goes on by itself",
    "steps_per_epoch": "plan.replace(examples=...) in search(build, plan, ...)",
    "batch_size": "search(build, plan, batch_size=[32, 64], ...)",
    "validation_split": "tuner.search(x, y, validation_data=(x_validation, y_validation))",
    "shuffle": "search(..., seed=0), which shuffles in the same order in each trial",
    "seed": "search(..., seed=0)",
    "checkpoint_dir": 'search(..., directory="runs/a"), where each trial has its checkpoints',
}
#: So often a trial is begun at the same place.
_ATTEMPTS = 3


class PlanTuner(keras_tuner.Tuner):
    """What `search` adds to a tuner of keras-tuner; to be put in front of one.

    Made by `search` alone, which knows what belongs together.
    """

    hypermodel: PlanHyperModel
    #: Of the first weights and of the order of examples, the same in each trial.
    seed: int

    def search(self, *args: Any, verbose: Any = "auto", **kwargs: Any) -> None:
        """Run trials until there are enough; takes what `Plan.fit` takes, as `search(x, y, validation_data=...)`.

        Args:
            *args: the data.
            verbose: 0 shows nothing.
            **kwargs: for `Plan.fit`: `validation_data`, `callbacks`, `max_device_batch` and so on.

        Raises:
            RuntimeError: if no trial finished; the first failure is its cause.
            TypeError: for an argument that the plan or the search decides, and data of a kind that cannot be.
            ValueError: if there are no validation data for the objective, no training reports it, or data do not go
                with the plan.
        """
        self._check_arguments(args, kwargs)
        objective = self.oracle.objective.name
        if objective.startswith("val_") and not {"validation_data", "callbacks"} & kwargs.keys():
            raise ValueError(
                message("validation_data", None, f"data that {objective!r}, the objective, is of", _WRITE)
            )
        self._first: Exception | None = None
        self.oracle.verbose = 0  # keras-tuner would write a page for each trial
        # Of workers the chief alone knows how many trials there are.
        total = getattr(self.oracle, "max_trials", None)
        with Screen(self.results(), total, verbose != 0) as self._screen, _no_worst_score():
            super().search(*args, **kwargs)
        found = self.results()
        if found.trials and found.best is None and not _is_worker():
            first = found.trials[0]
            raise RuntimeError(
                f"None of {len(found.trials)} trials finished. Trial {first.trial}, the first, {first.status}: "
                f"{first.message}"
            ) from self._first
        if not found.trials and self._first is not None:
            raise self._first

    def on_search_begin(self) -> None:
        """Keep the state before the first trial, so that a process that is killed in it goes on with it."""
        super().on_search_begin()
        self.save()

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Train once, and keep what came of it."""
        folder = Path(self.get_trial_dir(trial.trial_id))
        hp, begun = trial.hyperparameters, time.monotonic()
        self.hypermodel.planned = None
        self._screen.trial_begins(trial)
        try:
            self._check_memory(hp)
            self._go_on_from(hp, folder)
            _check_attempts(folder)
            if "tuner/epochs" in hp.values:
                kwargs["epochs"] = hp.values["tuner/epochs"]
            with same_random_numbers(), _weights_alone():
                keras.utils.set_random_seed(self.seed)
                self.hypermodel.given = {"seed": self.seed, "checkpoint_dir": _folders(folder)}
                try:
                    results = super().run_trial(trial, *args, **kwargs)
                finally:
                    self.hypermodel.given = {}
            self._check_objective(results, folder)
            score, epochs = self._score(results)
            if not np.isfinite(score):
                raise FloatingPointError(f"{self.oracle.objective.name} is {score}")
        except Exception as error:
            if isinstance(error, keras_tuner.errors.FatalError):  # of the search, and no fault of the trial
                _forget_attempt(folder)
                raise
            self._first = self._first or error
            return self._failed(trial, error, time.monotonic() - begun)
        except KeyboardInterrupt:
            _forget_attempt(folder)
            raise
        self._keep(
            trial,
            Outcome(
                trial.trial_id, FINISHED, dict(hp.values), self.hypermodel.planned, score, epochs,
                time.monotonic() - begun,
            ),
        )  # fmt: skip
        return results

    def on_epoch_end(self, trial: Any, model: keras.Model, epoch: int, logs: Any = None) -> None:
        """Show that a pass is over."""
        super().on_epoch_end(trial, model, epoch, logs)
        self._screen.pass_ended(epoch, logs)

    def load_model(self, trial: Any) -> keras.Model:
        """Return the model of a trial, with the best weights that it had."""
        with _weights_alone():
            return super().load_model(trial)

    def results(self) -> SearchResult:
        """Return what has come of the trials so far, those of other workers too."""
        objective = self.oracle.objective
        project = Path(self.project_dir)
        return SearchResult(
            objective.name, objective.direction, self.hypermodel.space.reference,
            self.hypermodel.space.batch_sizes, tuple(outcome.read_all(project)),
        )  # fmt: skip

    def best_plan(self) -> Plan:
        """Return the plan of the best trial.

        Raises:
            ValueError: if none has finished.
        """
        return self.results().best_plan()

    def _failed(self, trial: Any, error: Exception, seconds: float) -> dict[str, float]:
        """Keep what went wrong; return what keras-tuner takes for a failure, without writing a traceback."""
        status, values = _status(error), dict(trial.hyperparameters.values)
        if isinstance(error, LossNotFinite):
            # Without its checkpoint, which is removed with those of the trial.
            error = LossNotFinite(error.loss, error.update, error.epoch, error.learning_rate)
        said = f"{type(error).__name__}: {error}"
        trial.message = f"{status}: {said}"
        found = Outcome(
            trial.trial_id, status, values, self.hypermodel.planned, seconds=seconds, message=said
        )
        self._keep(trial, found)
        objective = self.oracle.objective
        names = [objective.name, *getattr(objective, "name_to_direction", ())]
        return dict.fromkeys(names, float("nan"))

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise at once for what would fail each trial, or would be taken for something else."""
        for name, instead in _DECIDED.items():
            if name in kwargs:
                raise type_error(
                    name, kwargs[name], "no such argument, since the plan or the search decides it", instead
                )
        x, y, sample_weight = (*args, None, None, None)[:3]
        x, y = kwargs.get("x", x), kwargs.get("y", y)
        if isinstance(x, types.GeneratorType):
            raise type_error(
                "x", Code("a generator, which ends with the first trial"), "a function that makes one for each trial",
                "tuner.search(make_batches) for def make_batches(): yield x, y",
            )  # fmt: skip
        if kwargs.get("validation_freq", 1) != 1:
            raise value_error(
                "validation_freq", kwargs["validation_freq"], "1, since the best pass is looked for among all of them",
                "tuner.search(x, y, validation_data=(x_validation, y_validation))",
            )  # fmt: skip
        if x is not None and not _has_own_trials(type(self)):
            Batches(self.hypermodel.space.plan.clock, x, y, kwargs.get("sample_weight", sample_weight))
        if "callbacks" in kwargs:
            kwargs["callbacks"] = listed(kwargs["callbacks"])

    def _check_memory(self, hp: Any) -> None:
        limit = outcome.infeasible(outcome.read_all(Path(self.project_dir)))
        # What goes on from another trial fits, if that one did; and with the smallest batch another model may.
        other = hp.get(BATCH_SIZE) == self.hypermodel.space.batch_sizes[0] and own(hp)
        if hp.get(BATCH_SIZE) >= limit and not other and not is_promoted(hp.values):
            # Another worker has found that out in the meantime, or the oracle is none of ours.
            raise _Infeasible(f"batch size {limit} ran out of memory, so {hp.get(BATCH_SIZE)} was not tried")

    def _go_on_from(self, hp: Any, folder: Path) -> None:
        """Bring what a promoted trial goes on from into its own folder."""
        name = hp.values.get(BEFORE)
        if name is None or (folder / f"{TRAINING}0").exists():  # copied last, and so with all the others
            return
        before = Path(self.get_trial_dir(name))
        past = outcome.read(before)
        if past is not None and past.status != FINISHED:
            raise _Past(past)
        # What is best so far may have been in an earlier round.
        _copy(before / _WEIGHTS, folder / _WEIGHTS)
        for training in sorted(before.glob(f"{TRAINING}*"), reverse=True):
            _copy(training, folder / training.name)

    def _check_objective(self, results: Any, folder: Path) -> None:
        """End the search behind the first training that does not report its objective: no other would."""
        result = results[0] if isinstance(results, list) else results
        if isinstance(result, int | float | np.floating):
            return  # of the objective, from a tuner of the user's
        logs = result if isinstance(result, dict) else result.history
        for name in getattr(self.oracle.objective, "name_to_direction", None) or [self.oracle.objective.name]:
            if logs and name not in logs:
                spent.forget(folder)  # trained anew, it may report it
                known = ", ".join(map(repr, logs))
                raise keras_tuner.errors.FatalValueError(
                    message("objective", name, f"one that the training reports: {known}", _WRITE)
                )

    def _score(self, results: Any) -> tuple[float, int]:
        """The best value of the objective, as keras-tuner reports it: the mean over the trainings of a trial."""
        objective = self.oracle.objective
        names = list(getattr(objective, "name_to_direction", None) or [objective.name])
        best, epochs = [], 0
        for result in results if isinstance(results, list) else [results]:
            if isinstance(result, int | float | np.floating):
                values = [float(result)]
            elif isinstance(result, dict):
                values = [float(objective.get_value(result))]
            else:
                # Of these alone: a callback may log what it knows in some passes only.
                rows = zip(*(result.history[name] for name in names), strict=True)
                values = [float(objective.get_value(dict(zip(names, row, strict=True)))) for row in rows]
                epochs = max(epochs, *map(len, result.history.values()))
            best.append(max(values) if objective.direction == "max" else min(values))
        return float(np.mean(best)), epochs

    def _keep(self, trial: Any, found: Outcome) -> None:
        outcome.write(Path(self.get_trial_dir(trial.trial_id)), found)
        self._screen.trial_ended(found)


class _Infeasible(Exception):
    """A batch size that is known not to fit, and was not tried."""


class _Ended(Exception):
    """A trial in which the process has ended again and again."""


class _Past(Exception):
    """The trial that was to go on had failed."""

    def __init__(self, past: Outcome):
        self.past = past
        super().__init__(f"trial {past.trial}, from which it was to go on: {past.message}")


def _status(error: Exception) -> str:
    if isinstance(error, _Past):
        return error.past.status
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, LossNotFinite | FloatingPointError):
        return DIVERGED
    return INFEASIBLE if isinstance(error, _Infeasible) else FAILED


@contextlib.contextmanager
def _no_worst_score() -> Iterator[None]:
    """While inside, numpy does not warn that keras-tuner looks for the best of a trial that has no score."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        yield


def _has_own_trials(kind: type) -> bool:
    """Whether a tuner class is the user's and runs trials in a way of its own, on other data than `Plan.fit` takes."""
    trials = next(base for base in kind.__mro__ if base is not PlanTuner and "run_trial" in vars(base))
    return not trials.__module__.startswith("keras_tuner.")


@contextlib.contextmanager
def _weights_alone() -> Iterator[None]:
    """While inside, Keras does not warn that weights were loaded into a model whose optimizer has not begun."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        yield


def _check_attempts(folder: Path) -> None:
    """Count how often a trial was begun at the same checkpoint: what ends the process each time is a failure too."""
    path = folder / "begun.json"
    place = sorted(str(step.relative_to(folder)) for step in folder.glob(f"{TRAINING}*/step-*"))
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if before[-_ATTEMPTS:] == [place] * _ATTEMPTS:
        raise _Ended(f"the process that ran it has ended {_ATTEMPTS} times without getting further")
    outcome.write_json(path, [*before, place])


def _forget_attempt(folder: Path) -> None:
    """Take back the last attempt, which was ended by no fault of the trial, as by Ctrl-C."""
    path = folder / "begun.json"
    if path.exists():
        outcome.write_json(path, json.loads(path.read_text(encoding="utf-8"))[:-1])


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a folder for each time that a trial is trained."""
    number = 0
    while True:
        yield folder / f"{TRAINING}{number}"
        number += 1


def _copy(source: Path, target: Path) -> None:
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    if source.is_dir():
        shutil.copytree(source, beside)
    else:
        shutil.copyfile(source, beside)
    beside.replace(target)


def _is_worker() -> bool:
    """Whether another process is keras-tuner's chief."""
    return "KERASTUNER_ORACLE_IP" in os.environ and "chief" not in os.environ.get("KERASTUNER_TUNER_ID", "")
