"""Numbers: a profile bound to a clock is a table of pieces, and one kernel that reads it.

The same lines run on numpy (float64, the reference) and on `keras.ops` (float32, in the training step).
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np

from kwarmup.clock import Clock, Place, places
from kwarmup.errors import type_error, value_error
from kwarmup.length import Length, number
from kwarmup.profile import Phase, Profile
from kwarmup.shapes import Shape
from kwarmup.shapes import linear as _STILL


class Piece(NamedTuple):
    """A stretch of ticks on which progress is a straight line, but for the partial batch of each pass.

    With `m` ticks since `tick`, progress is `progress + m * per_tick - passes * per_pass`, where
    `passes = (m + pass_offset) // pass_ticks` counts the passes ended since, and `per_pass` what each
    of their last batches lacked.
    """

    tick: int
    pass_ticks: int
    pass_offset: int
    shape: Shape
    start: float
    to: float
    progress: float
    per_tick: float
    per_pass: float
    rate: float


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
        self.pieces = _pieces(self.profile, clock, self.parts, self.scaling)
        self.shapes = tuple(dict.fromkeys(piece.shape for piece in self.pieces))
        self._tables: dict[tuple[str, str], tuple[Any, ...]] = {}

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
        starts, whole, table = self._table(integer, real)
        if self.parts > 1:
            tick = tick // self.parts * self.parts
        row = xp.searchsorted(starts[1:], xp.reshape(tick, (-1,)), side="right")
        row = xp.reshape(row, xp.shape(tick))
        counts, columns = xp.take(whole, row, axis=0), xp.take(table, row, axis=0)
        since = xp.maximum(tick - counts[..., 0], 0)
        start, to = columns[..., 0], columns[..., 1]
        progress = columns[..., 2] + xp.multiply(since, columns[..., 3])
        if any(piece.per_pass for piece in self.pieces):
            passes = (since + counts[..., 2]) // counts[..., 1]
            progress = progress - xp.multiply(passes, columns[..., 4])
        rate = columns[..., 5] if any(shape.geometric for shape in self.shapes) else None
        part = xp.clip(progress, 0.0, 1.0)
        f = None
        for index, shape in enumerate(self.shapes):
            along = shape.evaluate(xp, progress if shape.per_step else part, rate)
            f = along if f is None else xp.where(xp.equal(counts[..., 3], index), along, f)
        return start * (1 - f) + to * f

    def _table(self, integer: str, real: str) -> tuple[Any, Any, Any]:
        """Return the pieces as columns: where they start, whole numbers, real numbers."""
        if (integer, real) not in self._tables:
            limit = int(np.iinfo(integer).max)
            pieces = [piece for piece in self.pieces if piece.tick < limit]
            # With two rows at least the look-up has no special case; no step reaches the last tick.
            pieces.append(pieces[-1]._replace(tick=limit))
            starts = np.array([piece.tick for piece in pieces], integer)
            whole = [
                (p.tick, min(p.pass_ticks, limit), p.pass_offset, self.shapes.index(p.shape)) for p in pieces
            ]
            table = [piece[4:] for piece in pieces]
            self._tables[integer, real] = (starts, np.array(whole, integer), np.array(table, real))
        return self._tables[integer, real]


def as_profile(profile: Any) -> Profile:
    """Return a profile as it is, and a number as a constant.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(profile, Profile):
        return profile
    try:
        value = number("profile", profile, "")
    except TypeError:
        raise type_error(
            "profile", profile, "a profile or a number", "0.1 * (warmup(steps=500) >> cosine(steps=9_500))"
        ) from None
    return Profile([Phase(_STILL, Length())], value)


