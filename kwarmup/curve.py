"""Numbers: a profile bound to a clock is a table of pieces, and one kernel that reads it.

The same lines run on numpy (float64, the reference) and on `keras.ops` (float32, in the training step).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np

from kwarmup.clock import Clock
from kwarmup.errors import type_error, value_error
from kwarmup.length import Length, number
from kwarmup.pieces import pieces
from kwarmup.profile import Phase, Profile
from kwarmup.shapes import linear as _STILL

#: Up to so many pieces a look-up takes longer than the arithmetic that it saves.
_FEW = 64


@final
class Curve:
    """A profile in numbers: `curve(step)` is the value at an update, in float64.

    Args:
        profile: what should happen; a number stands for a constant.
        clock: how long the run is; not needed where all lengths are in steps.
        gradient_accumulation_steps: micro-batches per update, where there is no clock to tell.
        scaling: the value is multiplied by `(batch / first batch) ** scaling`: 0, 0.5 or 1.

    A phase whose length is in steps progresses with the updates, any other with the examples seen.

    Raises:
        TypeError: if `profile` is neither a profile nor a number.
        ValueError: if a phase needs a clock and there is none, or the phases are longer than the run.

    Example:

    >>> import numpy as np
    >>> from kwarmup import cosine, warmup
    >>> Curve(0.1 * (warmup(steps=4) >> cosine(steps=6)))(np.array([0, 2, 4, 7, 10, 99])).round(6).tolist()
    [0.0, 0.05, 0.1, 0.05, 0.0, 0.0]
    """

    def __init__(
        self,
        profile: Profile | float,
        clock: Clock | None = None,
        gradient_accumulation_steps: int | None = None,
        scaling: float = 0,
    ):
        self.profile = as_profile(profile)
        if clock is not None and not isinstance(clock, Clock):
            raise type_error("clock", clock, "a Clock", "Clock(examples=50_000, epochs=90, batch_size=256)")
        self.clock = clock
        self.parts = _parts(clock, gradient_accumulation_steps)
        self.scaling = _scaling(scaling)
        self.pieces = pieces(self.profile, clock, self.parts, self.scaling)
        self.shapes = tuple(dict.fromkeys(piece.shape for piece in self.pieces))
        self._tables: dict[tuple[str, str], _Table] = {}

    def __call__(self, step: Any) -> Any:
        """Return the value at update `step` (an integer or an array of them), in float64."""
        tick = np.asarray(step, "int64") * self.parts
        value = np.asarray(self.at_tick(tick, np, "int64", "float64"))
        return float(value) if value.ndim == 0 else value

    @cached_property
    def end(self) -> int:
        """The first update from which the value no longer changes."""
        return -(-self.pieces[-1].tick // self.parts)

    def at_tick(self, tick: Any, xp: Any, integer: str, real: str) -> Any:
        """Return the value at `tick`, the raw counter of micro-batches: the one evaluation kernel.

        Args:
            tick: integers of dtype `integer`, of any shape.
            xp: the array module, numpy or `keras.ops`.
            integer: dtype of the counter, `"int32"` or `"int64"`.
            real: dtype of the result.
        """
        table = self._table(integer, real)
        if self.parts > 1:
            tick = tick // self.parts * self.parts
        if xp is np or len(tick.shape) or not self._few:
            return self._value(xp, tick, table.looked_up(xp, tick))
        # A training step asks for one value at a time. There the time goes into the number of operations,
        # not into their sizes; so the values of all pieces are worked out, and the one in force is taken.
        within = xp.minimum(xp.maximum(tick, table.first), table.last)
        values = self._value(xp, within, table.all(xp))
        return xp.sum(xp.where(xp.equal(within, tick), values, 0.0))

    @cached_property
    def _few(self) -> bool:
        # A function of the user may be dear, or not take an array.
        return len(self.pieces) <= _FEW and not any(shape.custom for shape in self.shapes)

    def _value(self, xp: Any, tick: Any, columns: _Columns) -> Any:
        """Return the values of pieces at ticks that lie within them, element by element."""
        since = tick - columns.anchor
        progress = columns.progress
        if columns.pass_ticks is not None:
            passes = since // columns.pass_ticks
            progress = progress + xp.multiply(passes, columns.per_pass)
            since = since - passes * columns.pass_ticks
        progress = progress + xp.multiply(since, columns.per_tick)
        part = xp.clip(progress, 0.0, 1.0)
        f = None
        for index, shape in enumerate(self.shapes):
            along = shape.evaluate(xp, progress if shape.per_step else part)
            f = along if f is None else xp.where(xp.equal(columns.shape_index, index), along, f)
        return columns.start + columns.change * f

    def _table(self, integer: str, real: str) -> _Table:
        if (integer, real) not in self._tables:
            limit = int(np.iinfo(integer).max)
            rows = [piece for piece in self.pieces if piece.tick < limit]
            # With two rows at least the look-up has no special case; no step reaches the last tick.
            rows.append(rows[-1]._replace(tick=limit))
            index = {shape: float(index) for index, shape in enumerate(self.shapes)}
            whole = [(row.anchor, row.pass_ticks) for row in rows]
            reals = [
                (row.start, row.change, row.progress, row.per_tick, index[row.shape], row.per_pass)
                for row in rows
            ]
            # Without partial batches the columns of the passes are not needed.
            straight = all(row.pass_ticks == 1 for row in rows)
            first = np.array([row.tick for row in rows], integer)
            self._tables[integer, real] = _Table(
                first=first,
                last=np.append(first[1:] - 1, limit).astype(integer),
                whole=np.array(whole, integer)[:, : 1 if straight else 2],
                reals=np.array(reals, real)[:, : 5 if straight else 6],
            )
        return self._tables[integer, real]


class _Columns(NamedTuple):
    """Pieces as numbers, a column each; the passes only where there are partial batches."""

    anchor: Any
    start: Any
    change: Any
    progress: Any
    per_tick: Any
    shape_index: Any
    per_pass: Any = None
    pass_ticks: Any = None


class _Table(NamedTuple):
    """Pieces as arrays of one type: the ticks on which each is in force, and what the kernel computes with."""

    first: np.ndarray
    last: np.ndarray
    whole: np.ndarray
    reals: np.ndarray

    def all(self, xp: Any) -> _Columns:
        """Return all pieces, for `keras.ops`."""
        tables = (self.whole, self.reals)
        return self._columns(*([xp.convert_to_tensor(column) for column in table.T] for table in tables))

    def looked_up(self, xp: Any, tick: Any) -> _Columns:
        """Return the piece in force at each tick."""
        row = xp.searchsorted(self.first[1:], xp.reshape(tick, (-1,)), side="right")
        row = xp.reshape(row, xp.shape(tick))
        found = [xp.take(table, row, axis=0) for table in (self.whole, self.reals)]
        # Numpy has no unstack before 2.1.
        unstack = (
            (lambda rows: np.moveaxis(rows, -1, 0)) if xp is np else (lambda rows: xp.unstack(rows, axis=-1))
        )
        return self._columns(*map(unstack, found))

    @staticmethod
    def _columns(whole: Any, reals: Any) -> _Columns:
        anchor, *pass_ticks = whole
        return _Columns(anchor, *reals, *pass_ticks)


def as_profile(profile: Any, argument: str = "profile") -> Profile:
    """Return a profile as it is, and a number as a constant.

    Args:
        profile: what the user gave.
        argument: what it is called there, for errors.

    Raises:
        TypeError: if it is neither.
        ValueError: if the number is not finite.
    """
    if isinstance(profile, Profile):
        return profile
    write = "0.1 * (warmup(steps=500) >> cosine(steps=9_500))"
    try:
        value = number(argument, profile, write)
    except TypeError:
        raise type_error(argument, profile, "a profile or a number", write) from None
    return Profile([Phase(_STILL, Length())], value)


def _parts(clock: Clock | None, parts: int | None) -> int:
    write = "Clock(..., gradient_accumulation_steps=4)"
    if parts is not None:
        count = number("gradient_accumulation_steps", parts, write)
        if not isinstance(count, int) or count < 1:
            raise value_error("gradient_accumulation_steps", parts, "a whole number, 1 or more", write)
        parts = count
    if clock is None:
        return parts or 1
    if parts is not None and parts != clock.gradient_accumulation_steps:
        expected = f"the clock's {clock.gradient_accumulation_steps}"
        write = f"Clock(..., gradient_accumulation_steps={parts})"
        raise value_error("gradient_accumulation_steps", parts, expected, write)
    return clock.gradient_accumulation_steps


def _scaling(scaling: Any) -> float:
    if scaling not in (0, 0.5, 1):
        raise value_error(
            "scaling", scaling, "0 (none), 0.5 (square-root rule) or 1 (linear rule)", "Plan(..., scaling=1)"
        )
    return scaling
