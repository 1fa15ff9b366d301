"""Read --batch-size: a whole number, or a profile for one that moves."""

from __future__ import annotations

from typing import Any

import click

from kwarmup.cli.errors import user_error


class BatchSize(click.ParamType):
    """A whole number, or an expression as `--profile` takes it: `64 * (hold(epochs=2) >> hold(4))`."""

    name = "batch size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or the profile."""
        try:
            number = float(value)
        except ValueError:
            # Nothing of the core is needed for `--help`.
            from kwarmup.cli.expression import parse

            with user_error("--batch-size: "):
                return parse(value)
        if not number.is_integer() or number < 1:
            self.fail(f"{value} is not a number of examples: 1, 2, 3, … or a profile.", param, ctx)
        return int(number)


class Scaling(click.Choice):
    """0, 0.5 or 1, as a number."""

    def __init__(self) -> None:
        super().__init__(["0", "0.5", "1"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        word = super().convert(str(value), param, ctx)
        return float(word) if "." in word else int(word)