def _parts(clock: Clock | None, parts: int | None) -> int:
    write = "Clock(..., gradient_accumulation_steps=4)"
    if parts is not None:
        parts = number("gradient_accumulation_steps", parts, write)
        if not isinstance(parts, int) or parts < 1:
            raise value_error("gradient_accumulation_steps", parts, "a whole number, 1 or more", write)
    if clock is None:
        return parts or 1
    if parts is not None and parts != clock.gradient_accumulation_steps:
        raise value_error(
            "gradient_accumulation_steps", parts, f"the clock's {clock.gradient_accumulation_steps}", write
        )
    return clock.gradient_accumulation_steps


def _scaling(scaling: Any) -> float:
    if scaling not in (0, 0.5, 1):
        raise value_error(
            "scaling", scaling, "0 (none), 0.5 (square-root rule) or 1 (linear rule)", "Plan(..., scaling=1)"
        )
    return scaling


def _pieces(profile: Profile, clock: Clock | None, parts: int, scaling: float) -> list[Piece]:
    found: list[Piece] = []
    bounds = places(profile, clock, parts)
    end = 1.0
    for phase, begin, stop in zip(profile.phases, bounds[:-1], bounds[1:], strict=True):
        assert begin is not None
        start, to = phase.ends(end)
        first, last = math.ceil(begin.tick), None if stop is None else math.ceil(stop.tick)
        if last is None or last > first:
            found += _phase_pieces(phase, begin, stop, first, last, (start, to), clock, parts)
        steps = None if stop is None else float((stop.tick - begin.tick) / parts)
        after = phase.end(start, to, steps)
        end = to if after is None else after
    if bounds[-1] is not None:
        still = Phase(_STILL, Length(), end)
        place = bounds[-1]
        found += _phase_pieces(still, place, None, math.ceil(place.tick), None, (end, end), clock, parts)
    first_batch = clock.batch_size_at(0) if clock else 1
    return [_scaled(piece, profile.scale, clock, parts, scaling, first_batch) for piece in found]


def _phase_pieces(
    phase: Phase,
    begin: Place,
    stop: Place | None,
    first: int,
    last: int | None,
    ends: tuple[float, float],
    clock: Clock | None,
    parts: int,
) -> list[Piece]:
    start, to = ends
    rate = math.log(to / start) if phase.shape.geometric and to != start else 0.0
    plain = Piece(first, 1, 0, phase.shape, start, to, 0.0, 0.0, 0.0, rate)
    segments = clock.segments_between(first, last) if clock else []
    if phase.to is None or start == to and not phase.shape.free:
        pieces = [plain._replace(shape=_STILL, rate=0.0)]
    elif phase.shape.per_step:
        pieces = [plain._replace(progress=float((first - begin.tick) / parts), per_tick=1 / parts)]
    elif phase.length.unit == "steps":
        assert stop is not None
        length = stop.tick - begin.tick
        pieces = [plain._replace(progress=float((first - begin.tick) / length), per_tick=float(1 / length))]
    else:
        assert clock is not None and stop is not None
        assert begin.example is not None and stop.example is not None
        examples = stop.example - begin.example
        return [
            plain._replace(
                tick=tick,
                pass_ticks=s.pass_ticks,
                pass_offset=(tick - s.tick) % s.pass_ticks,
                progress=float((clock.example_at_tick(Fraction(tick)) - begin.example) / examples),
                per_tick=float(s.micro_batch / examples),
                per_pass=float((s.pass_ticks * s.micro_batch - s.pass_examples) / examples),
            )
            for tick, s in segments
        ]
    # The batch size may change within the phase, and the scaled value with it.
    base = pieces[0]
    return [base] + [
        base._replace(tick=tick, progress=base.progress + (tick - base.tick) * base.per_tick)
        for tick, _ in segments
        if tick > base.tick
    ]


def _scaled(
    piece: Piece, scale: float, clock: Clock | None, parts: int, scaling: float, first_batch: int
) -> Piece:
    if clock and scaling:
        # Ticks of one update share its batch size; see `Clock.batch_size_at`.
        scale *= (clock.batch_size_at(piece.tick // parts) / first_batch) ** scaling
    return piece._replace(start=piece.start * scale, to=piece.to * scale)
