"""What `kwarmup tune` searches: data, model, plan and range. Each process of a search makes the same one."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from kwarmup.cli import data as data_sets
from kwarmup.cli import options
from kwarmup.cli.afresh import afresh
from kwarmup.cli.errors import UserError
from kwarmup.measure.find_lr import find_lr
from kwarmup.measure.throughput import throughput
from kwarmup.plan import Plan, PlanWarning
from kwarmup.searches import outcome
from kwarmup.searches.budget import Budget, equal_examples, equal_time, equal_updates
from kwarmup.searches.objective import direction
from kwarmup.searches.result import SearchResult
from kwarmup.searches.search import search
from kwarmup.searches.space import peak_range
from kwarmup.speed import Throughput
from kwarmup.sweep import Sweep
from kwarmup.verbs import cosine, warmup

#: What is measured before a search, in its folder: all processes of a search go by the same figures.
SWEEP, SPEED = "sweep.json", "speed.json"
_BUDGETS = {"examples": equal_examples, "updates": equal_updates}
#: Seconds that workers wait for what the chief measures, and how often they look for it.
_PATIENCE, _LOOK = 900.0, 0.2
#: What a search tells to write, and the options of it.
_IN_OPTIONS = (
    (r"plan\.replace\(epochs=(\d+)\)", r"--epochs \1"),
    (r'search\(.*objective="(\w+)".*', r"--objective \1"),
    (r'search\(.*directory="(\w+)".*', r"--output \1"),
    (r"^`(budget|objective)`", r"--\1"),
    (r"^`directory`", "--output"),
)
#: The part of each trial that it warms up in.
_WARMUP = 0.1


class Tuning:
    """What `kwarmup tune` searches.

    Args:
        output: the folder of the search, for what is measured before it, unless that is there already.
        **given: the options of the command.

    Raises:
        UserError: if there is no such data or model, they do not go together, or nobody knows whether more of the
            objective is better or worse.
    """

    def __init__(
        self, output: Path, *, source: str, network: str | None, batch_sizes: list[int],
        peak: tuple[float, float] | None, epochs: int, budget: str, tuner: str, objective: str | None,
        optimizer_name: str | None, seed: int,
    ):  # fmt: skip
        if objective is not None:
            _direction(objective)  # before anything is loaded and measured
        data = data_sets.load(source)
        options.check_sizes(batch_sizes, data)
        self.seed, self.tuner = seed, tuner
        self.batch_sizes = batch_sizes
        keras.utils.set_random_seed(seed)
        # What is measured before the search is measured on the model that the search begins with.
        self.build, first, self.data = afresh(network, optimizer_name, data, keras_tuner.HyperParameters())
        self.objective = objective or ("val_accuracy" if _has_accuracy(first) else "val_loss")
        self.sweep = None if peak is not None else self._measured(output / SWEEP, first)
        if peak is None:
            assert self.sweep is not None
            peak = peak_range(self.sweep)
        self.peak = peak
        self.budget = self._of_time(output / SPEED, first) if budget == "time" else _BUDGETS[budget]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlanWarning)
            self.plan = Plan(
                learning_rate=warmup(fraction=_WARMUP) >> cosine(), batch_size=batch_sizes[0],
                examples=len(self.data.x), epochs=epochs,
            )  # fmt: skip

    def run(self, folder: Path, trials: int) -> int:
        """Search until there are enough trials, or Ctrl-C; return the exit code."""
        try:
            tuner = search(
                self.build, self.plan, peak=self.peak, batch_size=self.batch_sizes, budget=self.budget,
                sweep=self.sweep, tuner=self.tuner, objective=self.objective, max_trials=trials, directory=folder,
                seed=self.seed,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(_in_options(error)) from error
        try:
            tuner.search(
                self.data.x, self.data.y, validation_data=(self.data.x_validation, self.data.y_validation),
                validation_batch_size=max(32, max(self.batch_sizes)),
            )  # fmt: skip
        except KeyboardInterrupt:
            options.be_quiet()
            return 130
        except (RuntimeError, ValueError) as error:
            raise UserError(_in_options(error)) from error
        return 0

    def result(self, folder: Path) -> SearchResult:
        """Return what has come of the trials in a folder."""
        return SearchResult(
            self.objective, _direction(self.objective), self.batch_sizes[0], tuple(sorted(self.batch_sizes)),
            tuple(outcome.read_all(folder)),
        )  # fmt: skip

    def _of_time(self, path: Path, model: keras.Model) -> Budget:
        if len(set(self.batch_sizes)) == 1:
            return equal_examples  # and there is no line through one batch size

        def measure() -> Throughput:
            return throughput(model, self.data.x, self.data.y, batch_sizes=self.batch_sizes, seed=self.seed)

        speed = Throughput.from_dict(_once(path, measure))
        if len(speed.batch_sizes) == 1:
            raise UserError(
                f"--budget time: a batch of {speed.out_of_memory[0]:,} does not fit into the memory, and one batch "
                "size tells nothing of the others. Write: --batch-sizes with two that fit"
            )
        return equal_time(speed)

    def _measured(self, path: Path, model: keras.Model) -> Sweep:
        def measure() -> Sweep:
            found = find_lr(model, self.data.x, self.data.y, batch_size=self.batch_sizes[0], seed=self.seed)
            try:
                if not found.interrupted:
                    found.suggest()
            except ValueError as error:
                raise UserError(
                    "The range test suggests no learning rate; say where to search: --peak 0.001,1"
                ) from error
            return found

        return Sweep.from_dict(_once(path, measure))


def _once(path: Path, measure: Callable[[], Sweep | Throughput]) -> dict[str, Any]:
    """Return what is in a file; of several processes that start at once, the chief measures it for all of them.

    Args:
        path: the file.
        measure: returns what is to be in it.

    Raises:
        KeyboardInterrupt: if Ctrl-C ended the measurement.
        UserError: if it is the chief's to measure, and does not come.
    """
    chief = os.environ.get("KERASTUNER_TUNER_ID", "chief") == "chief"
    end = time.monotonic() + _PATIENCE
    while not path.exists():
        if chief:
            found = measure()
            if found.interrupted:
                raise KeyboardInterrupt
            outcome.write_json(path, found.to_dict())
        elif time.monotonic() > end:
            raise UserError(
                f"After {_PATIENCE:g} s there is no {path}, which the chief measures for all. Start the chief, with "
                "the same --output on a file system that all share."
            )
        else:
            time.sleep(_LOOK)
    return json.loads(path.read_text(encoding="utf-8"))


def _in_options(error: Exception) -> str:
    """Return what an error of a search says, in the words of the command line."""
    text = str(error)
    for python, option in _IN_OPTIONS:
        text = re.sub(python, option, text)
    return text


def _direction(objective: str) -> str:
    """Return `"max"` or `"min"`, by which the best of an objective is told.

    Raises:
        UserError: if nobody knows.
    """
    found = direction(objective)
    if found is None:
        raise UserError(
            f"--objective {objective}: keras-tuner does not know whether more of it is better or worse. It knows the "
            "loss, and metrics and losses by the names that Keras gives them: val_accuracy, val_auc, val_recall, "
            "val_mae, … Write: --objective val_loss"
        )
    return found


def _has_accuracy(model: keras.Model) -> bool:
    metrics = (model.get_compile_config() or {}).get("metrics") or []
    return "accuracy" in metrics or "acc" in metrics
