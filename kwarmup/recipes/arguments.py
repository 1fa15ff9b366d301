"""How recipes read their arguments."""

from fractions import Fraction
from typing import Any

from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import Length, number


def whole(argument: str, value: Any, write: str) -> int:
    """Return `value` as an `int`, 1 or more.

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it is below 1.
    """
    value = number(argument, value, write)
    if not isinstance(value, int):
        raise type_error(argument, value, "a whole number", write)
    if value < 1:
        raise value_error(argument, value, "a whole number, 1 or more", write)
    return value


def positive(argument: str, value: Any, write: str) -> int | float:
    """Return `value` as a number above 0.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not above 0.
    """
    value = number(argument, value, write)
    if value <= 0:
        raise value_error(argument, value, "a number above 0", write)
    return value


def given_length(verb: str, bare: tuple[Any, ...], units: Any, write: str) -> Length:
    """Return the length that the unit keywords give, above 0; the rest of the run is none here.

    Raises:
        TypeError: if the length is a bare number, missing or given twice.
        ValueError: if it is not above 0.
    """
    if bare:
        received = Code(f"{verb}({', '.join(map(repr, bare))})")
        raise type_error("length", received, "a keyword that names the unit", write)
    length = Length.read(verb, **units)
    if length.value is None:
        raise type_error(
            "length", Code(f"{verb}() without a length"), "steps=, epochs=, examples= or fraction=", write
        )
    positive(length.unit, length.value, write)
    return length


def times(length: Length, factor: int | Fraction) -> dict[str, Any]:
    """Return the keyword for `factor` lengths, multiplied as decimals: 3 times 0.1 is 0.3, not next to it."""
    return {length.unit: number(length.unit, float(length.exact * factor), length.keyword)}
