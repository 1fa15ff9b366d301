"""The clock: the only place that relates steps, epochs, examples, fractions, accumulation and replicas.

All of it is done in integers and fractions, so nothing is rounded before the very end.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np

from kwarmup.errors import Code, type_error, value_error
from kwarmup.layout import Passes, Segment, lay_out
from kwarmup.length import Length, number
from kwarmup.profile import Profile
from kwarmup.sizes import Rounding, Stretch, stretches


class Place(NamedTuple):
    """A point of the run, which may lie between two updates.

    `tick` counts micro-batches (`iterations` as the optimizer keeps them), `example` training
    examples consumed; `None` where no clock tells.
    """

    tick: Fraction
    example: Fraction | None


_EXAMPLE = "Clock(examples=50_000, epochs=90, batch_size=256)"


@final
@dataclass(frozen=True, kw_only=True)
class Clock:
    """How long a run is: knows what a step, an epoch and a fraction of it are in examples.

    Args:
        examples: training examples in one pass over the data.
        epochs: passes over the data.
        batch_size: examples per update, over all replicas and accumulated micro-batches: a whole
            number, or a profile such as `64 * (hold(epochs=10) >> hold(4))`.
        drop_remainder: leave out the last, partial batch of each pass.
        gradient_accumulation_steps: micro-batches per update, as given to the Keras optimizer; each
            has `batch_size / gradient_accumulation_steps` examples. Keras goes on accumulating from
            one pass into the next, and so does the clock; micro-batches left over at the very end
            are never applied.
        replicas: devices that share each batch.
        multiple_of: batch sizes from a profile are rounded to the nearest multiple of this.
        min_batch_size: the smallest size that a profile may lead to; `None` for `multiple_of`.
        max_batch_size: the largest size that a profile may lead to; `None` for no limit.

    Raises:
        TypeError: if an argument is not of the type above.
        ValueError: if one is not above 0, if the batch size does not divide by accumulation and
            replicas, if a limit is no multiple of `multiple_of`, if `drop_remainder` would leave
            a pass without a batch, or if there would be no update.

    Example:

    >>> clock = Clock(examples=50_000, epochs=90, batch_size=256)
    >>> clock.steps, clock.examples_at(196), clock.step_at(epochs=1)
    (17640, 50000, 196)
    """

    examples: int
    epochs: int
    batch_size: int | Profile
    drop_remainder: bool = False
    gradient_accumulation_steps: int = 1
    replicas: int = 1
    multiple_of: int = 1
    min_batch_size: int | None = None
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("examples", "epochs", "gradient_accumulation_steps", "replicas", "multiple_of"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        for name in ("min_batch_size", "max_batch_size"):
            self._check_limit(name, getattr(self, name))
        if not isinstance(self.drop_remainder, bool | np.bool_):
            raise type_error("drop_remainder", self.drop_remainder, "True or False", _EXAMPLE)
        object.__setattr__(self, "drop_remainder", bool(self.drop_remainder))
        if not isinstance(self.batch_size, Profile):
            object.__setattr__(self, "batch_size", _count("batch_size", self.batch_size))
        parts = self.gradient_accumulation_steps * self.replicas
        for stretch in self._stretches:
            for size in stretch.sizes:
                if size % parts:
                    nearest = max(parts, round(size / parts) * parts)
                    raise value_error(
                        "batch_size",
                        self.batch_size,
                        f"sizes that divide by gradient_accumulation_steps × replicas = "
                        f"{self.gradient_accumulation_steps} × {self.replicas} ({size} does not)",
                        f"batch_size={nearest}"
                        if isinstance(self.batch_size, int)
                        else f"Clock(..., multiple_of={parts})",
                    )
        if any(run.examples == 0 for run in self._runs):
            raise value_error(
                "drop_remainder",
                True,
                f"micro-batches of at most {self.examples} examples, or nothing is left of a pass",
                f"Clock(examples={self.examples}, epochs={self.epochs}, batch_size={self.examples})",
            )
        if self.steps == 0:
            raise value_error(
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps,
                f"at most the {self._ticks} micro-batches of the whole run, or there is no update",
                f"Clock(..., gradient_accumulation_steps={self._ticks})",
            )

    def __repr__(self) -> str:
        shown = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Clock({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    def _check_limit(self, name: str, limit: Any) -> None:
        if limit is None:
            return
        limit = _count(name, limit)
        low = self.min_batch_size or 0 if name == "max_batch_size" else 0
        if limit % self.multiple_of or limit < low or not isinstance(self.batch_size, Profile):
            raise value_error(
                name,
                limit,
                f"a multiple of {self.multiple_of}, {low} or more, beside a batch size that is a profile",
                "Clock(..., batch_size=64 * linear(to=8, epochs=4), min_batch_size=64, max_batch_size=256)",
            )
        object.__setattr__(self, name, limit)

    # What the user asks

    @property
    def steps(self) -> int:
        """Updates in the whole run."""
        return self._ticks // self.gradient_accumulation_steps

    @property
    def total_examples(self) -> int:
        """Examples consumed in the whole run."""
        last = self._segments[-1]
        return last.example + last.examples

    def examples_at(self, step: Any) -> Any:
        """Return the examples consumed before update `step` begins.

        Args:
            step: an integer, or an array of integers, 0 or more; past the end the total holds.

        >>> Clock(examples=100, epochs=3, batch_size=32).examples_at([0, 3, 4, 5]).tolist()
        [0, 96, 100, 132]
        """
        seen = self._examples_at_tick(np.asarray(step, "int64") * self.gradient_accumulation_steps)
        return int(seen) if seen.ndim == 0 else seen

    def step_at(self, **length: Any) -> int:
        """Return the first update that begins at or after `steps=`, `epochs=`, `examples=` or `fraction=`.

        It undoes `examples_at`: `step_at(examples=examples_at(n)) == n`.

        Raises:
            ValueError: if the place lies behind the end of the run.

        >>> Clock(examples=100, epochs=3, batch_size=32).step_at(examples=97)
        4
        """
        asked = Length.read("step_at", **length)
        if asked.value is None:
            raise type_error("step_at", Code("step_at()"), "exactly one length", "step_at(epochs=1)")
        place = self.forward(Place(Fraction(0), Fraction(0)), asked)
        if place.tick > self._ticks:
            raise value_error(
                "step_at", length, f"a place within the {self.steps} updates", "step_at(fraction=1)"
            )
        return math.ceil(place.tick / self.gradient_accumulation_steps)

    def epoch_at(self, step: int) -> float:
        """Return how many passes over the data are done before update `step` begins, with its fraction.

        >>> Clock(examples=100, epochs=3, batch_size=32).epoch_at(5)
        1.32
        """
        return float(self._epoch_at_example(Fraction(self.examples_at(int(step)))))

    def batch_size_at(self, step: Any) -> Any:
        """Return the batch size in force at update `step`; the last batch of a pass may hold fewer examples.

        Args:
            step: an integer, or an array of integers, 0 or more.

        >>> from kwarmup import hold
        >>> clock = Clock(examples=100, epochs=3, batch_size=25 * (hold(epochs=1) >> hold(2)))
        >>> clock.batch_size_at([0, 3, 4]).tolist()
        [25, 25, 50]
        """
        rows = self._columns
        tick = np.asarray(step, "int64") * self.gradient_accumulation_steps
        size = rows["batch_size"][np.searchsorted(rows["tick"], tick, side="right") - 1]
        return int(size) if size.ndim == 0 else size

    def micro_batches(self, epoch: int) -> np.ndarray:
        """Return the number of examples in each micro-batch of pass `epoch`, in order.

        Without accumulation a micro-batch is the batch of an update.

        Args:
            epoch: which pass over the data, from 0.

        Raises:
            ValueError: if there is no such pass.

        >>> Clock(examples=100, epochs=3, batch_size=32).micro_batches(2).tolist()
        [32, 32, 32, 4]
        """
        if not 0 <= epoch < self.epochs:
            raise value_error("epoch", epoch, f"a pass from 0 to {self.epochs - 1}", "clock.micro_batches(0)")
        first, last = self.first_micro_batch(epoch), self.first_micro_batch(epoch + 1)
        return np.diff(self._examples_at_tick(np.arange(first, last + 1)))

    def first_micro_batch(self, epoch: int) -> int:
        """Return how many micro-batches are over when pass `epoch` begins.

        >>> Clock(examples=100, epochs=3, batch_size=32).first_micro_batch(2)
        8
        """
        return math.ceil(self._tick_at_example(self._example_at_epoch(Fraction(epoch))))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON; `from_dict` reads it back."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.batch_size, Profile):
            data["batch_size"] = self.batch_size.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Clock:
        """Return the clock that `to_dict` wrote."""
        data = dict(data)
        if isinstance(data.get("batch_size"), dict):
            data["batch_size"] = Profile.from_dict(data["batch_size"])
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise value_error("data", data, f"no keys {sorted(unknown)}", "Clock.from_dict(clock.to_dict())")
        return cls(**data)

    # What binding asks

    def forward(self, place: Place, length: Length) -> Place:
        """Return the place `length` behind `place`; it may lie past the end of the run."""
        return self._move(place, length, 1)

    def backward(self, place: Place, length: Length) -> Place:
        """Return the place `length` before `place`."""
        return self._move(place, length, -1)

    @property
    def end(self) -> Place:
        """Where the run ends."""
        return Place(Fraction(self._ticks), Fraction(self.total_examples))

    def segments_between(self, first: int, last: int | None) -> list[tuple[int, Segment]]:
        """Return (tick, segment) for each segment that the ticks [first, last) meet.

        The last segment goes on for ever, so that ticks past the end of the run meet it too.
        """
        index = max(0, bisect.bisect_right(self._segments, first, key=lambda segment: segment.tick) - 1)
        met = []
        for segment in self._segments[index:]:
            if last is not None and segment.tick >= last:
                break
            met.append((max(first, segment.tick), segment))
        return met

    def example_at_tick(self, tick: Fraction) -> Fraction:
        """Return the examples consumed at a tick, in between by the straight line."""
        segment = self._segment(tick, 0)
        whole, part = divmod(tick - segment.tick, segment.pass_ticks)
        full = segment.pass_ticks - 1
        if part > full:  # within the last, possibly partial batch of a pass
            seen = full * segment.micro_batch
            within = seen + (part - full) * (segment.pass_examples - seen)
        else:
            within = part * segment.micro_batch
        return segment.example + whole * segment.pass_examples + within

    def _tick_at_example(self, example: Fraction) -> Fraction:
        segment = self._segment(example, 1)
        whole, part = divmod(example - segment.example, segment.pass_examples)
        full = (segment.pass_ticks - 1) * segment.micro_batch
        if part > full:
            within = segment.pass_ticks - 1 + (part - full) / (segment.pass_examples - full)
        else:
            within = part / segment.micro_batch
        return segment.tick + whole * segment.pass_ticks + within

    def _examples_at_tick(self, tick: np.ndarray) -> np.ndarray:
        rows = self._columns
        tick = np.clip(tick, 0, self._ticks)
        row = np.searchsorted(rows["tick"], tick, side="right") - 1
        tick, passes = tick - rows["tick"][row], rows["pass_ticks"][row]
        whole, part = tick // passes, tick % passes
        return rows["example"][row] + whole * rows["pass_examples"][row] + part * rows["micro_batch"][row]

    def _move(self, place: Place, length: Length, sign: int) -> Place:
        amount = sign * length.exact
        if length.unit == "steps":
            tick = place.tick + amount * self.gradient_accumulation_steps
            return Place(tick, self.example_at_tick(tick))
        assert place.example is not None
        if length.unit == "epochs":
            example = self._example_at_epoch(self._epoch_at_example(place.example) + amount)
        elif length.unit == "fraction":
            example = place.example + amount * self.total_examples
        else:
            example = place.example + amount
        return Place(self._tick_at_example(example), example)

    def _example_at_epoch(self, epoch: Fraction) -> Fraction:
        index = max(0, bisect.bisect_right(self._runs, epoch, key=lambda run: Fraction(run.epoch)) - 1)
        run = self._runs[index]
        return run.example + (epoch - run.epoch) * run.examples

    def _epoch_at_example(self, example: Fraction) -> Fraction:
        index = max(0, bisect.bisect_right(self._runs, example, key=lambda run: Fraction(run.example)) - 1)
        run = self._runs[index]
        return run.epoch + (example - run.example) / run.examples

    def _segment(self, value: Fraction, column: int) -> Segment:
        index = bisect.bisect_right(self._segments, value, key=lambda segment: Fraction(segment[column])) - 1
        return self._segments[max(0, index)]

    # How the run is laid out, worked out once

    @cached_property
    def _stretches(self) -> list[Stretch]:
        if isinstance(self.batch_size, Profile):
            rounding = Rounding(
                self.multiple_of, self.min_batch_size or self.multiple_of, self.max_batch_size
            )
            return stretches(self.batch_size, self.examples, self.epochs, rounding)
        return [Stretch("examples", (Fraction(0),), (self.batch_size,), None)]

    @cached_property
    def _layout(self) -> tuple[list[Segment], list[Passes]]:
        return lay_out(
            self._stretches,
            self.examples,
            self.epochs,
            self.drop_remainder,
            self.gradient_accumulation_steps,
        )

    @property
    def _segments(self) -> list[Segment]:
        return self._layout[0]

    @property
    def _runs(self) -> list[Passes]:
        return self._layout[1]

    @property
    def _ticks(self) -> int:
        last = self._segments[-1]
        return last.tick + last.ticks

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        names = ("tick", "example", "micro_batch", "pass_ticks", "pass_examples", "batch_size")
        rows = {name: np.array([getattr(s, name) for s in self._segments], "int64") for name in names}
        # One row more, so that the end of the run is a row of its own and the total holds from there.
        rows["tick"] = np.append(rows["tick"], self._ticks)
        rows["example"] = np.append(rows["example"], self.total_examples)
        for name in names[2:]:
            rows[name] = np.append(rows[name], rows[name][-1])
        return rows


def _count(name: str, value: Any) -> int:
    value = number(name, value, _EXAMPLE)
    if not isinstance(value, int):
        raise type_error(name, value, "a whole number", _EXAMPLE)
    if value < 1:
        raise value_error(name, value, "a whole number, 1 or more", _EXAMPLE)
    return value
