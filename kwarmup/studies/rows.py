"""A study as rows of words: for each batch size, for each training, for the facts around them."""

from __future__ import annotations

from typing import Any

from kwarmup.studies.result import Spread, Study
from kwarmup.studies.words import NOTHING, number, spread

Rows = list[tuple[str, ...]]


def batch_sizes(study: Study, ranges: bool = True) -> Rows:
    """Return the heads, and a row for each batch size: medians over the seeds, with the lowest and the highest.

    Args:
        study: with a training or more.
        ranges: whether the lowest and the highest stand beside the medians; without them a row is half as wide.
    """

    def cell(one: Spread | None, digits: int = 3) -> str:
        if ranges or one is None:
            return spread(one, digits=digits)
        return number(one.median, digits)

    found: Rows = [
        (
            "batch size",
            "examples/s",
            "updates to target",
            "seconds to target",
            study.settings.monitor,
            "gap",
            "seeds",
        )
    ]
    for size in study.batch_sizes:
        runs = study.at(size)
        diverged = sum(run.diverged for run in runs)
        speed = None
        if study.throughput is not None and size in study.throughput.batch_sizes:
            speed = study.throughput.examples_per_second(size).median
        found.append(
            (
                f"{size:,}",
                number(speed),
                cell(study.updates_to_target(size)),
                cell(study.seconds_to_target(size)),
                cell(study.spread(size, lambda run: None if run.diverged else run.validation)),
                cell(study.spread(size, lambda run: None if run.diverged else study.gap(run)), 2),
                f"{len(runs)}, {diverged} diverged" if diverged else f"{len(runs)}",
            )
        )
    return found


def trainings(study: Study) -> Rows:
    """Return the heads, and a row for each training."""
    name = study.settings.monitor
    found: Rows = [
        (
            "batch size", "seed", "peak", "updates", "examples", "seconds", "updates to target", "seconds to target",
            f"training {name}", f"validation {name}", "",
        )
    ]  # fmt: skip
    for run in sorted(study.runs, key=lambda run: (run.batch_size, run.peak, run.seed)):
        check = study.to_target(run)
        found.append(
            (
                f"{run.batch_size:,}", f"{run.seed}", number(run.peak), f"{run.updates:,}", f"{run.examples:,}",
                number(run.seconds), number(None if check is None else check.updates),
                number(None if check is None else check.seconds), number(run.training), number(run.validation),
                "diverged" if run.diverged else "",
            )
        )  # fmt: skip
    return found


def facts(study: Study) -> Rows:
    """Return pairs: machine, versions, model and data, then what the trainings had in common."""
    given = {name: value for name, value in study.facts.items() if value is not None}
    held_out = given.pop("held_out", False)
    given.pop("examples", None)  # It is in the settings.
    found = [(name.replace("_", " "), _fact(value)) for name, value in given.items()]
    if held_out:
        found.append(("held out", "the validation examples were drawn from the data given, before training"))
    settings = study.settings
    passes = settings.run_examples / settings.examples
    found += [
        ("seeds", f"{settings.seeds} at each batch size"),
        ("batch sizes asked for", ", ".join(f"{size:,}" for size in settings.batch_sizes)),
        ("training examples", f"{settings.examples:,}"),
        ("each training saw", f"{settings.run_examples:,} examples, {number(passes)} passes"),
        ("metric", f"{settings.monitor}, {'more' if settings.sign > 0 else 'less'} is better"),
        ("target", number(settings.target)),
        (
            "peak",
            f"{number(settings.peak)} at batch size {settings.reference:,}, scaling {settings.scaling:g}",
        ),
        ("the study took", f"{number(study.seconds)} s"),
    ]
    return [pair for pair in found if pair[1] != NOTHING]


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
