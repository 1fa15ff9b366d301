"""A run played through by dumb loops: what `Clock` and `Curve` must agree with.

Nothing here is clever: batches are handed out one after the other, as `fit` hands them out, and every place
is found by looking through the list. Numbers are exact fractions until the shape itself.
"""

import math
from bisect import bisect_left
from fractions import Fraction
from typing import NamedTuple

from kwarmup.length import Length
from kwarmup.profile import Phase, Profile
from kwarmup.shapes import as_shape


class Move(NamedTuple):
    """A phase in plain data: how far it goes, in which unit, between which values, along which shape."""

    unit: str
    amount: float | None
    start: float
    to: float
    shape: str = "linear"

    @property
    def phase(self):
        return Phase(as_shape(self.shape), Length(self.amount, self.unit), self.start, self.to)

    def value(self, t):
        """The value at progress t, a fraction: exact along a line, in double precision otherwise."""
        start, to = Fraction(repr(self.start)), Fraction(repr(self.to))
        if self.shape == "linear" or start == to:
            return start + (to - start) * t
        t = float(t)
        if self.shape == "exponential":
            return Fraction(float(start) * float(to / start) ** t)
        f = {"cosine": (1 - math.cos(math.pi * t)) / 2, "sqrt": math.sqrt(t)}[self.shape]
        return Fraction(float(start) * (1 - f) + float(to) * f)


def profile(moves, scale=1):
    return Profile([move.phase for move in moves], scale)


class Run:
    """The micro-batches of a run, one by one.

    Args:
        batch_size: a number, or moves times `scale`.
    """

    def __init__(self, examples, epochs, batch_size, drop_remainder=False, parts=1, multiple_of=1, scale=1):
        self.parts = parts
        self.taken, self.sizes, self.passes = [], [], [0]
        self.moves, self.scale, self.multiple_of = batch_size, scale, multiple_of
        self.examples, self.epochs, self.drop_remainder = examples, epochs, drop_remainder
        self.index, self.begin, self.end = 0, Fraction(0), Fraction(0)
        for epoch in range(epochs):
            left = examples
            while left:
                size = self._size(len(self.taken), epoch * examples + examples - left)
                micro = size // parts
                if not drop_remainder:  # a batch larger than the data holds all of it
                    micro = min(micro, examples)
                    size = micro * parts
                if micro > left and drop_remainder:
                    break
                self.taken.append(min(micro, left))
                self.sizes.append(size)
                left -= self.taken[-1]
            self.passes.append(sum(self.taken))
        self.consumed = [sum(self.taken[:tick]) for tick in range(len(self.taken) + 1)]

    @property
    def clock_arguments(self):
        batch = self.moves if isinstance(self.moves, int) else profile(self.moves, self.scale)
        return {"examples": self.examples, "epochs": self.epochs, "batch_size": batch}

    def _size(self, tick, position):
        if isinstance(self.moves, int):
            return self.moves
        while self.index < len(self.moves):
            move = self.moves[self.index]
            in_steps = move.unit == "steps"
            now = Fraction(tick, self.parts) if in_steps else Fraction(position)
            length = self._length(move)
            if now - self.begin < length:
                return self._round(self.scale * move.value((now - self.begin) / length), move.to < move.start)
            self.index += 1
            if self.index < len(self.moves):
                same = (self.moves[self.index].unit == "steps") == in_steps
                other = Fraction(position) if in_steps else Fraction(tick, self.parts)
                self.begin = self.begin + length if same else other
        return self._round(self.scale * self.moves[-1].value(Fraction(1)))

    def _length(self, move):
        total = self.examples * self.epochs
        if move.unit == "rest":
            return total - sum(self._length(other) for other in self.moves if other is not move)
        unit = {"steps": 1, "examples": 1, "epochs": self.examples, "fraction": total}[move.unit]
        return Fraction(repr(move.amount)) * unit

    def _round(self, value, down=False):
        value = round(value, 9) / self.multiple_of  # the shapes are in double precision
        half = Fraction(1, 2)
        return max(1, math.ceil(value - half) if down else math.floor(value + half)) * self.multiple_of

    # Updates

    @property
    def steps(self):
        return len(self.taken) // self.parts

    def examples_at(self, step):
        return self.consumed[min(step * self.parts, len(self.taken))]

    def batch_size_at(self, step):
        return self.sizes[min(step * self.parts, len(self.sizes) - 1)]

    # Places: ticks and examples, which may lie between two batches

    def example_at_tick(self, tick):
        whole = min(math.floor(tick), len(self.taken) - 1)
        return self.consumed[whole] + (tick - whole) * self.taken[whole]

    def tick_at_example(self, example):
        whole = max(0, bisect_left(self.consumed, example) - 1)
        whole = min(whole, len(self.taken) - 1)
        return whole + (example - self.consumed[whole]) / Fraction(self.taken[whole])

    def epoch_at_example(self, example):
        for epoch in range(self.epochs):
            begin, end = self.passes[epoch], self.passes[epoch + 1]
            if example < end or epoch == self.epochs - 1:
                return epoch + Fraction(example - begin) / (end - begin)
        raise AssertionError

    def example_at_epoch(self, epoch):
        whole = min(math.floor(epoch), self.epochs - 1)
        return self.passes[whole] + (epoch - whole) * (self.passes[whole + 1] - self.passes[whole])

    def after(self, place, move, sign=1):
        """The place, (tick, example), one length behind another place."""
        tick, example = place
        amount = sign * Fraction(repr(move.amount))
        if move.unit == "steps":
            tick = tick + amount * self.parts
            return tick, self.example_at_tick(tick)
        if move.unit == "epochs":
            example = self.example_at_epoch(self.epoch_at_example(example) + amount)
        elif move.unit == "fraction":
            example = example + amount * self.consumed[-1]
        else:
            example = example + amount
        return self.tick_at_example(example), example

    def bounds(self, moves):
        """Where each phase begins, and where the last one ends."""
        places = [(Fraction(0), Fraction(0))]
        rest = [index for index, move in enumerate(moves) if move.unit == "rest"]
        first = rest[0] if rest else len(moves)
        for move in moves[:first]:
            places.append(self.after(places[-1], move))
        if rest:
            behind = [(Fraction(len(self.taken)), Fraction(self.consumed[-1]))]
            for move in reversed(moves[first + 1 :]):
                behind.insert(0, self.after(behind[0], move, sign=-1))
            places += behind
        return places

    def values(self, moves, scale=1.0, scaling=0, steps=None):
        """The value at every update, and a few past the end."""
        bounds = self.bounds(moves)
        found = []
        for step in range(self.steps if steps is None else steps):
            tick = step * self.parts
            value = moves[-1].value(Fraction(1))
            for move, begin, end in zip(moves, bounds[:-1], bounds[1:], strict=True):
                if begin[0] <= tick < end[0]:
                    if move.unit == "steps":
                        t = (tick - begin[0]) / (end[0] - begin[0])
                    else:
                        t = (self.example_at_tick(Fraction(tick)) - begin[1]) / (end[1] - begin[1])
                    value = move.value(t)
                    break
            ratio = self.batch_size_at(step) / self.batch_size_at(0)
            found.append(float(value) * scale * ratio**scaling)
        return found
