"""`kwarmup noise`: measure the gradient noise scale of a network, at the beginning and along a training."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from kwarmup.cli import options

if TYPE_CHECKING:
    from kwarmup.cli.along import Point
    from kwarmup.measure.noise_scale import NoiseScale


@click.command(context_settings={"show_default": True})
@options.data
@options.model
@options.batch_size
@options.optimizer
@click.option(
    "--peak",
    type=float,
    metavar="NUMBER",
    help="The largest learning rate.  [default: 0.1 for sgd, else what Keras gives the optimizer]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=1,
    metavar="NUMBER",
    help="Passes over the data; the noise scale is measured along them.",
)
@click.option(
    "--precision",
    type=float,
    default=0.2,
    metavar="NUMBER",
    help="Half the width of the 95 % interval, over the noise scale, at which a measurement ends.",
)
@click.option(
    "--max-examples",
    type=click.IntRange(min=1),
    default=20_000,
    metavar="NUMBER",
    help="A measurement ends here in any case.",
)
@options.seed
@options.as_json
def command(as_json: bool, **arguments: Any) -> None:
    """Measure how noisy the gradients are, and with it which batch sizes still pay.

    The noise scale is the batch size at which noise and gradient are as large as each other. Below it,
    twice the batch means about half the updates; far above it, more examples buy nothing. It grows
    while a network learns, so it is measured at the beginning and behind 1/8, 1/4, 1/2 and all of a
    short training by the profile of `kwarmup train`.

    Ctrl-C ends the measurement and shows what there is (exit code 130).

    \b
    Examples:
      kwarmup noise
      kwarmup noise --epochs 5 --optimizer adamw
      kwarmup noise --data data.npz --model my_code:build --batch-size 256 --json
    """
    options.exit_with(lambda: _measure(as_json, **arguments))


def _measure(
    as_json: bool,
    *,
    source: str,
    network: str | None,
    batch_size: int | None,
    optimizer_name: str | None,
    peak: float | None,
    epochs: int,
    precision: float,
    max_examples: int,
    seed: int,
) -> int:
    from kwarmup.cli import data as data_sets
    from kwarmup.cli.errors import UserError, user_error
    from kwarmup.cli.expression import parse
    from kwarmup.cli.tensorflow import import_quietly
    from kwarmup.cli.terminal import console as make_console
    from kwarmup.cli.terminal import table
    from kwarmup.cli.train import DEFAULT_PROFILE

    if not precision > 0:
        raise UserError(f"--precision {precision:g}: a number above 0.")
    if peak is not None and not 0 < peak < math.inf:
        raise UserError(f"--peak {peak:g}: a learning rate above 0.")
    data = data_sets.load(source)
    size = options.examples_per_update(batch_size, data)
    console = make_console()
    import_quietly()
    import keras

    from kwarmup.cli import models, training
    from kwarmup.cli.along import along

    keras.utils.set_random_seed(seed)
    model = models.load(network, data)
    data = models.shaped(data, model)
    base = models.optimizer(optimizer_name, model)
    profile = (models.default_peak(base) if peak is None else peak) * parse(DEFAULT_PROFILE)
    plan = training.make_plan(profile, data, size, epochs, **models.accumulation(base))
    model = models.compiled(model, base, plan.learning_rate, data)
    training.try_out(model, data)
    points: list[Point] = []
    interrupted, diverged = False, None
    try:
        with user_error():
            diverged = along(model, plan, data, seed, points, precision=precision, max_examples=max_examples)
    except KeyboardInterrupt:
        if not points:
            raise
        interrupted = True
    code = 130 if interrupted else 0
    if as_json:
        found = {
            "data": data.name,
            "model": model.name,
            "optimizer": type(base).__name__,
            "plan": plan.to_dict(),
            "seed": seed,
            "interrupted": interrupted,
            "measured": [
                {"updates": point.updates, "examples_seen": point.examples, **_plain(point.noise.to_dict())}
                for point in points
            ],
        }
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        rows = [
            (f"{point.examples:,}", f"{point.updates:,}", _number(point.noise.value), _interval(point.noise))
            for point in points
        ]
        console.print(table(("examples seen", "updates", "noise scale", "95 % interval"), rows))
        stopped = ", then stopped by Ctrl-C" if interrupted else ""
        console.print(
            f"{type(base).__name__}, batch size {size}, learning rate up to {plan.profile.peak:g}{stopped}."
        )
        console.print(_finding(points))
    if diverged is not None:
        raise UserError(
            f"The training ended early: the loss is {diverged.loss} at update {diverged.update:,}; a "
            f"lower --peak may help."
        )
    return code


def _finding(points: list[Point]) -> str:
    """Return what the measurements say, in a sentence or two."""
    noise = points[-1].noise
    low, high = noise.interval
    if math.isinf(noise.value):
        return (
            f"No gradient shows in the noise yet: the noise scale is {_number(low)} examples or more. "
            "A larger --max-examples tells more."
        )
    said = f"Up to batches of about {_number(noise.value)} examples, twice the batch means clearly fewer updates."
    first = points[0].noise
    if first.interval[1] < low and 2 * first.value <= noise.value:
        said += f" At the beginning it was {_number(first.value)}: a batch that grows fits that."
    if not noise.converged:
        said += f" The interval is wider than asked for: {noise.stopped}."
    return said


def _interval(noise: NoiseScale) -> str:
    low, high = noise.interval
    return f"{_number(low)} – {_number(high)}"


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    """Return data for JSON, which has no infinity: it is written as a word."""

    def word(value: Any) -> Any:
        return repr(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {
        name: [word(one) for one in value] if isinstance(value, tuple) else word(value)
        for name, value in data.items()
    }
