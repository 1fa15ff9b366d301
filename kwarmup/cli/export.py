"""`kwarmup export`: make a checked SavedModel of a `.keras` file, or of the checkpoints of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(context_settings={"show_default": True})
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option(
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the version goes: the next of FOLDER/1, FOLDER/2, …",
)
@click.option(
    "--model",
    "network",
    metavar="MODEL",
    help="For checkpoints, which hold weights alone: the network they are of, a .keras file or module:function, "
    "which returns a Keras model.  [default: the small convolutional network of `kwarmup train`]",
)
@click.option(
    "--plan",
    "planned",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A plan.json, for a .keras file; checkpoints have theirs.",
)
@click.option(
    "--data",
    metavar="DATA",
    help="Where examples for the check come from, as for `kwarmup train`; needed for the default network, for "
    "models that do not tell the shape of their inputs, and for --trainable.",
)
@click.option(
    "--class-name", "class_names", multiple=True, metavar="NAME", help="Of each output in turn; repeat it."
)
@click.option(
    "--trainable",
    is_flag=True,
    help="Add an endpoint train_step, so that training goes on where neither Keras nor kwarmup is installed.",
)
@click.option(
    "--format",
    "other_format",
    type=click.Choice(["onnx", "litert"]),
    help="Another format to write too, beside the SavedModel; needs the extra of that name.",
)
def command(
    source: Path,
    output: Path,
    network: str | None,
    planned: Path | None,
    data: str | None,
    class_names: tuple[str, ...],
    trainable: bool,
    other_format: str | None,
) -> None:
    """Make a SavedModel of SOURCE, a .keras file or a folder of checkpoints, and check it in a fresh process.

    A version appears only once that process has loaded it, given the same outputs as the model and the same
    learning rates as the plan. `kwarmup show FOLDER` prints what is in it.

    \b
    Examples:
      kwarmup export model.keras --output saved_models/mine
      kwarmup export saved_models/digits/checkpoints --data digits --output saved_models/digits
      kwarmup export model.keras --data data.npz --trainable --output saved_models/mine
    """
    # Whatever can be wrong is looked at before TensorFlow is waited for.
    from kwarmup.cli import data as data_sets
    from kwarmup.cli import planned as plans
    from kwarmup.cli.errors import UserError
    from kwarmup.cli.tensorflow import import_quietly
    from kwarmup.cli.terminal import console as make_console

    if not source.exists():
        raise UserError(f"There is no file or folder {source}.")
    if source.is_file() and network is not None:
        raise UserError("--model is for checkpoints; a .keras file is a model already.")
    if source.is_dir() and planned is not None:
        raise UserError("--plan is for a .keras file; checkpoints have theirs.")
    if trainable and data is None:
        raise UserError(
            "--trainable needs --data too: the shape and the type of its targets become train_step's."
        )
    examples = None if data is None else data_sets.load(data)
    plan = None if planned is None else plans.file(planned)
    console = make_console()
    with console.status("Starting TensorFlow …"):
        import_quietly()
    from kwarmup.cli import exporting

    with console.status("Writing the SavedModel, and checking it in a fresh process …"):
        if source.is_dir():
            model, plan, examples = exporting.from_checkpoints(source, network, examples)
        else:
            model, examples = exporting.from_file(source, examples)
        more: dict[str, Any] = {
            "class_names": list(class_names) or None,
            "trainable": trainable,
            "format": other_format,
        }
        version = exporting.keep(model, plan, examples, output, more)
    console.print("The SavedModel was loaded in a fresh process and gives the same outputs.")
    console.print(f"Kept in {version}", markup=False, soft_wrap=True)
