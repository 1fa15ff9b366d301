"""`kw.search`: a tuner of keras-tuner for batch size and learning rate."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from kwarmup.errors import type_error, value_error
from kwarmup.length import number
from kwarmup.measure.noise_scale import NoiseScale
from kwarmup.plan import Plan
from kwarmup.profile import Profile
from kwarmup.searches import kept, oracles
from kwarmup.searches import objective as objectives
from kwarmup.searches.budget import Budget, as_before, equal_examples
from kwarmup.searches.hypermodel import PlanHyperModel
from kwarmup.searches.tuner import PlanTuner
from kwarmup.sweep import Sweep

_WRITE = "search(build, plan, peak=(1e-3, 1.0), batch_size=[32, 64, 128, 256], tuner={})"
#: Trials where nobody says how many.
_TRIALS = 20
#: Arguments of keras-tuner's that mean nothing here: who decides instead, and what to write.
_DECIDED = {
    "optimizer": ("the optimizer is that of the model, and its learning rate the plan's",
                  'model.compile(keras.optimizers.SGD(momentum=0.9), "mse") in build'),
    "project_name": ("the directory is that of this search alone", 'search(..., directory="runs/a")'),
    "max_retries_per_trial": ("what fails is a result, and tried once", "search(...)"),
    "max_epochs": ("the plan decides it", "plan.replace(epochs=27)"),
}  # fmt: skip
_ORACLES: dict[str, type[oracles.Learning]] = {
    "bayesian": oracles.Bayesian,
    "random": oracles.Random,
    "hyperband": oracles.Hyperband,
    "grid": oracles.Grid,
}


def search(
    build: Callable[..., keras.Model],
    plan: Plan,
    *,
    peak: tuple[float, float],
    batch_size: Sequence[int],
    warmup: Sequence[Profile] | None = None,
    decay: Sequence[Profile] | None = None,
    scaling: float | None = None,
    budget: Budget = equal_examples,
    sweep: Sweep | None = None,
    noise: NoiseScale | None = None,
    tuner: str | type[keras_tuner.Tuner] = "bayesian",
    objective: Any = "val_loss",
    max_trials: int | None = None,
    directory: str | os.PathLike[str] = "search",
    seed: int = 0,
    **arguments: Any,
) -> PlanTuner:
    """Return a tuner that searches batch size and learning rate together; `tuner.search(x, y, …)` starts it.

    It is one of keras-tuner, with all that its users know, and `results()` and `best_plan()` beside it. What is
    searched is the peak at the batch size of the plan; the scaling rule carries it to the batch size of a trial, so
    that both can be searched as if they did not depend on each other. Each trial has a plan bound to its own
    batch size: phases in fractions and passes keep their meaning.

    A trial that runs out of memory rules out its batch size and all above, one whose loss is no longer finite
    counts as one with the worst score, and the search goes on; `results().table()` lists them. With Hyperband, a
    trial that is promoted goes on with weights, optimizer and step, on the schedule of the whole plan.

    A `keras.callbacks.TensorBoard` among the callbacks of `tuner.search` gets the hyperparameters of each trial, for
    its HParams tab.

    The same program started again goes on where it was killed: finished trials are kept, and the one that was running
    continues from its checkpoint. With keras-tuner's `KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP` and
    `KERASTUNER_ORACLE_PORT` the same program is the chief or a worker, all on one file system; a worker that was killed
    and is started again under its name runs its trial again.

    Several devices share each trial, which comes to what it does on one, with `distribution_strategy=strategy` for a
    `strategy` from `kw.distribute.strategy()`, or with a `build` that makes its model in `strategy.scope()`.

    Args:
        build: a function of nothing, or of `hp`, that returns a new compiled model. Its learning rate is replaced.
        plan: as for `PlanHyperModel`.
        peak: as for `PlanHyperModel`.
        batch_size: as for `PlanHyperModel`.
        warmup: as for `PlanHyperModel`.
        decay: as for `PlanHyperModel`.
        scaling: as for `PlanHyperModel`.
        budget: as for `PlanHyperModel`.
        sweep: as for `PlanHyperModel`.
        noise: as for `PlanHyperModel`.
        tuner: `"bayesian"`, `"random"`, `"hyperband"`, `"grid"`, or a tuner class of keras-tuner.
        objective: a metric, with `val_` in front for the validation data, or as keras-tuner takes it.
        max_trials: how many at most; `None` for 20, and for all that a grid and Hyperband have, which counts each
            round as one.
        directory: a folder for this search alone.
        seed: of the search, of the first weights and of the order of examples, which are the same in each trial.
        **arguments: what else the tuner takes, such as `factor=3`, `num_initial_points=5`,
            `distribution_strategy=…`, `executions_per_trial=2`, or `overwrite=True` to begin anew in the folder.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if it is out of range, no plan can be made for a batch size, one does not divide by the devices, or
            the folder holds another search.

    Papers: Li et al. 2018, "Hyperband"; Smith et al. 2018 and Malladi et al. 2022 on what batch size and learning rate
    have to do with each other.

    Example:

    >>> import tempfile
    >>> import keras, numpy as np
    >>> import kwarmup as kw
    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(), "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    >>> y = x @ np.ones((4, 1), "float32")
    >>> plan = kw.Plan(learning_rate=kw.warmup(fraction=0.2) >> kw.cosine(), batch_size=20, examples=200, epochs=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tuner = kw.search(
    ...         build, plan, peak=(1e-3, 0.3), batch_size=[10, 20], tuner="random", max_trials=2, directory=folder
    ...     )
    ...     tuner.search(x, y, validation_data=(x, y), verbose=0)
    ...     best = tuner.best_plan()
    >>> best.clock.epochs, best.clock.batch_size in (10, 20)
    (2, True)
    """
    seed, max_trials = _checked(seed, max_trials, arguments)
    overwrite = arguments.pop("overwrite", False)
    hypermodel = PlanHyperModel(
        build, plan, peak=peak, batch_size=batch_size, warmup=warmup, decay=decay, scaling=scaling,
        budget=budget, sweep=sweep, noise=noise,
    )  # fmt: skip
    strategy = arguments.get("distribution_strategy")
    if strategy is not None:
        hypermodel.space.check_on(strategy)  # keras-tuner's first models are not made in its scope
    project = Path(directory)
    name = tuner if isinstance(tuner, str) else getattr(tuner, "__name__", "")
    chief = os.environ.get("KERASTUNER_TUNER_ID", "chief") == "chief"
    if chief:
        if overwrite:  # before anything is compared with it, and what is kept beside keras-tuner's files too
            shutil.rmtree(project, ignore_errors=True)
        kept.check_same(
            project, {**hypermodel.space.facts(), "tuner": name, "objective": _said(objective), "seed": seed}
        )
        kept.put_back(project, os.environ.get("KERASTUNER_TUNER_ID", "tuner0"))
    found = kept.passes(project, hypermodel.space.passes(), keep=chief)
    hypermodel.space = dataclasses.replace(hypermodel.space, budget=as_before(found))
    common: dict[str, Any] = {
        "hypermodel": hypermodel,
        "directory": str(project.parent),
        "project_name": project.name,
    }
    # keras-tuner takes 0 for any seed, and counts it up with each value, so that seeds in a row would share trials.
    told = {"objective": objectives.told(objective), "seed": 1 + 10_000 * seed}
    with contextlib.redirect_stdout(io.StringIO()):  # keras-tuner says that it has read its files
        if isinstance(tuner, str):
            oracle, left = _oracle(tuner, hypermodel, project, max_trials, {**told, **arguments})
            made = PlanTuner(oracle=oracle, **common, **left)
        else:
            made = _of_class(tuner, plan, max_trials, {**common, **told, **arguments})
    made.seed = seed
    if isinstance(made.oracle, keras_tuner.Oracle):  # and not what a worker asks the chief through
        kept.keeps(made.oracle, project)
    return made


def _checked(seed: Any, max_trials: Any, arguments: dict[str, Any]) -> tuple[int, int | None]:
    """Return seed and number of trials as plain numbers, and refuse arguments that something else decides."""
    write = _WRITE.format('"bayesian"')[:-1]
    for name, (why, instead) in _DECIDED.items():
        if name in arguments:
            raise type_error(name, arguments[name], f"no such argument, since {why}", instead)
    known = number("seed", seed, f"{write}, seed=0)")
    if not isinstance(known, int) or known < 0:
        raise value_error("seed", seed, "a whole number, 0 or more", f"{write}, seed=0)")
    if max_trials is None:
        return known, None
    most = number("max_trials", max_trials, f"{write}, max_trials=20)")
    if not isinstance(most, int) or most < 1:
        raise value_error("max_trials", max_trials, "a whole number, 1 or more", f"{write}, max_trials=20)")
    return known, most


def _said(objective: Any) -> Any:
    # The text of a list has the addresses of what is in it, other ones in each process.
    return [str(one) for one in objective] if isinstance(objective, list | tuple) else str(objective)


def _oracle(
    name: str, hypermodel: PlanHyperModel, project: Path, max_trials: int | None, arguments: dict[str, Any]
) -> tuple[oracles.Learning, dict[str, Any]]:
    """Return the oracle of a name, and the arguments that are for the tuner."""
    if name not in _ORACLES:
        known = ", ".join(map(repr, _ORACLES))
        raise value_error(
            "tuner", name, f"one of {known}, or a tuner class of keras-tuner", _WRITE.format('"bayesian"')
        )
    kind = _ORACLES[name]
    taken = {parameter for base in kind.__mro__ for parameter in inspect.signature(base.__init__).parameters}  # type: ignore[misc]
    own = {key: value for key, value in arguments.items() if key in taken}
    if kind is oracles.Hyperband:
        own["max_epochs"] = hypermodel.space.plan.clock.epochs
    elif max_trials is None and kind is not oracles.Grid:
        max_trials = _TRIALS
    made = kind(project, hypermodel, **own)
    made.max_trials = max_trials
    return made, {key: value for key, value in arguments.items() if key not in taken}


def _of_class(kind: Any, plan: Plan, max_trials: int | None, arguments: dict[str, Any]) -> PlanTuner:
    """Return a tuner of a class of keras-tuner's, or of the user's; its oracle is its own."""
    if not isinstance(kind, type) or not issubclass(kind, keras_tuner.Tuner):
        raise type_error(
            "tuner",
            kind,
            "a name, or a tuner class of keras-tuner",
            _WRITE.format("keras_tuner.RandomSearch"),
        )
    if issubclass(kind, keras_tuner.Hyperband):
        arguments["max_epochs"] = plan.clock.epochs
    elif max_trials is not None:
        arguments["max_trials"] = max_trials
    arguments.setdefault("max_consecutive_failed_trials", sys.maxsize)
    made: PlanTuner = type(kind.__name__, (PlanTuner, kind), {})(**arguments)
    return made
