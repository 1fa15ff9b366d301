"""`kwarmup show`: print and draw a profile, a plan or a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kwarmup.cli.batch_size import BatchSize, Scaling


@click.command()
@click.argument("target")
@click.option(
    "--examples", type=click.IntRange(min=1), metavar="NUMBER", help="Training examples in one epoch."
)
@click.option("--epochs", type=click.IntRange(min=1), metavar="NUMBER", help="Passes over the data.")
@click.option(
    "--batch-size",
    type=BatchSize(),
    metavar="EXPRESSION",
    help="Examples per update: a number, or a profile in which it moves.",
)
@click.option(
    "--multiple-of",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Rounds the sizes of a profile in which the batch size moves.",
)
@click.option(
    "--scaling",
    type=Scaling(),
    help="Moves the learning rate with the batch size: not, by the square-root rule, or by the linear rule.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Updates in the whole run, where no length is in epochs or examples.",
)
@click.option(
    "--plot",
    "picture",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also draw it into a .png, .svg or .pdf file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, which `kwarmup show` reads again.")
def command(
    target: str,
    steps: int | None,
    picture: Path | None,
    as_json: bool,
    **clock: Any,
) -> None:
    """Show a profile or a plan: its curve, its phases and its updates.

    TARGET is an expression, a plan.json, or the folder of a run that `kwarmup train` wrote.
    An expression is read, never run as code. Lengths in epochs, examples and fractions need a clock:
    --examples, --epochs and --batch-size; with a plan, these change it. The batch size may be a
    profile too; then --scaling says how the learning rate goes with it.

    \b
    Examples:
      kwarmup show "0.1 * (warmup(steps=500) >> cosine(steps=9_500))"
      kwarmup show "0.1 * (warmup(epochs=5) >> cosine())" \\
          --examples 50000 --epochs 90 --batch-size "64 * (hold(epochs=9) >> hold(4))"
      kwarmup show "0.1 * one_cycle(total_steps=10_000)" --plot one_cycle.svg
      kwarmup show saved_models/digits
    """
    from kwarmup.cli.errors import user_error
    from kwarmup.cli.subject import read
    from kwarmup.cli.terminal import console as make_console

    subject = read(target, {name: value for name, value in clock.items() if value is not None}, steps)
    if picture is not None:
        with user_error("--plot: "):
            subject.plot(picture)
    console = make_console()
    if as_json:
        click.echo(subject.json)
        return
    for part in subject.parts(console.width):
        console.print(part, **_plain(part))
    if picture is not None:
        console.print(f"Drawn into {picture}", markup=False, soft_wrap=True)


def _plain(part: Any) -> dict[str, Any]:
    """Text is printed as it is: a bracket is no markup, and a chart is not wrapped."""
    return {"markup": False, "soft_wrap": True} if isinstance(part, str) else {}
