"""The study: measure what the batch size does to a training, within a budget of time."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from kwarmup.device_memory import device_memory
from kwarmup.errors import Code, type_error, value_error
from kwarmup.footprint import MemoryUse
from kwarmup.length import number
from kwarmup.measure.find_lr import find_lr
from kwarmup.measure.memory_use import memory_use
from kwarmup.measure.noise_scale import noise_scale
from kwarmup.measure.stable import largest_stable_lr
from kwarmup.measure.throughput import throughput
from kwarmup.measure.warmup_gain import warmup_gain as measure_gain
from kwarmup.plan import Plan, PlanWarning
from kwarmup.private import build as build_variables
from kwarmup.private import optimizer_like
from kwarmup.studies.data import Data
from kwarmup.studies.lengths import beta_2, scaling_rule, warmup_updates
from kwarmup.studies.result import Noise, Study
from kwarmup.studies.run import Check, Run
from kwarmup.studies.settings import Settings
from kwarmup.studies.training import train
from kwarmup.sweep import Suggestion, Sweep
from kwarmup.trial import check, layout, progress
from kwarmup.untouched import same_random_numbers
from kwarmup.verbs import hold, linear, warmup

_WRITE = "study(build, x, y, batch_sizes=[16, 32, 64, 128, 256], budget=180)"
#: The learning rate is sought at a batch size that is small enough to be far from where scaling ends.
_REFERENCE = 32
#: Shares of the budget: the range test and the like, and what is left to the trainings.
_FIRST, _TRAININGS = 0.3, 0.6
#: Of the range test and of the largest stable learning rate.
_REPEATS = 3
#: Share of all that the first training gains that makes the target of all, and of a run that its decay takes.
_TARGET, _DECAY = 0.9, 0.2
#: The pilots see this part of the examples of a training; their peaks lie so far apart, and are so many at most.
_PILOT, _FACTOR, _PILOTS = 4, 4.0, 8
#: Where along the reference training the noise scale is measured, as shares of it.
_NOISE = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.75)
_NOISE_EXAMPLES = 20_000
_PASSES = 30


def study(
    build: Callable[[], keras.Model],
    x: Any,
    y: Any,
    *,
    validation_data: tuple[Any, Any] | None = None,
    batch_sizes: Sequence[int] | None = None,
    seeds: int = 3,
    budget: float = 180,
    epochs: float | None = None,
    monitor: str | None = None,
    target: float | None = None,
    own_peaks: bool = False,
    warmup_gain: bool = False,
    path: str | os.PathLike[str] | None = None,
) -> Study:
    """Measure what the batch size does to the training of a model: speed, noise, updates to a target, quality.

    First the seconds and the memory of an update at each batch size, then a range test and the largest stable
    learning rate at a small one, then short trainings at every batch size from several seeds: with warmup and a
    decay at the end, the peak moved from the reference by the scaling rule of the optimizer. Along the first of
    them the noise scale is measured. All have the same examples, so that large batches make fewer updates; how
    many each needs to the same value of the metric is what counts.

    Ctrl-C, or the end of the budget, ends the study and keeps what was measured; `missing` says what is not. Before the
    first training there is nothing to keep, and Ctrl-C is Ctrl-C.

    Args:
        build: a function without arguments that returns a new compiled model. Its learning rate is replaced.
        x: training inputs, arrays in any nesting.
        y: targets.
        validation_data: `(x, y)`; `None` holds out a fifth of the training examples.
        batch_sizes: `None` for powers of two from 16, up to a tenth of the data or 512.
        seeds: trainings at each of them.
        budget: seconds that the study may take in all. A piece that has begun is finished.
        epochs: passes over the data in each training, of a part of one too; `None` for what the budget allows.
        monitor: the metric to follow, on the validation data; `None` for the model's first, or the loss.
        target: the value of it to run to; `None` for nine tenths of what the first training gains.
        own_peaks: also train each batch size with half and twice the peak of the rule.
        warmup_gain: also measure what warmup buys, at the end; see `kw.warmup_gain`.
        path: a JSON file that is written behind each piece. Where it holds a study with the same settings,
            that one goes on.

    Returns:
        A `Study`, with `recommend()` and `report()`.

    Raises:
        TypeError: if `build` is no function that returns a compiled model.
        ValueError: if an argument is out of range, the model accumulates gradients or is spread over replicas, fewer
            than two batch sizes fit into the memory, or the file holds a study of something else.

    Papers: McCandlish et al. 2018; Shallue et al. 2019; Qiao et al. 2021.

    Example:

    >>> import keras, numpy as np
    >>> import kwarmup as kw
    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(), "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    >>> y = x @ np.ones((4, 1), "float32")
    >>> study = kw.study(build, x, y, batch_sizes=[16, 64], budget=300, epochs=1, seeds=1)
    >>> study.batch_sizes, study.recommend().clock.examples
    ((16, 64), 160)
    """
    return _Session(
        build, x, y, validation_data, batch_sizes, seeds, budget, epochs, monitor, target, own_peaks, path
    ).go(warmup_gain)


class _OutOfTime(Exception):
    """The budget is spent: no new piece is begun."""


class _Session:
    """A study while it is measured; what stands is in `study`, and on the disk."""

    def __init__(
        self, build: Any, x: Any, y: Any, validation_data: Any, batch_sizes: Any, seeds: Any, budget: Any,
        epochs: Any, monitor: Any, target: Any, own_peaks: bool, path: Any,
    ):  # fmt: skip
        if not callable(build) or isinstance(build, keras.Model):
            raise type_error(
                "build", Code(f"a {type(build).__name__}"), "a function that returns a compiled model", _WRITE
            )
        for name, value, least in (("seeds", seeds, 1), ("budget", budget, 1)):
            if number(name, value, _WRITE) < least or (name == "seeds" and not isinstance(value, int)):
                raise value_error(name, value, f"a number, {least} or more", _WRITE)
        self.build, self.budget, self.seeds, self.epochs = build, float(budget), seeds, epochs
        self.data = Data(x, y, validation_data, monitor)
        self.target, self.own_peaks = target, own_peaks
        self.batch_sizes = self._sizes(batch_sizes)
        self.reference = _reference(self.batch_sizes)
        self.path = None if path is None else Path(path)
        if self.path is not None:
            # Not behind the first piece, minutes later.
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self.begun = time.monotonic()
        self.before = 0.0  # seconds of an earlier session
        self.costs: dict[int, list[float]] = {}
        self.missing: list[str] = []
        self.study: Study | None = None

    def _sizes(self, batch_sizes: Any) -> tuple[int, ...]:
        most = self.data.examples
        if batch_sizes is None:
            batch_sizes = [2**k for k in range(4, 10) if 2**k <= max(32, most // 10)]
        if len(set(batch_sizes)) < 2:
            raise value_error(
                "batch_sizes", list(batch_sizes), "two different ones or more, to compare", _WRITE
            )
        for size in batch_sizes:
            if not isinstance(number("batch_sizes", size, _WRITE), int) or not 1 <= size <= most:
                raise value_error(
                    "batch_sizes", size, f"whole numbers from 1 to the {most:,} training examples", _WRITE
                )
        return tuple(sorted(set(batch_sizes)))

    # Time

    @property
    def spent(self) -> float:
        return self.before + time.monotonic() - self.begun

    def _need(self, seconds: float, what: str) -> None:
        if self.spent + seconds > self.budget:
            self.missing.append(f"{what}: the budget of {self.budget:.0f} s was spent.")
            raise _OutOfTime

    # Pieces

    def model(self, seed: int = 0) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = self.build()
        check(model, "study")
        parts, replicas = layout(model)
        if replicas != 1:
            raise value_error(
                "build", Code(f"a model over {replicas} replicas"),
                "one on one device", "a build without strategy.scope(), and then study.recommend().on(strategy)",
            )  # fmt: skip
        if parts != 1:
            raise value_error(
                "build", Code(f"a model with {parts} micro-batches per update"),
                "one without accumulated gradients, whose update with the same batch is the same",
                f"SGD() in build, and then study.recommend().replace(gradient_accumulation_steps={parts})",
            )  # fmt: skip
        return model

    def go(self, gain: bool) -> Study:
        interrupted = False
        try:
            with same_random_numbers(), progress("study", round(self.budget)) as advance:
                self.advance = lambda: advance(min(round(self.spent), round(self.budget)))
                study = self._trainings(self._begin())
                if gain and (study.gain is None or study.gain.interrupted):
                    self._gain(study)
        except KeyboardInterrupt:
            interrupted = True
        except _OutOfTime:
            pass
        if self.study is None:
            raise KeyboardInterrupt
        if interrupted:
            self.missing.append("Ctrl-C ended the study; with the same path it goes on.")
        return self._keep(missing=(*self._not_found(), *self._not_trained(), *self.missing))

    def _begin(self) -> Study:
        """The study so far, or a new one with the pieces that all trainings build upon."""
        found = Study.load(self.path) if self.path is not None and self.path.exists() else None
        model = self.model()
        build_variables(model, self.data.few())
        self.data.check(model)  # which also says where the monitor is unknown
        assert self.data.monitor is not None
        facts = _facts(model, self.data)
        if found is not None:
            self._check_same(found, facts)
            self.reference = found.settings.reference
            self.before = found.seconds
            # More seeds, and more peaks, are more of the same.
            settings = dataclasses.replace(found.settings, seeds=self.seeds, own_peaks=self.own_peaks)
            self.study = dataclasses.replace(found, settings=settings)
            return self.study
        speed = throughput(model, self.data.x, self.data.y, batch_sizes=self.batch_sizes, repeats=3)
        if speed.interrupted:
            raise KeyboardInterrupt
        if len(speed.batch_sizes) < 2:
            expected = f"two that fit into memory, as {speed.batch_sizes[0]} does"
            raise value_error("batch_sizes", list(self.batch_sizes), expected, _WRITE)
        self.reference = _reference(speed.batch_sizes)
        memory = self._memory(model, speed.batch_sizes)
        sweep = find_lr(
            model, self.data.x, self.data.y, batch_size=self.reference, repeats=_REPEATS, high=10.0, low=1e-6
        )
        if sweep.interrupted:
            raise KeyboardInterrupt
        stable = None
        with contextlib.suppress(
            ValueError
        ):  # whatever the learning rate, the loss rises, or none makes it rise
            stable = largest_stable_lr(
                model, self.data.x, self.data.y, batch_size=self.reference, repeats=_REPEATS
            )
            if stable.confidence < 1 - 2 * 0.5**_REPEATS:  # of fewer repeats: it was interrupted
                raise KeyboardInterrupt
        examples = self._run_examples(speed)
        pilots = self._pilots(self._first_peak(sweep, stable), max(examples // _PILOT, 10 * self.reference))
        settings = Settings(
            batch_sizes=self.batch_sizes, seeds=self.seeds, examples=self.data.examples,
            run_examples=examples, reference=self.reference,
            peak=min(pilots, key=lambda pilot: pilot[1])[0], scaling=scaling_rule(model.optimizer),
            monitor=self.data.monitor, sign=self.data.sign, target=self.target, own_peaks=self.own_peaks,
        )  # fmt: skip
        self.study = Study(
            settings, facts, throughput=speed, memory=memory, sweep=sweep, pilots=tuple(pilots), stable=stable
        )
        return self._keep()

    def _memory(self, model: keras.Model, batch_sizes: Sequence[int]) -> MemoryUse | None:
        if device_memory(model) is None:
            return None
        memory = memory_use(model, self.data.x, self.data.y, batch_sizes=batch_sizes)
        if memory.interrupted:
            raise KeyboardInterrupt
        return memory

    def _check_same(self, found: Study, facts: dict[str, Any]) -> None:
        asked = {
            "batch_sizes": self.batch_sizes, "examples": self.data.examples, "monitor": self.data.monitor,
            "target": found.settings.target if self.target is None else self.target,
            "run_examples": found.settings.run_examples if self.epochs is None else self._asked_examples(),
        }  # fmt: skip
        had = dataclasses.asdict(found.settings)
        # Of a model, what does not depend on how many were made before it.
        same = ("backend", "weights", "optimizer", "beta_2", "validation_examples")
        pairs = [(name, had[name], now) for name, now in asked.items()]
        pairs += [(name, found.facts.get(name), facts[name]) for name in same]
        if differences := [
            f"{name}: {before!r}, now {now!r}" for name, before, now in pairs if before != now
        ]:
            raise value_error(
                "path", str(self.path), "a study of the same: " + "; ".join(differences),
                'study(..., path="another.json")',
            )  # fmt: skip

    def _asked_examples(self) -> int:
        if number("epochs", self.epochs, _WRITE) <= 0:
            raise value_error("epochs", self.epochs, "a number above 0", _WRITE)
        return max(max(self.batch_sizes), round(self.epochs * self.data.examples))

    def _run_examples(self, speed: Any) -> int:
        """How many examples each training sees, so that all of them fit into the budget."""
        if self.epochs is not None:
            return self._asked_examples()
        seconds = max(self.budget - self.spent, self.budget * _FIRST) * _TRAININGS
        peaks = 3 if self.own_peaks else 1
        of_an_example = sum(speed.step_time.seconds(size) / size for size in self.batch_sizes)
        # Some two seconds of each go into building, tracing and looking at the model.
        left = max(seconds / (self.seeds * peaks) - 2 * len(self.batch_sizes), seconds / 4)
        fits = left / of_an_example
        return int(min(max(fits, 4 * max(self.batch_sizes)), _PASSES * self.data.examples))

    def _first_peak(self, sweep: Sweep, stable: Suggestion | None) -> float:
        """Where the pilots begin: what the range test suggests, or else a tenth of what is stable at first."""
        try:
            return sweep.suggest().learning_rate
        except ValueError:
            return 0.01 if stable is None else stable.learning_rate / 10

    def _pilots(self, first: float, examples: int) -> list[tuple[float, float]]:
        """Short trainings at the reference batch size: up from the range test while the loss falls, or down.

        A range test is one sweep without warmup, and on networks with batch normalisation its suggestions lie
        far below the best peak of a training.
        """
        losses: dict[int, float] = {}

        def loss(power: int) -> float:
            if power not in losses:
                peak = float(f"{first * _FACTOR**power:.3g}")
                model = self.model()
                plan = self.plan(model, self.reference, peak, examples)
                model = self._compiled(model, plan)
                updates = plan.clock.step_at(examples=min(examples, plan.clock.total_examples))
                run = train(model, plan, updates, self.data, 0, lambda check: self.advance())
                keras.backend.clear_session()
                last = run.checks[-1].loss
                losses[power] = last if math.isfinite(last) else math.inf
            return losses[power]

        power, step = 0, 1
        if loss(1) >= loss(0):
            step = -1
        while len(losses) < _PILOTS and self.spent < self.budget / 2 and loss(power + step) < loss(power):
            power += step
        return [(float(f"{first * _FACTOR**power:.3g}"), found) for power, found in sorted(losses.items())]

    # Trainings

    def _trainings(self, study: Study) -> Study:
        """All that is missing: seeds outside, so that whatever ends the study leaves all batch sizes even."""
        assert study.throughput is not None
        order = sorted(study.throughput.batch_sizes, key=lambda size: size != self.reference)
        for seed in range(self.seeds):
            for size in order:
                for factor in (1.0, 0.5, 2.0) if self.own_peaks else (1.0,):
                    peak = study.peak(size) * factor
                    if not any((r.batch_size, r.seed, r.peak) == (size, seed, peak) for r in study.runs):
                        study = self._training(study, size, seed, peak)
        return study

    def _training(self, study: Study, size: int, seed: int, peak: float) -> Study:
        assert study.throughput is not None
        predicted = study.settings.run_examples / size * study.throughput.step_time.seconds(size)
        first = size == self.reference and seed == 0 and not study.noise
        # Without the first one there is nothing to tell.
        usual = 0.0 if first else max(self.costs.get(size, []), default=predicted)
        self._need(usual, f"Batch size {size}, seed {seed}")
        begun = time.monotonic()
        model = self.model(seed)
        plan = self.plan(model, size, peak, study.settings.run_examples)
        model = self._compiled(model, plan)
        updates = plan.clock.step_at(examples=min(study.settings.run_examples, plan.clock.total_examples))
        noise: list[Noise] = []
        looked = self._noise_along(model, updates, size, noise) if first else (lambda check: self.advance())
        run = dataclasses.replace(train(model, plan, updates, self.data, seed, looked), peak=peak)
        keras.backend.clear_session()
        changes: dict[str, Any] = {"runs": (*study.runs, run)}
        if first:
            changes["noise"] = tuple(noise)
        if study.settings.target is None:
            target = self._target(run, study.settings.sign)
            changes["settings"] = dataclasses.replace(study.settings, target=target)
        if not first:
            self.costs.setdefault(size, []).append(time.monotonic() - begun)
        return self._keep(**changes)

    def plan(self, model: keras.Model, size: int, peak: float, examples: int) -> Plan:
        """The plan of a training: warmup by optimizer, then constant, then a short decay."""
        updates = max(1, examples // size)
        warm, falls = warmup_updates(beta_2(model.optimizer), updates) * size, round(_DECAY * examples)
        profile = (
            warmup(examples=warm)
            >> hold(examples=max(0, examples - warm - falls))
            >> linear(examples=falls, to=0)
        )
        with warnings.catch_warnings():
            # It ends within a pass, and the plan is whole passes.
            warnings.simplefilter("ignore", PlanWarning)
            return Plan(
                learning_rate=peak * profile, batch_size=size, examples=self.data.examples,
                epochs=-(-examples // (self.data.examples // size * size)), drop_remainder=True,
            )  # fmt: skip

    @staticmethod
    def _target(run: Run, sign: float) -> float:
        """Nine tenths of the way from the untrained model to the best that the training came to: where it is steep."""
        values = [check.value for check in run.checks]
        best = max(values, key=lambda value: sign * value)
        return values[0] + _TARGET * (best - values[0])

    def _noise_along(
        self, model: keras.Model, updates: int, size: int, found: list[Noise]
    ) -> Callable[[Check], None]:
        """A function that measures the noise scale at some of the checks."""
        places = [share * updates for share in _NOISE]

        def look(check: Check) -> None:
            self.advance()
            finite = math.isfinite(check.loss)
            if finite and places and check.updates >= places[0] and self.spent < 2 * _FIRST * self.budget:
                while places and check.updates >= places[0]:
                    places.pop(0)
                scale = noise_scale(
                    model, self.data.x, self.data.y, precision=0.25, max_examples=_NOISE_EXAMPLES
                )
                found.append(Noise(round(check.updates) * size, check.value, scale))

        return look

    def _gain(self, study: Study) -> None:
        self._need(0.0, "What warmup buys")
        size = study.settings.reference
        steps = max(20, min(200, study.settings.run_examples // size))
        gain = measure_gain(
            self.build, self.data.x, self.data.y, validation_data=self.data.few_validated, steps=steps,
            batch_size=size, repeats=min(3, self.seeds),
        )  # fmt: skip
        self._keep(gain=gain)
        if gain.interrupted:
            raise KeyboardInterrupt

    # Keeping

    def _keep(self, **changes: Any) -> Study:
        assert self.study is not None
        self.study = dataclasses.replace(self.study, **changes, seconds=self.spent)
        if self.path is not None:
            self.study.save(self.path)
        return self.study

    def _not_found(self) -> list[str]:
        assert self.study is not None and self.study.sweep is not None
        found = []
        if self.study.memory is None:
            found.append("Memory: neither the device nor this system tells what is held.")
        if self.study.stable is None:
            found.append(
                "The largest stable learning rate: a first update made the loss smaller at all, or at none."
            )
        try:
            self.study.sweep.suggest()
        except ValueError as error:
            found.append(f"A suggestion of the range test: {str(error).splitlines()[0]}")
        return found

    def _not_trained(self) -> list[str]:
        assert self.study is not None and self.study.throughput is not None
        found = []
        for size in self.batch_sizes:
            if size in self.study.throughput.out_of_memory:
                found.append(f"Batch size {size}: it does not fit into the memory.")
                continue
            have = len({run.seed for run in self.study.runs if run.batch_size == size})
            if have < self.seeds:
                found.append(f"Batch size {size}: {have} of {self.seeds} seeds were trained.")
        return found

    @staticmethod
    def _compiled(model: keras.Model, plan: Plan) -> keras.Model:
        model.optimizer = optimizer_like(model.optimizer, plan.learning_rate)
        return model


def _reference(batch_sizes: Sequence[int]) -> int:
    return min(batch_sizes, key=lambda size: abs(size - _REFERENCE))


def _facts(model: keras.Model, data: Data) -> dict[str, Any]:
    import sys

    inner: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "backend": keras.backend.backend(),
        "versions": {"kwarmup": sys.modules["kwarmup"].__version__, "keras": keras.__version__},
        "model": model.name,
        "weights": model.count_params(),
        "optimizer": type(inner).__name__,
        "examples": data.examples,
        "validation_examples": data.validation_examples,
        "held_out": data.held_out,
        "beta_2": beta_2(model.optimizer),
    }
