"""What several commands ask for in the same words, and how they are stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kwarmup.cli.data import Data

#: Examples per update where nobody says otherwise.
BATCH_SIZE = 64

data = click.option(
    "--data",
    "source",
    metavar="DATA",
    default="digits",
    help="digits, an .npz file, a folder of IDX files, or module:function, as for `kwarmup train`.",
)
model = click.option(
    "--model",
    "network",
    metavar="MODEL",
    help="A .keras file, or module:function, which returns a Keras model.  [default: a small convolutional "
    "network]",
)
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help=f"Examples per update.  [default: {BATCH_SIZE}, or all where there are fewer]",
)
optimizer = click.option(
    "--optimizer",
    "optimizer_name",
    metavar="NAME",
    help="A Keras optimizer: sgd (with momentum 0.9), adam, adamw, lion, …  [default: the model's, or sgd]",
)
seed = click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**32 - 1),
    default=0,
    metavar="NUMBER",
    help="Of the first weights and the order of examples.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print all that was measured as JSON, and nothing else."
)


def examples_per_update(given: int | None, data: Data) -> int:
    """Return the batch size that `--batch-size` says, or the default.

    Raises:
        UserError: if there are fewer examples.
    """
    from kwarmup.cli.errors import UserError

    if given is not None and given > len(data.x):
        raise UserError(
            f"--batch-size {given:,} is more than the {len(data.x):,} training examples of {data.name}."
        )
    return given or min(BATCH_SIZE, len(data.x))


def exit_with(work: Callable[[], int]) -> None:
    """End a command that measures with the exit code that its work returns; with 130 where Ctrl-C left nothing."""
    try:
        code = work()
    except KeyboardInterrupt:
        be_quiet()
        click.echo("Stopped; nothing was measured.", err=True)
        code = 130
    click.get_current_context().exit(code)


def be_quiet() -> None:
    """Say nothing more: TensorFlow was stopped anywhere, and what it has to say while Python ends helps nobody."""
    sys.unraisablehook = lambda _: None
