"""What `kwarmup show` shows: a profile counted in steps, a plan, or a finished run."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kwarmup.cli import terminal
from kwarmup.cli.errors import UserError, user_error
from kwarmup.cli.exported import Exported
from kwarmup.cli.expression import parse
from kwarmup.cli.tensorflow import import_quietly
from kwarmup.places import places
from kwarmup.plan import Plan, PlanWarning
from kwarmup.profile import Profile

_CLOCK = {"examples": "--examples", "epochs": "--epochs", "batch_size": "--batch-size"}
_ASSETS, _SIGNATURES = "assets", "signatures.json"
_OPTIONS = {**_CLOCK, "multiple_of": "--multiple-of", "scaling": "--scaling"}


@dataclass(frozen=True)
class Subject:
    """A plan, and what of it is to be shown.

    Args:
        plan: the plan; where there is no clock, one of a single epoch with one example per update.
        clocked: whether its epochs and batch sizes mean something.
        endless: whether the profile goes on for ever.
        history: lists by name, one value an epoch, of a finished run.
        metrics: numbers by name, of a finished run.
    """

    plan: Plan
    clocked: bool = True
    endless: bool = False
    history: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def json(self) -> str:
        """The plan as JSON, or the profile where there is no clock."""
        return self.plan.to_json() if self.clocked else json.dumps(self.plan.profile.to_dict(), indent=2)

    def plot(self, path: Path) -> None:
        """Draw it into a file."""
        from kwarmup import plot

        if self.history:
            plot.plot_training(self.history, self.plan, path, self.metrics.get("updates"))
        else:
            plot.plot_plan(self.plan, path)

    def parts(self, width: int) -> Iterator[Any]:
        """Return what is printed, from above to below, in a terminal of so many columns."""
        plan, clock = self.plan, self.plan.clock
        yield repr(plan.profile)
        if not isinstance(clock.batch_size, int):
            yield f"batch size {clock.batch_size!r}{terminal.scaled(plan)}"
        yield terminal.plan_chart(plan, width)
        yield terminal.plan_table(plan, width) if self.clocked else terminal.steps_table(plan, self.endless)
        if self.clocked:
            epochs = "1 epoch" if clock.epochs == 1 else f"{clock.epochs:,} epochs"
            yield f"{clock.steps:,} updates, {epochs} of {clock.examples:,} examples"
            yield from (f"Warning: {warning}" for warning in plan.warnings)
        else:
            yield "It goes on for ever." if self.endless else f"{clock.steps:,} updates"
        if self.history:
            yield terminal.results_table(
                {name: values[-1] for name, values in self.history.items() if values}
            )
        if "updates" in self.metrics:
            stopped = ", then stopped by Ctrl-C" if self.metrics.get("interrupted") else ""
            yield (
                f"Trained for {self.metrics['updates']:,} of {clock.steps:,} updates "
                f"in {self.metrics.get('seconds', 0):.1f} s{stopped}"
            )


def read(target: str, clock: dict[str, Any], steps: int | None) -> Subject | Exported:
    """Return what a target names: an expression, a JSON file, or the folder of a run.

    Args:
        target: as the user typed it.
        clock: what the options say of the clock, and of `scaling`, by the names that `Plan` takes.
        steps: updates in the whole run, of a profile without a clock.

    Raises:
        UserError: if there is no such thing, or the profile does not fit the clock.
    """
    if steps is not None and clock:
        raise UserError(
            f"--steps is for profiles without a clock; leave it out, or {_and(_OPTIONS[n] for n in clock)}."
        )
    path = Path(target)
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError:  # An expression may be longer than a file name can be.
        folder = file = False
    if folder:
        return _run(path, clock, steps)
    if file:
        found = _from_json(path)
    else:
        # Without a parenthesis it may as well be meant for a file.
        nowhere = f"There is no file or folder {target}, and it is no expression either:\n"
        with user_error("" if "(" in target else nowhere):
            found = parse(target)
    if isinstance(found, Plan):
        return Subject(_changed(found, clock, steps))
    return _profile(found, clock, steps)


def _profile(profile: Profile, clock: dict[str, Any], steps: int | None) -> Subject:
    missing = [option for name, option in _CLOCK.items() if name not in clock]
    if not missing:
        with _silently():
            return Subject(Plan(learning_rate=profile, **clock))
    units = {phase.length.unit for phase in profile.phases}
    if clock or units & {"epochs", "examples"}:
        why = "" if clock else "Lengths in epochs or examples need a clock: "
        raise UserError(f"{why or 'The clock is not complete: '}give {_and(missing)} too.")
    endless = False
    if steps is None:
        last = profile.phases[-1]
        unknown = "fraction" in units or "rest" in {phase.length.unit for phase in profile.phases[:-1]}
        if unknown or (last.length.unit == "rest" and last.to is not None and not last.shape.per_step):
            raise UserError(
                "A fraction or the rest of a run needs to know how long the run is: give --steps, or "
                f"{_and(missing)}."
            )
        with user_error():
            bounds = places(profile, None)
        *_, before, end = bounds
        endless = end is None
        # Of a profile without an end, enough is shown to see how it goes on.
        steps = (
            max(1_000, 4 * math.ceil(before.tick))
            if before and end is None
            else math.ceil(end.tick)
            if end
            else 1
        )
    with _silently():
        plan = Plan(learning_rate=profile, examples=max(1, steps), epochs=1, batch_size=1)
    return Subject(plan, clocked=False, endless=endless)


def _run(folder: Path, clock: dict[str, Any], steps: int | None) -> Subject | Exported:
    """Return the run in a folder; the newest of the versions in it, or the version that it is."""
    if not (folder / "plan.json").is_file():
        found = _version(folder)
        if found is None:
            raise UserError(
                f"There is no plan.json in {folder}, nor in a version 1, 2, … of it: it is not a run."
            )
        return _exported(found, clock, steps)
    return _trained(folder, clock, steps)


def _version(folder: Path) -> Path | None:
    numbered = [entry for entry in folder.iterdir() if entry.name.isdecimal() and _is_version(entry)]
    return max(numbered, key=lambda entry: int(entry.name), default=folder if _is_version(folder) else None)


def _is_version(folder: Path) -> bool:
    return (folder / "saved_model.pb").is_file() or (folder / _ASSETS / "plan.json").is_file()


def _exported(folder: Path, clock: dict[str, Any], steps: int | None) -> Exported:
    assets = folder / _ASSETS
    if not (folder / _SIGNATURES).is_file() and not (assets / "plan.json").is_file():
        raise UserError(
            f"{folder} is a SavedModel from elsewhere: there is no {_SIGNATURES} in it, as `kwarmup export` writes."
        )
    run = _trained(assets, clock, steps) if (assets / "plan.json").is_file() else None
    names: Any = _optional(assets / "class_names.json", [])
    return Exported(
        folder=folder,
        run=run,
        metrics=_optional(assets / "metrics.json"),
        signatures=_optional(folder / _SIGNATURES),
        provenance=_optional(assets / "provenance.json"),
        packages=_optional(assets / "versions.json"),
        class_names=names,
    )


def _trained(folder: Path, clock: dict[str, Any], steps: int | None) -> Subject:
    plan = _from_json(folder / "plan.json")
    if not isinstance(plan, Plan):
        raise UserError(f"{folder / 'plan.json'} is a profile, not a plan.")
    if clock or steps:
        return Subject(_changed(plan, clock, steps))
    history, metrics = _optional(folder / "history.json"), _optional(folder / "metrics.json")
    return Subject(plan, history=history if history.get("loss") else {}, metrics=metrics)


def _optional(path: Path, otherwise: Any = None) -> Any:
    """Return the data in a file that need not be there."""
    empty: Any = {} if otherwise is None else otherwise
    return _json(path, type(empty)) if path.is_file() else empty


def _from_json(path: Path) -> Plan | Profile:
    data = _data(path)
    if '"keras_schedule"' in json.dumps(data):
        # This shape alone needs Keras, which is noisy when it starts.
        import_quietly()
    with warnings.catch_warnings(), user_error(f"{path}: "):
        warnings.simplefilter("ignore", PlanWarning)
        return Plan.from_dict(data) if "learning_rate" in data else Profile.from_dict(data)


def _data(path: Path) -> dict[str, Any]:
    return _json(path, dict)


def _json(path: Path, kind: type) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, kind):
        raise UserError(f"{path} holds no plan and no profile.")
    return data


def _changed(plan: Plan, clock: dict[str, Any], steps: int | None) -> Plan:
    if steps is not None:
        raise UserError("--steps is for profiles without a clock, and this plan has one: use --epochs.")
    with _silently():
        return plan.replace(**clock)


@contextmanager
def _silently() -> Iterator[None]:
    """The warnings of a plan are printed with it; what it refuses is the user's error."""
    with warnings.catch_warnings(), user_error():
        warnings.simplefilter("ignore", PlanWarning)
        yield


def _and(words: Any) -> str:
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last
