"""Numbers of a study as a reader wants them: few digits, with their range."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kwarmup.studies.result import Spread, Study

#: What stands where there is no number.
NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many digits that count.

    >>> [number(value) for value in (12_345, 1234.5, 0.97163, 0.000123, 2.0, float("inf"), None)]
    ['12,300', '1,230', '0.972', '0.000123', '2', '∞', '–']
    """
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 10**digits:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:.{digits}g}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """Return an interval; the bracket of an endless one is round.

    >>> interval(36.7, 46.2), interval(300, float("inf"))
    ('[36.7, 46.2]', '[300, ∞)')
    """
    return f"[{number(low, digits)}, {number(high, digits)}{')' if math.isinf(high) else ']'}"


def spread(found: Spread | None, unit: str = "", digits: int = 3) -> str:
    """Return a median with the lowest and the highest of its seeds, and how many have a value if not all do.

    >>> from kwarmup.studies.result import Spread
    >>> spread(Spread(1200, 1100, 1400, 3, 3)), spread(Spread(7, 7, 7, 1, 3), " s"), spread(None)
    ('1,200 (1,100 – 1,400)', '7 s, 1 of 3 seeds', '–')
    """
    if found is None:
        return NOTHING
    text = number(found.median, digits) + unit
    if found.reached > 1:
        text += f" ({number(found.low, digits)} – {number(found.high, digits)})"
    return text if found.reached == found.seeds else f"{text}, {found.reached} of {found.seeds} seeds"


def times(ratio: float, low: float = math.nan, high: float = math.nan) -> str:
    """Return a ratio in words, two digits of it, with its interval where that is given.

    >>> times(6.34), times(345.0), times(6.34, 5.11, 7.9)
    ('6.3 times', '340 times', '6.3 [5.1, 7.9] times')
    """
    if math.isnan(low):
        return f"{number(ratio, 2)} times"
    return f"{number(ratio, 2)} {interval(low, high, 2)} times"


def listed(things: Iterable[object]) -> str:
    """Return things with commas and an "and".

    >>> listed([16]), listed([16, 32]), listed([16, 32, 64])
    ('16', '16 and 32', '16, 32 and 64')
    """
    words = [f"{thing:,}" if isinstance(thing, int) else str(thing) for thing in things]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def seeds(count: int) -> str:
    """Return a number of seeds.

    >>> seeds(1), seeds(3)
    ('1 seed', '3 seeds')
    """
    return f"{count} seed{'s' if count != 1 else ''}"


def metric(study: Study) -> str:
    """Return the name of the metric that a study follows, as it reads in a sentence."""
    return study.settings.monitor.removeprefix("val_").replace("_", " ")


def sentence(text: str) -> str:
    """Return a text with a capital at its begin.

    >>> sentence("accuracy rises.")
    'Accuracy rises.'
    """
    return text[:1].upper() + text[1:]
