"""What a user did wrong, told in one message, without a traceback, with exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click


class UserError(click.ClickException):
    """A message for the user; the program ends with exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message to standard error."""
        head = click.style("Error:", fg="red", bold=True)
        click.echo(f"{head} {self.format_message()}", file=file, err=True)


@contextmanager
def user_error(before: str = "") -> Iterator[None]:
    """Turn what the core raises for a wrong argument, and the system for a file, into a `UserError`.

    Args:
        before: put in front of the message, to say where the argument came from.
    """
    try:
        yield
    except (TypeError, ValueError, OSError) as error:
        raise UserError(f"{before}{error}") from error


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says; Keras and TensorFlow write pages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
