"""What several commands ask for in the same words, and how they are stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kwarmup.cli.data import Data


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


def batch_sizes(*, default: str | None = None, help: str = "") -> Callable[..., Any]:
    """`--batch-sizes`, by a default, or with words about where there is none."""
    return click.option(
        "--batch-sizes", type=Sizes(), metavar="NUMBERS", default=default, help=f"With commas between them.{help}"
    )  # fmt: skip


def kept(what: str, files: str, folder: str | None = None) -> Callable[..., Any]:
    """`--output` and `--resume`, of what keeps each piece at once in a folder of its own."""
    output = click.option(
        "--output",
        metavar="FOLDER",
        type=click.Path(path_type=Path),
        default=Path(folder or what),
        help=f"Where {files} go.",
    )
    resume = click.option("--resume", is_flag=True, help=f"Go on with the {what} in that folder.")
    return lambda command: output(resume(command))


def check_new(what: str, folder: Path, file: str, resume: bool) -> None:
    """Refuse to begin where something is kept already; say so where there is nothing to go on with.

    Raises:
        UserError: if there is such a file, and nobody said `--resume`.
    """
    from kwarmup.cli.errors import UserError

    if (folder / file).exists() and not resume:
        raise UserError(
            f"{folder} holds a {what}. Go on with it: --resume. Or begin another: --output FOLDER."
        )
    if resume and not (folder / file).exists():
        click.echo(f"There is nothing to go on with in {folder}: a {what} begins.")


def check_sizes(sizes: Sequence[int], data: Data) -> None:
    """Refuse batch sizes that are larger than the data.

    Raises:
        UserError: if one is.
    """
    from kwarmup.cli.errors import UserError

    for size in sizes:
        if size > len(data.x):
            raise UserError(
                f"--batch-sizes: {size:,} is more than the {len(data.x):,} training examples of {data.name}."
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
