"""`kwarmup train`: train a network by a plan, and keep it as a checked SavedModel."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kwarmup.cli import options as shared
from kwarmup.cli.batch_size import BatchSize, Scaling

if TYPE_CHECKING:
    from kwarmup.profile import Profile

DEFAULT_PROFILE = "warmup(fraction=0.1) >> cosine()"


@dataclass(frozen=True)
class Options:
    """What the user gave, by the names of the options but for those that Python has a better word for."""

    source: str
    network: str | None
    planned: Path | None
    expression: str
    peak: float | None
    batch_size: int | Profile | None
    multiple_of: int
    scaling: float
    max_device_batch: int | None
    epochs: int
    optimizer_name: str | None
    seed: int
    output: Path | None
    resume: bool
    workers: int
    max_restarts: int


@click.command(context_settings={"show_default": True})
@click.option(
    "--data",
    "source",
    metavar="DATA",
    default="digits",
    help="digits (scikit-learn's, 1,797 images); an .npz file with x_train, y_train and x_val, y_val or "
    "x_test, y_test; a folder of IDX files as MNIST and Fashion-MNIST come, gzipped or not; or "
    "module:function, which returns (x_train, y_train), (x_val, y_val). Without a validation part, one in "
    "five examples is held out.",
)
@click.option(
    "--model",
    "network",
    metavar="MODEL",
    help="A .keras file, or module:function, which returns a Keras model; one that is compiled keeps its "
    "loss and metrics, else it is trained to classify.  [default: a small convolutional network]",
)
@click.option(
    "--plan",
    "planned",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A plan.json, best.json of `kwarmup tune`, or the study.json of `kwarmup study`, in place of the options from "
    "--profile to --scaling.",
)
@click.option(
    "--profile",
    "expression",
    metavar="EXPRESSION",
    default=DEFAULT_PROFILE,
    help="The learning rate over the run; `kwarmup show` draws it.",
)
@click.option(
    "--peak",
    type=click.FloatRange(min=0),
    metavar="NUMBER",
    help="Multiplies the profile, which may have its peak in front instead: 0.05 * (...).  "
    "[default: 0.1 for sgd, else what Keras gives the optimizer]",
)
@click.option(
    "--batch-size",
    type=BatchSize(),
    metavar="EXPRESSION",
    help="Examples per update: a number, or a profile in which it moves, such as "
    '"64 * (hold(epochs=2) >> hold(4))".  [default: 64, or all where there are fewer]',
)
@click.option(
    "--multiple-of",
    type=click.IntRange(min=1),
    default=1,
    metavar="NUMBER",
    help="Rounds the sizes of a ramp such as 64 * linear(to=8): a GPU compiles the training step anew for each.",
)
@click.option(
    "--scaling",
    type=Scaling(),
    default="0",
    help="Moves the learning rate with the batch size: not, by the square-root rule, or by the linear rule.",
)
@click.option(
    "--max-device-batch",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="The most examples to compute at once; larger batches are put together from several such parts.  "
    "[default: no limit]",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=20, metavar="NUMBER", help="Passes over the data."
)
@shared.optimizer
@shared.seed
@click.option(
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where the versions go: FOLDER/1, FOLDER/2, …  [default: saved_models/ and the name of the data]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the training that was begun by the same command and did not come to its end.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    metavar="NUMBER",
    help="Processes on this machine that share each batch, which is to divide by them; see `kwarmup launch`. "
    "Dropout sees each of them by itself, and so does BatchNorm without synchronized=True.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    metavar="NUMBER",
    help="How often the --workers are started again where one of them is lost; they go on from the last checkpoint.",
)
def command(**options: Any) -> None:
    """Train a network by a warmup and decay, and keep it as a SavedModel.

    Without options, it trains a small convolutional network on scikit-learn's digits; nothing is downloaded.

    \b
    The next free number in the output folder becomes the version, for example
    saved_models/digits/1:
      saved_model.pb, variables/  the SavedModel, for TensorFlow Serving and tf.saved_model.load
      model.keras                 the model with its optimizer, for keras.models.load_model
      assets/                     plan.json; history.json and metrics.json, of each epoch and at the end;
                                  versions.json, of the packages
      signatures.json             the endpoints, as the process saw them that checked it
      training.png                loss, learning rate, and batch size where it moves
    A version appears only once a fresh process has loaded it and given the same outputs.

    Ctrl-C stops after the current batch and keeps what was trained (exit code 130); a second one
    stops at once. While it trains, the state of the training is saved in the output folder, under
    checkpoints/, after each epoch and every 1,000 updates. After a crash, SIGTERM or Ctrl-C, the same
    command with --resume goes on from there, to the same weights as without the break. The
    checkpoints are removed when the training has come to its end.

    With --workers each update is the one that a single process would do, up to rounding; but dropout, which the
    network without --model has, draws in each worker for its part, and BatchNorm without synchronized=True sees the
    examples of each worker by themselves. Ctrl-C saves the training and ends it; --resume goes on, with as many
    workers or another number. With --max-restarts nobody has to: where a worker is lost, all are started again and
    come to the same weights as without the break. On several machines, start the same command on each with its
    TF_CONFIG and without --workers.

    \b
    Examples:
      kwarmup train
      kwarmup train --peak 0.05 --profile "warmup(epochs=2) >> linear()"
      kwarmup train --batch-size "32 * (hold(epochs=5) >> hold(4))" --scaling 1
      kwarmup train --data /usr/share/datasets/fashion-mnist --epochs 5
      kwarmup train --plan study/study.json
      kwarmup train --data data.npz --model my_code:build --optimizer adamw
      kwarmup train --data /usr/share/datasets/fashion-mnist --batch-size 256 --workers 2
      kwarmup train --workers 2 --max-restarts 3
    """
    try:
        code = _train(Options(**options), _given(options))
    except KeyboardInterrupt:
        shared.be_quiet()
        click.echo("Stopped before the training began.", err=True)
        code = 130
    click.get_current_context().exit(code)


def _given(options: dict[str, Any]) -> set[str]:
    """The options that the user has written, and that have not their defaults by themselves."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    return {name for name in options if context.get_parameter_source(name) != default}


