"""What `kwarmup tune` searches: data, model, plan and range. Each process of a search makes the same one."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras

from kwarmup.cli import data as data_sets
from kwarmup.cli import options
from kwarmup.cli.afresh import afresh
from kwarmup.cli.errors import UserError
from kwarmup.measure.find_lr import find_lr
from kwarmup.plan import Plan, PlanWarning
from kwarmup.searches import outcome
from kwarmup.searches.budget import equal_examples, equal_updates
from kwarmup.searches.result import SearchResult
from kwarmup.searches.search import search
from kwarmup.searches.space import peak_range
from kwarmup.sweep import Sweep
from kwarmup.verbs import cosine, warmup

_BUDGETS = {"examples": equal_examples, "updates": equal_updates}
#: The part of each trial that it warms up in.
_WARMUP = 0.1


class Tuning:
    """What `kwarmup tune` searches.

    Args:
        sweep: the file of the range test; it is measured and written where it is missing and needed.
        **given: the options of the command.

    Raises:
        UserError: if there is no such data or model, or they do not go together.
    """

    def __init__(
        self, sweep: Path, *, source: str, network: str | None, batch_sizes: list[int],
        peak: tuple[float, float] | None, epochs: int, budget: str, tuner: str, objective: str | None,
        optimizer_name: str | None, seed: int,
    ):  # fmt: skip
        data = data_sets.load(source)
        options.check_sizes(batch_sizes, data)
        self.seed, self.tuner = seed, tuner
        self.batch_sizes, self.budget = batch_sizes, _BUDGETS[budget]
        keras.utils.set_random_seed(seed)
        self.build, first, self.data = afresh(network, optimizer_name, data)
        self.objective = objective or ("val_accuracy" if _has_accuracy(first) else "val_loss")
        self.sweep = None if peak is not None else self._measured(sweep, first)
        if peak is None:
            assert self.sweep is not None
            peak = peak_range(self.sweep)
        self.peak = peak
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlanWarning)
            self.plan = Plan(
                learning_rate=warmup(fraction=_WARMUP) >> cosine(), batch_size=batch_sizes[0],
                examples=len(self.data.x), epochs=epochs,
            )  # fmt: skip

    def run(self, folder: Path, trials: int) -> int:
        """Search until there are enough trials, or Ctrl-C; return the exit code."""
        tuner = search(
            self.build, self.plan, peak=self.peak, batch_size=self.batch_sizes, budget=self.budget,
            sweep=self.sweep, tuner=self.tuner, objective=self.objective, max_trials=trials, directory=folder,
            seed=self.seed,
        )  # fmt: skip
        try:
            tuner.search(
                self.data.x, self.data.y, validation_data=(self.data.x_validation, self.data.y_validation),
                validation_batch_size=max(32, max(self.batch_sizes)),
            )  # fmt: skip
        except KeyboardInterrupt:
            options.be_quiet()
            return 130
        except RuntimeError as error:
            raise UserError(str(error)) from error
        return 0

    def result(self, folder: Path) -> SearchResult:
        """Return what has come of the trials in a folder."""
        direction = "max" if self.objective.removeprefix("val_") in ("accuracy", "auc") else "min"
        return SearchResult(
            self.objective, direction, self.batch_sizes[0], tuple(sorted(self.batch_sizes)),
            tuple(outcome.read_all(folder)),
        )  # fmt: skip

    def _measured(self, path: Path, model: keras.Model) -> Sweep:
        if not path.exists():
            found = find_lr(model, self.data.x, self.data.y, batch_size=self.batch_sizes[0], seed=self.seed)
            if found.interrupted:
                raise KeyboardInterrupt
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found.to_json(), encoding="utf-8")
        sweep = Sweep.from_json(path.read_text(encoding="utf-8"))
        try:
            sweep.suggest()
        except ValueError as error:
            path.unlink()
            raise UserError(
                "The range test suggests no learning rate; say where to search: --peak 0.001,1"
            ) from error
        return sweep


def _has_accuracy(model: keras.Model) -> bool:
    metrics = (model.get_compile_config() or {}).get("metrics") or []
    return "accuracy" in metrics or "acc" in metrics
