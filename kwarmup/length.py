"""A length and its unit: the only reader of `steps=`, `epochs=`, `examples=` and `fraction=`."""

import math
import numbers
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, final

from kwarmup.errors import Code, type_error, value_error

UNITS = ("steps", "epochs", "examples", "fraction")


def number(argument: str, value: Any, write: str) -> int | float:
    """Return `value` as a plain `int` or `float`, a whole float as an `int`.

    Raises:
        TypeError: if `value` is not a real number (a `bool` is not one).
        ValueError: if it is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise type_error(argument, value, "a real number", write)
    value = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not math.isfinite(value):
        raise value_error(argument, value, "a finite number", write)
    return int(value) if value == int(value) else value


@final
@dataclass(frozen=True)
class Length:
    """How long a phase lasts: a value and its unit, or the rest of the run.

    Args:
        value: 0 or more; `None` for the rest of the run.
        unit: `"steps"` (updates), `"epochs"` (passes over the data), `"examples"`,
            `"fraction"` (of the whole run, 0 to 1) or `"rest"`.

    Example:

    >>> Length.read("warmup", steps=500)
    Length(value=500, unit='steps')
    """

    value: int | float | None = None
    unit: str = "rest"

    @classmethod
    def read(cls, verb: str, **units: int | float | None) -> "Length":
        """Read the unit keywords of `verb`: at most one is given, none means the rest.

        Raises:
            TypeError: if two units are given, or a value is not a number.
            ValueError: if a length is negative, not finite, or a fraction above 1.
        """
        for keyword in units:
            if keyword not in UNITS:
                units_known = f"one of {', '.join(UNITS)}"
                raise type_error(keyword, Code(f"{verb}({keyword}=...)"), units_known, f"{verb}(steps=500)")
        given = {unit: value for unit, value in units.items() if value is not None}
        if not given:
            return cls()
        if len(given) > 1:
            received = ", ".join(f"{unit}={value!r}" for unit, value in given.items())
            unit, value = next(iter(given.items()))
            raise type_error(
                "/".join(given), Code(received), "exactly one length", f"{verb}({unit}={value!r})"
            )
        unit, value = next(iter(given.items()))
        examples = {"steps": "500", "epochs": "5", "examples": "50_000", "fraction": "0.1"}
        write = f"{verb}({unit}={examples[unit]})"
        value = number(unit, value, write)
        if value < 0:
            raise value_error(unit, value, "a length of 0 or more", write)
        if unit == "fraction" and value > 1:
            raise value_error(unit, value, "a part of the whole run, from 0 to 1", write)
        return cls(value, unit)

    @property
    def exact(self) -> Fraction:
        """The value as the author wrote it: 0.1 is one tenth, not the nearest binary number."""
        if self.value is None:
            raise ValueError("the rest of the run has no value of its own")
        return Fraction(repr(self.value))

    @property
    def keyword(self) -> str:
        """The keyword that makes this length, `"steps=500"`; empty for the rest."""
        return "" if self.unit == "rest" else f"{self.unit}={self.value!r}"