def _train(options: Options, given: set[str]) -> int:
    # Whatever can be wrong is looked at before TensorFlow is waited for.
    from kwarmup.cli import along_workers, launch, planned, unfinished
    from kwarmup.cli import data as data_sets
    from kwarmup.cli.errors import UserError, user_error
    from kwarmup.cli.expression import parse
    from kwarmup.cli.tensorflow import import_quietly
    from kwarmup.cli.terminal import console as make_console
    from kwarmup.cli.terminal import plan_table

    if options.planned is not None and (both := given & planned.DECIDED.keys()):
        words = ", ".join(planned.DECIDED[name] for name in sorted(both))
        raise UserError(f"--plan decides what {words} would say. Leave out one of them.")
    with user_error("--profile: "):
        profile = parse(options.expression)
    peak = options.peak
    if peak is not None and profile.scale != 1:
        raise UserError(
            f"There are two peaks: --peak {peak:g}, and {profile.scale:g} in front of the profile. "
            "Leave out one of them."
        )
    workers = along_workers.count(options.workers)
    if workers > 1 and options.max_device_batch is not None:
        raise UserError(
            "--max-device-batch: not with several workers, which have a part of each batch anyway."
        )
    if workers == 1 and options.max_restarts:
        raise UserError("--max-restarts: of several workers only. Write: --workers 2 beside it, or --resume.")
    data = data_sets.load(options.source)
    output = options.output or Path("saved_models") / data.name
    _check_output(output)
    if along_workers.started_again() and not options.resume:
        checkpoints = output / unfinished.NAME
    else:
        checkpoints = unfinished.folder(output, options.resume)
    if workers > 1 and not along_workers.is_one():
        advice = "where there are checkpoints, --resume goes on from the last one, and --max-restarts would by itself"
        settled = along_workers.settled(output, checkpoints)
        return launch.this_command(workers, options.max_restarts, advice, settled)
    console = make_console()
    with console.status("Starting TensorFlow …"):
        import_quietly()
        import keras

        if keras.backend.backend() != "tensorflow":
            raise UserError(
                f"Only TensorFlow writes a SavedModel, and Keras runs on {keras.backend.backend()} here. "
                "Write: KERAS_BACKEND=tensorflow kwarmup train"
            )

        from kwarmup.cli import models, training

        size = options.batch_size or min(shared.BATCH_SIZE, len(data.x))
        moves: dict[str, Any] = {"scaling": options.scaling, "multiple_of": options.multiple_of}
        if options.planned is None:
            training.make_plan(profile, data, size, options.epochs, **moves)
        else:
            plan = planned.read(options.planned, len(data.x), options.epochs if "epochs" in given else None)
        among = along_workers.Among(workers)
        if not among.chief:
            console.quiet = True
        keras.utils.set_random_seed(options.seed)
        with among.scope():
            model = models.load(options.network, data)
            data = models.shaped(data, model)
            base = models.optimizer(options.optimizer_name, model)
            if options.planned is None:
                if profile.scale == 1:
                    profile = (models.default_peak(base) if peak is None else peak) * profile
                moves |= models.accumulation(base)
                plan = training.make_plan(profile, data, size, options.epochs, **moves)
            model = models.compiled(model, base, plan.learning_rate, data)
        training.try_out(model, data)
        among.placed(plan)  # here, before the plan is shown, it is refused if it does not divide
    _announce(console, data, model, plan)
    console.print(plan_table(plan, console.width))
    for warning in plan.warnings:
        console.print(f"[yellow]Warning:[/] {warning}")
    if options.resume and not unfinished.begun(checkpoints):
        console.print(f"There is nothing to go on with in {output}: a training begins.", markup=False)
    return _carry_out(options, model, plan, data, output, checkpoints, console, among)


def _carry_out(
    options: Options,
    model: Any,
    plan: Any,
    data: Any,
    output: Path,
    checkpoints: Path,
    console: Any,
    among: Any,
) -> int:
    """Train, keep what was trained and say so; return the exit code."""
    from kwarmup.cli import models, training, unfinished
    from kwarmup.cli.errors import first_line
    from kwarmup.cli.terminal import results_table
    from kwarmup.distribute import WorkerLost
    from kwarmup.resume import Preempted

    device = {} if options.max_device_batch is None else {"max_device_batch": options.max_device_batch}

    def another() -> Any:
        made = models.load(options.network, data)
        base = models.optimizer(options.optimizer_name, made)
        return models.compiled(made, base, plan.learning_rate, data)

    goes_on = "The same command with --resume goes on with it."
    try:
        placed = among.placed(plan)
        outcome = training.fit(model, placed, data, console, checkpoints, options.seed, **device)
        if not among.chief:
            among.wait(model)
            return 0
        alone = among.on_one_device(model, another, (data.x[:1], data.y[:1]))
        version = training.keep(alone, plan, data, outcome, output, console)
        unfinished.close(checkpoints, version, outcome.interrupted)
    except KeyboardInterrupt:
        shared.be_quiet()
        left = unfinished.leave(checkpoints)
        click.echo(f"Stopped at once. {goes_on}" if left else "Stopped; nothing was kept.", err=True)
        return 130
    except Preempted as ended:
        if among.chief:
            click.echo(f"Stopped by SIGTERM; the training is saved. {goes_on}", err=True)
        return int(ended.code or 0)
    except WorkerLost as error:
        click.echo(f"{first_line(error)} {goes_on}", err=True)
        return 1
    console.print(results_table(outcome.last))
    console.print(
        f"{outcome.updates:,} of {plan.clock.steps:,} updates in {outcome.seconds:.1f} s"
        f"{', then stopped by Ctrl-C' if outcome.interrupted else ''}."
    )
    console.print("The SavedModel was loaded in a fresh process and gives the same outputs.")
    console.print(f"Kept in {version}", markup=False, soft_wrap=True)
    if outcome.interrupted:
        console.print(goes_on)
    with contextlib.suppress(WorkerLost):  # all is kept: who is lost now is not missed
        among.wait(model)
    return 130 if outcome.interrupted else 0


def _check_output(output: Path) -> None:
    """Raise before the training, not after it, where nothing can be written."""
    from kwarmup.cli.errors import UserError

    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise UserError(f"--output {output}: {there} is a file, and a folder is needed.")
    if not os.access(there, os.W_OK):
        raise UserError(f"--output {output}: {there} may not be written to.")


def _announce(console: Any, data: Any, model: Any, plan: Any) -> None:
    from rich.markup import escape

    from kwarmup.cli.terminal import scaled

    shape = " × ".join(map(str, data.x.shape[1:])) or "single numbers"
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    examples = f"{len(data.x):,} training and {len(data.x_validation):,} validation examples of {shape}."
    console.print(f"[bold]Data[/] {escape(data.name)}: {examples} {' '.join(data.notes)}")
    weights = f"{model.count_params():,} weights" if model.built else "not built yet"
    console.print(f"[bold]Model[/] {escape(model.name)}: {weights}, trained by {type(optimizer).__name__}.")
    console.print(f"[bold]Learning rate[/] {escape(repr(plan.profile))}")
    if not isinstance(plan.clock.batch_size, int):
        console.print(f"[bold]Batch size[/] {escape(repr(plan.clock.batch_size))}{scaled(plan)}")
