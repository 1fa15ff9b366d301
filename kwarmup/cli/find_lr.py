"""`kwarmup find-lr`: measure which learning rates a network can be trained with, and draw it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kwarmup.cli import options

if TYPE_CHECKING:
    from kwarmup.sweep import Sweep

_ROWS = 6


@click.command(context_settings={"show_default": True})
@options.data
@options.model
@options.batch_size
@options.optimizer
@click.option("--low", type=float, default=1e-7, metavar="NUMBER", help="Learning rate of the first update.")
@click.option("--high", type=float, default=10.0, metavar="NUMBER", help="Learning rate of the last update.")
@click.option(
    "--steps", type=click.IntRange(min=20), default=100, metavar="NUMBER", help="Updates in a repeat."
)
@click.option("--repeats", type=click.IntRange(min=1), default=5, metavar="NUMBER", help="Times it is done.")
@options.seed
@click.option(
    "--plot",
    "picture",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also draw it into a .png, .svg or .pdf file.",
)
@options.as_json
def command(picture: Path | None, as_json: bool, **arguments: Any) -> None:
    """Measure how the loss goes while the learning rate rises, and suggest one.

    A network is trained for some updates at rising learning rates, several times from the same
    weights, until training diverges. The suggestions read the curve in different ways; their
    intervals come from the repeats. They are first guesses for --peak of `kwarmup train`: with a
    warmup and batch normalisation the best one can be ten times larger.

    Ctrl-C ends the measurement and shows what there is (exit code 130).

    \b
    Examples:
      kwarmup find-lr
      kwarmup find-lr --optimizer adamw --plot sweep.png
      kwarmup find-lr --data data.npz --model my_code:build --batch-size 256 --json
    """
    from kwarmup.cli.errors import user_error
    from kwarmup.plot import check_path

    if picture is not None:
        with user_error("--plot: "):
            check_path(picture)
    options.exit_with(lambda: _find(picture, as_json, **arguments))


def _find(
    picture: Path | None,
    as_json: bool,
    *,
    source: str,
    network: str | None,
    batch_size: int | None,
    optimizer_name: str | None,
    low: float,
    high: float,
    steps: int,
    repeats: int,
    seed: int,
) -> int:
    from kwarmup.cli import data as data_sets
    from kwarmup.cli.errors import UserError, user_error
    from kwarmup.cli.tensorflow import import_quietly
    from kwarmup.cli.terminal import console as make_console
    from kwarmup.cli.terminal import table

    if not 0 < low < high:
        raise UserError(f"--low {low:g} and --high {high:g}: learning rates above 0, the second the larger.")
    data = data_sets.load(source)
    size = options.examples_per_update(batch_size, data)
    console = make_console()
    import_quietly()
    import keras

    from kwarmup.cli import models, training
    from kwarmup.measure.find_lr import find_lr
    from kwarmup.sweep import METHODS

    keras.utils.set_random_seed(seed)
    model = models.load(network, data)
    data = models.shaped(data, model)
    base = models.optimizer(optimizer_name, model)
    model = models.compiled(model, base, high, data)
    training.try_out(model, data)
    with user_error():
        sweep = find_lr(
            model, data.x, data.y,
            low=low, high=high, steps=steps, batch_size=size, repeats=repeats, seed=seed,
        )  # fmt: skip
    code = 130 if sweep.interrupted else 0
    if picture is not None:
        with user_error("--plot: "):
            sweep.plot(picture)
    if as_json:
        click.echo(sweep.to_json())
        return code
    console.print(chart(sweep, console.width), markup=False, soft_wrap=True)
    try:
        found = [sweep.suggest(method) for method in METHODS]
    except ValueError as error:
        raise UserError(f"There is nothing to suggest. {_options(error)}") from error
    rows = [(one.method, f"{one.learning_rate:.2g}", f"{one.low:.2g} – {one.high:.2g}") for one in found]
    console.print(table(("suggestion", "learning rate", f"{100 * found[0].confidence:.0f} % interval"), rows))
    whole = len(sweep.descents())
    console.print(
        f"{type(base).__name__}, batch size {size}, {whole} {'repeat' if whole == 1 else 'repeats'}"
        f"{', then stopped by Ctrl-C' if sweep.interrupted else ''}."
    )
    if picture is not None:
        console.print(f"Drawn into {picture}", markup=False, soft_wrap=True)
    return code


def _options(error: ValueError) -> str:
    """Return what `suggest` says, with the option in place of the line to write."""
    expected, _, write = str(error).splitlines()
    expected = f"Expected are {expected.partition('expected ')[2]}"
    if "find_lr(" not in write:
        return expected
    arguments = write.partition("x, y, ")[2].rstrip(")").split(", ")
    options = " ".join(f"--{word.replace('=', ' ').replace('_', '-')}" for word in arguments if word)
    return f"{expected} Try: kwarmup find-lr {options}"


def chart(sweep: Sweep, width: int) -> str:
    """Return a chart of the median loss over the learning rate, on a logarithmic axis, for a terminal."""
    import numpy as np

    from kwarmup.cli.terminal import chart as blocks

    starts = float(np.median([row[0] for row in sweep.losses]))
    longest = max(map(len, sweep.losses))
    rows = np.full((len(sweep.losses), longest), np.nan)
    for row, losses in zip(rows, sweep.losses, strict=True):
        row[: len(losses)] = losses
    rows = np.where(np.isnan(rows), np.inf, rows)  # what has diverged stays above all
    # An explosion would leave nothing to see of the rest.
    middle = np.minimum(np.median(rows, axis=0), 1.5 * abs(starts) + 1e-30)
    margin = max(len(f"{middle.max():.3g}"), len(f"{min(0.0, middle.min()):.3g}"))
    columns = max(8, min(64, longest, width - margin - 3))
    groups = np.array_split(middle, columns)
    lines = blocks([float(np.median(group)) for group in groups], _ROWS)
    marks = [f"{middle.max():.3g}", *[""] * (_ROWS - 2), f"{min(0.0, middle.min()):.3g}"]
    lines = [f"{mark.rjust(margin)} │{line.rstrip()}" for mark, line in zip(marks, lines, strict=True)]
    begin, end = f"{sweep.learning_rates[0]:.0e}", f"{sweep.learning_rates[longest - 1]:.2g} learning rate"
    return "\n".join([*lines, f"{' ' * margin}  {begin} {end.rjust(columns - len(begin) - 1)}"])
