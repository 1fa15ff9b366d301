"""What a study has measured, as numbers; everything that follows from them is worked out when it is asked for."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from kwarmup.errors import Code, value_error
from kwarmup.footprint import MemoryUse
from kwarmup.measure.noise_scale import NoiseScale
from kwarmup.peaks import WarmupGain
from kwarmup.speed import Throughput
from kwarmup.studies.run import Check, Run
from kwarmup.studies.settings import Settings
from kwarmup.sweep import Suggestion, Sweep
from kwarmup.tradeoff import Tradeoff, fit_tradeoff

if TYPE_CHECKING:
    from kwarmup.plan import Plan
    from kwarmup.studies.advice import Advice


_WORDS = {word: float(word) for word in ("inf", "-inf", "nan")}


class Noise(NamedTuple):
    """The noise scale at a place of the reference training.

    Args:
        examples: how many were seen.
        value: of the metric there, on the validation data.
        scale: what was measured.
    """

    examples: int
    value: float
    scale: NoiseScale


class Spread(NamedTuple):
    """A median over seeds, with the lowest and the highest; `reached` of `seeds` have a value at all."""

    median: float
    low: float
    high: float
    reached: int
    seeds: int


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Study:
    """What the batch size does to a training: `kw.study` measures it.

    Args:
        settings: what was asked for, and what was decided from it.
        facts: machine, versions, model and data, in words and numbers.
        throughput: seconds of an update at each batch size.
        memory: bytes held at the peak of an update at each batch size; `None` where nobody tells.
        sweep: the range test at the reference batch size.
        pilots: peaks that were tried at the reference batch size, and the validation loss that each came to.
        stable: up to where a first update at the reference batch size makes the loss smaller.
        noise: the noise scale along the first reference training.
        runs: the short trainings.
        gain: what warmup buys, if that was asked for.
        seconds: how long all of it took.
        missing: what was not measured and why, a sentence each.

    Example:

    >>> from kwarmup import Study
    >>> from kwarmup.studies.settings import Settings
    >>> settings = Settings((16, 64), seeds=3, examples=1_000, run_examples=5_000, reference=16, peak=0.1,
    ...                     scaling=1.0, monitor="loss", sign=-1.0)
    >>> study = Study(settings)
    >>> study
    <Study of batch sizes none yet: 0 trainings in 0 s>
    >>> study.peak(64), Study.from_dict(study.to_dict()) == study
    (0.4, True)
    """

    settings: Settings
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    throughput: Throughput | None = None
    memory: MemoryUse | None = None
    sweep: Sweep | None = None
    pilots: tuple[tuple[float, float], ...] = ()
    stable: Suggestion | None = None
    noise: tuple[Noise, ...] = ()
    runs: tuple[Run, ...] = ()
    gain: WarmupGain | None = None
    seconds: float = 0.0
    missing: tuple[str, ...] = ()

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those with a training, from small to large."""
        return tuple(sorted({run.batch_size for run in self.runs}))

    def peak(self, batch_size: int) -> float:
        """Return the peak that the study trains a batch size with: by the rule, from the reference."""
        return self.settings.peak * (batch_size / self.settings.reference) ** self.settings.scaling

    def at(self, batch_size: int) -> tuple[Run, ...]:
        """Return the trainings at a batch size: at the best of the peaks tried, over the seeds."""
        runs = [run for run in self.runs if run.batch_size == batch_size]
        peaks = sorted({run.peak for run in runs})
        if len(peaks) < 2:
            return tuple(runs)

        def order(peak: float) -> tuple[int, float]:
            at_peak = [run for run in runs if run.peak == peak]
            reached = [one for one in map(self.to_target, at_peak) if one is not None]
            # More seeds that come to the target first, then fewer updates until they do.
            middle = float(np.median([one.updates for one in reached])) if reached else math.inf
            return (-len(reached), middle)

        # Of a peak that was only tried with one seed, there is nothing to say about the spread.
        most = max(sum(run.peak == peak for run in runs) for peak in peaks)
        best = min([peak for peak in peaks if sum(r.peak == peak for r in runs) == most], key=order)
        return tuple(run for run in runs if run.peak == best)

    def to_target(self, run: Run) -> Check | None:
        """Return where a training came to the study's target, or `None`."""
        target = self.settings.target
        return None if target is None else run.to_target(target, self.settings.sign)

    def gap(self, run: Run) -> float:
        """Return the generalisation gap: how much better the metric is on training examples, 0 or more if it is."""
        return self.settings.sign * (run.training - run.validation)

    def spread(self, batch_size: int, value: Callable[[Run], float | None]) -> Spread | None:
        """Return the median, lowest and highest of something over the seeds of a batch size.

        Args:
            batch_size: one that was trained with.
            value: of a run; `None` where it has none.
        """
        runs = self.at(batch_size)
        found = [one for one in map(value, runs) if one is not None and math.isfinite(one)]
        if not found:
            return None
        return Spread(float(np.median(found)), min(found), max(found), len(found), len(runs))

    def updates_to_target(self, batch_size: int) -> Spread | None:
        """Return how many updates it takes to the target; `None` where no seed came there."""
        return self.spread(batch_size, lambda run: _of(self.to_target(run), "updates"))

    def seconds_to_target(self, batch_size: int) -> Spread | None:
        """Return how many seconds of training it takes to the target, by the stopwatch."""
        return self.spread(batch_size, lambda run: _of(self.to_target(run), "seconds"))

    @property
    def tradeoff(self) -> Tradeoff | None:
        """The fit of (S / S_min - 1)(E / E_min - 1) = 1 to the updates and examples to the target.

        `None` where fewer than three batch sizes have come to the target with more than half of their seeds.
        """
        rows = {
            size: [_of(self.to_target(run), "updates") or math.inf for run in self.at(size)]
            for size in self.batch_sizes
        }
        if sum(math.isfinite(np.median(row)) for row in rows.values()) < 3:
            return None
        return fit_tradeoff(list(rows), list(rows.values()))

    @property
    def noise_at_target(self) -> NoiseScale | None:
        """The noise scale at the first place of the reference training where the target was reached."""
        target, sign = self.settings.target, self.settings.sign
        if target is None or not self.noise:
            return None
        return next((n.scale for n in self.noise if sign * n.value >= sign * target), self.noise[-1].scale)

    def advise(self, goal: str = "time", *, epochs: int | None = None) -> Advice:
        """Return the plan that the measurements speak for, with the reason of each of its parts.

        Args:
            goal: `"time"` to the same quality, `"examples"`, `"memory"` or `"quality"`.
            epochs: of the training to plan; `None` for as many as the study's own trainings have, rounded up, and for
                `"time"` for twice as long as they needed to the target, if that is more.

        Raises:
            ValueError: if the goal is another, or what it needs was not measured.
        """
        from kwarmup.studies.advice import advise

        return advise(self, goal, epochs)

    def recommend(self, goal: str = "time", *, epochs: int | None = None) -> Plan:
        """Return the plan of `advise`.

        Args:
            goal: as there.
            epochs: as there.
        """
        return self.advise(goal, epochs=epochs).plan

    def report(self, path: str | os.PathLike[str] = "report.html") -> Path:
        """Write the study as one HTML file that needs no network: findings, pictures, the plan and its reasons.

        Args:
            path: the file.

        Returns:
            The path.

        Raises:
            ValueError: if it cannot be written there.
        """
        # jinja2 and matplotlib are not needed to measure.
        from kwarmup.studies.report import write

        return write(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinity; `from_dict` reads it back."""
        data = {
            "settings": dataclasses.asdict(self.settings),
            "facts": self.facts,
            "throughput": _dict(self.throughput),
            "memory": _dict(self.memory),
            "sweep": _dict(self.sweep),
            "pilots": [list(pilot) for pilot in self.pilots],
            "stable": None if self.stable is None else dataclasses.asdict(self.stable),
            "noise": [[n.examples, n.value, n.scale.to_dict()] for n in self.noise],
            "runs": [run.to_dict() for run in self.runs],
            "gain": _dict(self.gain),
            "seconds": self.seconds,
            "missing": list(self.missing),
        }
        return _mapped(data, _in_words)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Study:
        """Return the study that `to_dict` wrote.

        Raises:
            ValueError: if it is not such data.
        """
        if not isinstance(data, dict) or not {"settings", "runs", "throughput"} <= set(data):
            raise value_error(
                "data", Code(repr(data)[:200]), "the data of a study", "Study.from_dict(study.to_dict())"
            )
        facts = data["facts"]  # names, which may be any word
        data = _mapped(data, lambda value: _WORDS.get(value, value) if isinstance(value, str) else value)
        return cls(
            settings=Settings(**data["settings"]),
            facts=facts,
            throughput=data["throughput"] and Throughput.from_dict(data["throughput"]),
            memory=data["memory"] and MemoryUse.from_dict(data["memory"]),
            sweep=data["sweep"] and Sweep.from_dict(data["sweep"]),
            pilots=tuple((peak, loss) for peak, loss in data["pilots"]),
            stable=data["stable"] and Suggestion(**data["stable"]),
            noise=tuple(
                Noise(examples, value, NoiseScale(**{**scale, "interval": tuple(scale["interval"])}))
                for examples, value, scale in data["noise"]
            ),
            runs=tuple(Run(**run) for run in data["runs"]),
            gain=data["gain"] and WarmupGain.from_dict(data["gain"]),
            seconds=data["seconds"],
            missing=tuple(data["missing"]),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the study as JSON, whole or not at all.

        Args:
            path: the file.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(self.to_dict(), indent=1))
        beside.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Study:
        """Return the study that `save` wrote.

        Args:
            path: the file.

        Raises:
            ValueError: if it holds something else.
        """
        try:
            data = json.loads(Path(path).read_text())
        except ValueError as error:
            raise value_error(
                "path", str(path), "the JSON file of a study", 'study(..., path="study.json")'
            ) from error
        return cls.from_dict(data)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.batch_sizes)) or "none yet"
        return f"<Study of batch sizes {sizes}: {len(self.runs)} trainings in {self.seconds:.0f} s>"


def _in_words(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _mapped(data: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested dicts and lists with each value changed."""
    if isinstance(data, dict):
        return {name: _mapped(value, change) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_mapped(value, change) for value in data]
    return change(data)


def _dict(thing: Any) -> Any:
    return None if thing is None else thing.to_dict()


def _of(check: Check | None, name: str) -> float | None:
    return None if check is None else float(getattr(check, name))
