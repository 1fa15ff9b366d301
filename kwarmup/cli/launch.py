"""`kwarmup launch`: start a program as several workers on this machine, and again where one of them is lost."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable

import click

from kwarmup.cli.errors import UserError


@click.command(
    context_settings={"show_default": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option(
    "--workers", type=click.IntRange(min=1), required=True, metavar="NUMBER", help="Processes to start."
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    metavar="NUMBER",
    help="How often all workers are started again where one of them fails.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=15.0,
    metavar="SECONDS",
    help="How long workers have to end by themselves before they are killed.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(workers: int, max_restarts: int, grace: float, command: tuple[str, ...]) -> None:
    """Start COMMAND as several workers of one training on this machine.

    Each worker finds in TF_CONFIG who the others are; kw.distribute.strategy() reads it. What a worker writes is
    shown with its number in front. The workers train together, so where one fails, none can go on: all of
    them are ended, and with --max-restarts started again. A training with a checkpoint_dir then goes on from its
    last checkpoint, to the same weights as without the break.

    Ctrl-C, SIGTERM and SIGHUP, of a terminal that closes, are passed on as SIGTERM: a training with a checkpoint_dir
    saves itself and ends. A second Ctrl-C ends all workers at once.

    \b
    Exit code: 0 if all workers end well, that of the first that failed, 130 after Ctrl-C, 143 after SIGTERM,
    129 after SIGHUP.

    \b
    Examples:
      kwarmup launch --workers 2 -- python train.py
      kwarmup launch --workers 4 --max-restarts 3 -- python train.py --epochs 30
    """
    from kwarmup.cli import group as processes

    program = shutil.which(command[0])
    if program is None:
        raise UserError(_no_program(command[0]))
    try:
        code = processes.run(
            [program, *command[1:]],
            workers,
            restarts=max_restarts,
            grace=grace,
            say=lambda text: click.echo(text, err=True),
            write=_write,
        )
    except OSError as error:
        if error.filename != program:
            raise
        if error.errno == errno.ENOEXEC:
            raise UserError(
                f"{program} does not say what runs it; its first line would be #!/bin/bash, or the like. "
                f"Write: kwarmup launch --workers {workers} -- bash {command[0]}"
            ) from error
        raise UserError(f"{program} cannot be started: {error.strerror}.") from error
    click.get_current_context().exit(code)


def this_command(workers: int, restarts: int, advice: str, settled: Callable[[int], int | None]) -> int:
    """Run the command at hand as so many workers; return its exit code. What the first one writes stands as it is.

    Args:
        workers: how many.
        restarts: how often all of them may be started again.
        advice: what is said where one of them has failed.
        settled: as for `group.run`.
    """
    from kwarmup.cli import group as processes

    return processes.run(
        processes.this_program(sys.argv[1:]),
        workers,
        restarts=restarts,
        grace=60.0,
        say=lambda text: click.echo(text, err=True),
        write=lambda line: _write(line.removeprefix("[0] ")),
        advice=advice,
        settled=settled,
    )


def _no_program(name: str) -> str:
    """Return why a command cannot be started that is no program on the PATH."""
    write = "Write: kwarmup launch --workers 2 -- "
    if os.path.isdir(name):
        return f"{name} is a folder, and no program. {write}python train.py"
    if os.access(name, os.X_OK):
        return f"{name} is not on the PATH. {write}./{name}"
    if os.path.exists(name):
        return f"{name} may not be executed. {write}python {name}, or before it: chmod +x {name}"
    return f"There is no program {name!r}. {write}python train.py"


def _write(line: str) -> None:
    # A stream that cannot write a character must not end the worker that did.
    encoding = sys.stdout.encoding or "utf-8"
    text = f"{line}\n".encode(encoding, "replace").decode(encoding)
    # One write for a line, or those of two workers meet in it.
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO):
            # Nobody reads it any more: neither the next line nor the end of Python is to fail at what is left of it.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise
