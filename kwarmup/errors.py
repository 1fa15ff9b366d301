"""How an error is worded: the argument, what was received, what is expected, the line to write."""

from typing import Any


def message(argument: str, received: Any, expected: str, write: str) -> str:
    """Return the text that every kwarmup error carries.

    Args:
        argument: name of the argument at fault, as the user typed it.
        received: the value that was passed; shown by its `repr`, arrays by their shape.
        expected: what would have been accepted, as a noun phrase.
        write: a line of code that works.

    Example:

    >>> print(message("steps", -1, "a number of updates, 0 or more", "warmup(steps=500)"))
    `steps`: expected a number of updates, 0 or more.
    Received: -1
    Write: warmup(steps=500)
    """
    # Data where a number belongs would fill the screen with its values.
    shape = getattr(received, "shape", None)
    if hasattr(received, "dtype") and shape:
        received = Code(f"a {type(received).__name__} of shape {tuple(shape)}")
    return f"`{argument}`: expected {expected}.\nReceived: {received!r}\nWrite: {write}"


def value_error(argument: str, received: Any, expected: str, write: str) -> ValueError:
    """A `ValueError` in the house's wording; see `message`."""
    return ValueError(message(argument, received, expected, write))


def type_error(argument: str, received: Any, expected: str, write: str) -> TypeError:
    """A `TypeError` in the house's wording; see `message`."""
    return TypeError(message(argument, received, expected, write))


class Code:
    """Text shown without quotes by `message`, for received values that are code, not data."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text
