"""`kwarmup study`: measure what the batch size does to a training, and recommend a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kwarmup.cli import options

if TYPE_CHECKING:
    from kwarmup.studies.result import Study

STUDY, REPORT = "study.json", "report.html"


class Sizes(click.ParamType[Any]):
    """Batch sizes with commas between them."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            sizes = [int(word) for word in value.split(",")]
        except ValueError:
            self.fail(
                f"{value!r} is no list of whole numbers. Write: --batch-sizes 16,64,256", param, context
            )
        if min(sizes) < 1:
            self.fail(f"{min(sizes)} is no batch size. Write: --batch-sizes 16,64,256", param, context)
        return sizes


@click.command(context_settings={"show_default": True})
@options.data
@options.model
@click.option(
    "--batch-sizes",
    type=Sizes(),
    metavar="NUMBERS",
    help="With commas between them.  [default: powers of two from 16, up to a tenth of the data or 512]",
)
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
@click.option(
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default=Path("study"),
    help="Where study.json and report.html go.",
)
@click.option("--resume", is_flag=True, help="Go on with the study in that folder.")
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
    from kwarmup.cli.errors import UserError, user_error
    from kwarmup.cli.tensorflow import import_quietly
    from kwarmup.cli.terminal import console as make_console

    path = output / STUDY
    if path.exists() and not resume:
        raise UserError(f"{path} holds a study. Go on with it: --resume. Or begin another: --output FOLDER.")
    data = data_sets.load(source)
    for size in batch_sizes or ():
        if size > len(data.x):
            raise UserError(
                f"--batch-sizes: {size:,} is more than the {len(data.x):,} training examples of {data.name}."
            )
    console = make_console()
    import_quietly()
    import keras

    from kwarmup.cli import models, training
    from kwarmup.studies.measure import study as measure
    from kwarmup.studies.text import lines

    def fresh() -> keras.Model:
        model = models.load(network, data)
        base = models.optimizer(optimizer_name, model)
        return models.compiled(model, base, 0.01, data)

    first = fresh()
    data = models.shaped(data, first)
    training.try_out(first, data)
    with user_error():
        study = measure(
            fresh, data.x, data.y,
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
