"""A profile bound to a clock, cut into pieces that one formula can evaluate."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from kwarmup.clock import Clock, Place
from kwarmup.layout import Segment
from kwarmup.length import Length
from kwarmup.places import places
from kwarmup.profile import Phase, Profile
from kwarmup.shapes import Shape
from kwarmup.shapes import linear as _STILL

#: Anchors are cut here, since a 32-bit counter holds no more.
_LIMIT = 2**31 - 1
#: A phase shorter than one update may be as short as it likes; only a finite slope times 0 is 0.
_STEEPEST = Fraction(10**30)


def _power(xp: Any, t: Any) -> Any:
    return xp.exp(t)


#: e to the power of its argument: with `start` 0, an exponential whose values keep all their digits.
_POWER = Shape("power", _power, free=True, per_step=True)


class Piece(NamedTuple):
    """Ticks on which the value is `start + change * f(progress)`, and progress all but a straight line.

    With `m` ticks since `anchor`, of which `w` are whole passes and `r` the rest, progress is
    `progress + w * per_pass + r * per_tick`: a pass may end with a partial batch. The anchor lies where
    progress must be known best: at the begin, or at the end where the shape is steepest there.
    """

    tick: int
    anchor: int
    pass_ticks: int
    shape: Shape
    start: float
    change: float
    progress: float
    per_tick: float
    per_pass: float


def pieces(profile: Profile, clock: Clock | None, parts: int, scaling: float) -> list[Piece]:
    """Return the pieces of a profile, in order; the last one goes on for ever.

    Args:
        profile: what should happen.
        clock: how long the run is, if there is one.
        parts: micro-batches per update.
        scaling: the power of the batch size, relative to the first, by which values are multiplied.
    """
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
    # The batch size may change within the phase, and progress or the scaled value with it.
    cuts: list[tuple[int, Segment | None]] = [(first, None)]
    if clock is not None:
        cuts = list(clock.segments_between(first, last))
    if phase.to is None or (start == to and not phase.shape.free):
        return [Piece(tick, tick, 1, _STILL, start, 0.0, 0.0, 0.0, 0.0) for tick, _ in cuts]
    shape, change, factor, backward = phase.shape, to - start, 1.0, False
    if shape.geometric:
        factor = math.log(to / start)
        backward = factor > 0
        shape, start, change = _POWER, 0.0, to if backward else start
    elif shape.backward is not None:
        shape, factor, backward = shape.backward, -1.0, True
    in_examples = phase.length.unit != "steps" and not phase.shape.per_step
    progress, length = _progress(phase, begin, stop, clock if in_examples else None, parts)
    found = []
    for (tick, segment), end in zip(cuts, [tick for tick, _ in cuts[1:]] + [last], strict=True):
        per_tick, per_pass, pass_ticks, origin = 1, 1, 1, 0
        if in_examples:
            assert segment is not None
            per_tick, per_pass, origin = segment.micro_batch, segment.pass_examples, segment.tick
            pass_ticks = 1 if segment.pass_ticks * per_tick == per_pass else segment.pass_ticks
        for begin_tick, anchor, ticks in _spans(tick, end, origin, pass_ticks, backward):
            found.append(
                Piece(
                    begin_tick,
                    anchor,
                    ticks,
                    shape,
                    start,
                    change,
                    factor * float(progress(anchor) - backward),
                    factor * _slope(per_tick, length),
                    factor * _slope(per_pass if ticks > 1 else per_tick, length),
                )
            )
    return found


def _slope(count: int, length: Fraction) -> float:
    return float(min(Fraction(count) / length, _STEEPEST))


def _progress(
    phase: Phase, begin: Place, stop: Place | None, clock: Clock | None, parts: int
) -> tuple[Callable[[int], Fraction], Fraction]:
    """Return progress as a function of the tick, exactly, and how long the phase is in what it counts."""
    if phase.shape.per_step:
        length = Fraction(parts)
        return lambda tick: (tick - begin.tick) / length, length
    assert stop is not None
    if clock is None:
        length = stop.tick - begin.tick
        return lambda tick: (tick - begin.tick) / length, length
    assert begin.example is not None and stop.example is not None
    example, length = begin.example, stop.example - begin.example
    return lambda tick: (clock.example_at_tick(Fraction(tick)) - example) / length, length


def _spans(
    tick: int, end: int | None, origin: int, pass_ticks: int, backward: bool
) -> list[tuple[int, int, int]]:
    """Cut the ticks from `tick` to `end` so that no progress is the small difference of two large numbers.

    Returns:
        For each span its first tick, its anchor, and its `pass_ticks`: 1 where progress is a straight line.
    """
    if not backward or end is None:
        edge = tick + (origin - tick) % pass_ticks  # where the first whole pass begins
        spans = [(tick, edge, tick, 1), (edge, end, edge, pass_ticks)]
    elif tick < _LIMIT < end:
        halves = _spans(tick, _LIMIT, origin, pass_ticks, True), _spans(_LIMIT, end, origin, pass_ticks, True)
        return [span for half in halves for span in half]
    elif pass_ticks == 1:
        spans = [(tick, end, end - 1, 1)]
    else:
        edge = end - (end - origin) % pass_ticks  # where the last whole pass ends
        before = edge - pass_ticks
        spans = [(tick, before, edge, pass_ticks), (before, edge, edge - 1, 1), (edge, end, end - 1, 1)]
    spans = [(max(tick, first), last, anchor, ticks) for first, last, anchor, ticks in spans]
    return [(first, anchor, ticks) for first, last, anchor, ticks in spans if last is None or first < last]


def _scaled(
    piece: Piece, scale: float, clock: Clock | None, parts: int, scaling: float, first_batch: int
) -> Piece:
    if clock and scaling:
        # A piece that begins within an update is in force from the next one.
        scale *= (clock.batch_size_at(-(-piece.tick // parts)) / first_batch) ** scaling
    return piece._replace(start=piece.start * scale, change=piece.change * scale)
