"""`kwarmup tune`: search batch size and learning rate together, in one process or in several."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kwarmup.cli import options

if TYPE_CHECKING:
    from kwarmup.searches.result import SearchResult

TRIALS, BEST, TABLE, PICTURE = "trials", "best.json", "trials.json", "search.png"
LOGS = "logs"
#: The exit code behind Ctrl-C.
STOPPED = 130


class Range(click.ParamType[Any]):
    """Two numbers with a comma between them."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            low, high = (float(word) for word in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no range of numbers. Write: --peak 0.001,1", param, context)
        if not 0 < low < high:
            self.fail(f"{value!r}: two numbers above 0, the smaller one first.", param, context)
        return low, high


@click.command(context_settings={"show_default": True})
@options.data
@options.model
@options.batch_sizes(default="16,32,64,128")
@click.option(
    "--peak",
    type=Range(),
    metavar="LOW,HIGH",
    help="Learning rates at the first of the batch sizes.  [default: a third of what a range test "
    "suggests to where that diverges]",
)
@click.option("--trials", type=click.IntRange(min=1), default=15, metavar="NUMBER", help="How many at most.")
@click.option(
    "--epochs", type=click.IntRange(min=1), default=4, metavar="NUMBER", help="Passes over the data in each."
)
@click.option(
    "--budget",
    type=click.Choice(["examples", "updates", "time"]),
    default="examples",
    help="What all trials have as much of; --epochs are those at the first of the batch sizes. The time of an "
    "update is measured once, before the search.",
)
@click.option(
    "--tuner",
    type=click.Choice(["bayesian", "random", "hyperband", "grid"]),
    default="bayesian",
    help="Of keras-tuner.",
)
@click.option(
    "--objective",
    metavar="NAME",
    help="A metric, with val_ in front.  [default: val_accuracy where there is one, or val_loss]",
)
@options.optimizer
@options.seed
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, metavar="NUMBER", help="Processes that train."
)
@options.kept("search", "the trials, best.json, trials.json and search.png", folder="tune")
def command(**arguments: Any) -> None:
    """Search batch size and learning rate together, by keras-tuner.

    The peak is searched at the first batch size, and the scaling rule of the optimizer carries it to the others.
    What a function for --model chooses by `hp` of keras-tuner, if it takes that, is searched with them.
    A trial that runs out of memory rules out larger batch sizes, and one that diverges counts as a bad one.

    What follows is a table, the response surface as a picture, and best.json, the plan of the best trial, for
    `kwarmup train --plan tune/best.json`.

    Each trial is kept while it runs. Ctrl-C ends the search and reports what was found (exit code 130); --resume goes
    on. With --workers, one that was killed is started again, and goes on with its trial. On several machines
    with one file system, set KERASTUNER_TUNER_ID (chief, worker0, …), KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT,
    and give the same command on each; the chief reports.

    \b
    Examples:
      kwarmup tune
      kwarmup tune --workers 2 --tuner hyperband --epochs 9 --trials 30
      kwarmup tune --data data.npz --model my_code:build --optimizer adamw --peak 1e-4,1e-1
      kwarmup tune --resume --trials 30
    """
    options.exit_with(lambda: _tune(**arguments))


def _tune(*, workers: int, output: Path, resume: bool, trials: int, **more: Any) -> int:
    from kwarmup.cli.errors import user_error
    from kwarmup.cli.tensorflow import import_quietly
    from kwarmup.cli.terminal import console as make_console

    part = os.environ.get("KERASTUNER_TUNER_ID")
    if part is None:
        options.check_new("search", output, TRIALS, resume)
    console = make_console()
    import_quietly()
    from kwarmup.cli.tuning import Tuning

    tuning = Tuning(output, **more)
    with user_error():
        if workers > 1 and part is None:
            from kwarmup.cli.workers import run
            from kwarmup.searches.screen import Screen

            with Screen(tuning.result(output / TRIALS), trials, True) as screen:
                code = run(workers, output / TRIALS, output / LOGS, screen)
        else:
            code = tuning.run(output / TRIALS, trials)
    # Of processes on several machines the chief reports; those of `--workers` are begun by one that does.
    if part is not None and (part != "chief" or workers > 1):
        return code
    return _report(tuning.result(output / TRIALS), output, code, console)


def _report(result: SearchResult, output: Path, code: int, console: Any) -> int:
    """Write and print what was found; return the exit code."""
    from kwarmup.cli.errors import UserError

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if result.trials:
        result.save(output / TABLE)
        say(result.table())
    if result.best is not None:
        result.plot(output / PICTURE)
        plan = result.best_plan()
        (output / BEST).write_text(plan.to_json(), encoding="utf-8")
        say(f"The best, trial {result.best.trial}: {plan!r}")
        say(f"Kept in {output / TABLE}, and drawn into {output / PICTURE}")
        say(f"kwarmup train --plan {output / BEST} trains by the best plan.")
        if chosen := _of_the_network(result.best.values):
            say(f"Its network has {chosen}: give kwarmup train a --model that makes it so, and takes no hp.")
    if code == STOPPED:
        more = "trial at hand is" if result.trials else "trial at hand, the first, is"
        say(f"Stopped by Ctrl-C; the {more} kept. To go on, give the same command with --resume.")
        return code
    if not result.trials:
        raise UserError("No trial has ended.")
    if result.best is None:
        first = result.trials[0]
        raise UserError(f"No trial finished. The first, {first.trial}, {first.status}: {first.message}")
    return code


def _of_the_network(values: Mapping[str, Any]) -> str:
    """Return in words what the function of `--model` has chosen."""
    from kwarmup.searches.space import BATCH_SIZE, PEAK

    return ", ".join(
        f"{name} {value}"
        for name, value in values.items()
        if name not in (PEAK, BATCH_SIZE) and not name.startswith("tuner/")
    )
