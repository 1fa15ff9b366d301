"""`kwarmup study`: measure what the batch size does to a training, and recommend a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kwarmup.cli import options

if TYPE_CHECKING:
    from kwarmup.studies.result import Study

STUDY, REPORT = "study.json", "report.html"


@click.command(context_settings={"show_default": True})
@options.data
@options.model
@options.batch_sizes(help="  [default: powers of two from 16, up to a tenth of the data or 512]")
@click.option("--seeds", type=click.IntRange(min=1), default=3, metavar="NUMBER", help="Trainings at each.")
@click.option(
    "--budget",
    type=click.FloatRange(min=1),
    default=150,
    metavar="SECONDS",
    help="What it may take in all; what has begun is finished.",
)
@options.optimizer
@click.option(
    "--goal",
    type=click.Choice(["time", "examples", "memory", "quality"]),
    default="time",
    help="What the recommended plan is good for.",
)
@click.option(
    "--own-peaks", is_flag=True, help="Also train each batch size with half and twice the peak of the rule."
)
@click.option("--warmup-gain", is_flag=True, help="Also measure what warmup buys on this model.")
@options.kept("study", "study.json and report.html")
def command(**arguments: Any) -> None:
    """Measure what the batch size does to a training: speed, noise, updates to a target, quality.

    A network is trained for a short while at each batch size, several times, within a budget of time.
    What follows is a table, report.html with plots and findings, and a recommended plan with the reason
    of each of its parts, for `kwarmup train --plan study/study.json`.

    Each finished piece is kept at once. Ctrl-C ends the study and reports what was measured (exit code
    130); --resume goes on.

    \b
    Examples:
      kwarmup study
      kwarmup study --optimizer adamw --batch-sizes 16,64,256 --budget 300
      kwarmup study --data data.npz --model my_code:build --goal quality
      kwarmup study --resume --budget 600
    """
    options.exit_with(lambda: _study(**arguments))


def _study(
    *,
    source: str,
    network: str | None,
    batch_sizes: list[int] | None,
    seeds: int,
    budget: float,
    optimizer_name: str | None,
    goal: str,
    own_peaks: bool,
    warmup_gain: bool,
    output: Path,
    resume: bool,
) -> int:
    from kwarmup.cli import data as data_sets
    from kwarmup.cli.errors import user_error
    from kwarmup.cli.tensorflow import import_quietly
    from kwarmup.cli.terminal import console as make_console

    path = output / STUDY
    options.check_new("study", output, STUDY, resume)
    data = data_sets.load(source)
    options.check_sizes(batch_sizes or (), data)
    console = make_console()
    import_quietly()
    from kwarmup.cli.afresh import afresh
    from kwarmup.studies.measure import study as measure
    from kwarmup.studies.text import lines

    build, _, data = afresh(network, optimizer_name, data)
    with user_error():
        study = measure(
            build, data.x, data.y,
            validation_data=(data.x_validation, data.y_validation), batch_sizes=batch_sizes, seeds=seeds,
            budget=budget, own_peaks=own_peaks, warmup_gain=warmup_gain, path=path,
        )  # fmt: skip
    console.print(lines(study, goal, console.width), markup=False, soft_wrap=True)
    with user_error():
        report = study.report(output / REPORT)
    console.print(f"Kept in {path}, and for a browser in {report}", markup=False, soft_wrap=True)
    console.print(_then(study, goal, output, budget), markup=False, soft_wrap=True)
    return 130 if any(text.startswith("Ctrl-C") for text in study.missing) else 0


def _then(study: Study, goal: str, output: Path, budget: float) -> str:
    """What to do next: train by the plan, or go on where there is none yet."""
    try:
        study.recommend(goal)
    except ValueError:
        return f"kwarmup study --resume --output {output} --budget {2 * budget:g} goes on with it."
    return f"kwarmup train --plan {output / STUDY} trains by the plan."
