"""Profiles: what should happen, over lengths the author thought in. Symbolic; knows no clock.

`>>` joins in time, `*` scales in value. Values are relative to the peak: 1 is the peak.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from kwarmup import shapes
from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import UNITS, Length, number
from kwarmup.shapes import Shape


@final
@dataclass(frozen=True)
class Phase:
    """Go to a value along a shape over a length. Made by `warmup`, `hold`, `decay` and their kin.

    Args:
        shape: how it moves.
        length: for how long.
        start: value at its begin; `None` for where the last phase ended (1 in the first phase).
        to: value at its end; `None` to stay at `start`.

    Example:

    >>> from kwarmup import warmup
    >>> warmup(steps=500).phases[0].length
    Length(value=500, unit='steps')
    """

    shape: Shape
    length: Length
    start: int | float | None = None
    to: int | float | None = None

    def ends(self, before: float) -> tuple[float, float]:
        """Return the values at begin and end, `before` being where the last phase ended.

        For a free shape they are the values that stand for f = 0 and f = 1.

        Raises:
            ValueError: if the shape is geometric and one end is 0, or they differ in sign.
        """
        start = float(before if self.start is None else self.start)
        to = start if self.to is None else float(self.to)
        if self.shape.geometric and start * to <= 0:
            verb = "warmup(start=0.01, shape='exponential', " if to else "exponential(to=0.01, "
            raise value_error(
                "shape",
                Code(f"{self!r}, from {start:g} to {to:g}"),
                "both ends above 0, since an exponential never reaches 0",
                f"{verb}{self.length.keyword or 'epochs=5'})",
            )
        return start, to

    def end(self, start: float, to: float, steps: float | None = None) -> float | None:
        """Return the value that the phase ends with, moving between `start` and `to`.

        `None` where that depends on how many updates it lasts and `steps` does not tell.
        """
        if self.shape.per_step:
            if steps is None and self.length.unit == "steps":
                steps = self.length.value
            if steps is None:
                return None
            f = self.shape(steps)
        else:
            f = self.shape(1.0) if self.shape.free else 1.0
        return start * (1 - f) + to * f

    def __repr__(self) -> str:
        words = [self.length.keyword] if self.length.keyword else []
        if self.shape.free:
            verb = "curve"
            words = [repr(self.shape), *words]
            words += [f"low={self.start!r}"] if self.start != 0 else []
            words += [f"high={self.to!r}"] if self.to != 1 else []
        elif self.to is None:
            verb = "hold"
            words = ([] if self.start is None else [repr(self.start)]) + words
        elif self.start is not None and self.to == 1:
            verb = "warmup"
            words += [f"start={self.start!r}"] if self.start != 0 else []
            words += [f"shape={_quoted(self.shape)}"] if self.shape != shapes.linear else []
        else:
            verb = self.shape.name if self.shape.name in _DECAYS and not self.shape.custom else "decay"
            if verb == "decay":
                words.append(f"shape={_quoted(self.shape)}")
            words += [f"{key}={value!r}" for key, value in self.shape.arguments if verb != "decay"]
            words += [f"to={self.to!r}"] if self.to != 0 else []
            words += [f"start={self.start!r}"] if self.start is not None else []
        return f"{verb}({', '.join(words)})"


_WRITE = "Profile.from_dict(profile.to_dict())"
_DECAYS = ("linear", "cosine", "polynomial", "exponential")


def _quoted(shape: Shape) -> str:
    return repr(shape.name) if not shape.arguments else repr(shape)


@final
@dataclass(frozen=True, init=False, repr=False)
class Profile:
    """Phases in a row, times a scale: the plain constructor behind `>>` and `*`.

    Args:
        phases: profiles or phases, in order. Only the first may be scaled.
        scale: the peak; multiplies every value.

    A profile is immutable, hashable and comparable; its `repr` is the code that makes it. It is not
    callable, so that Keras cannot take it for a learning rate: bind it with `Schedule(profile)`.

    Raises:
        TypeError: if an item is not a profile.
        ValueError: if a profile is multiplied inside the chain, is empty, or two phases both take
            the rest of the run.

    Example:

    >>> from kwarmup import cosine, warmup
    >>> 0.1 * (warmup(steps=500) >> cosine(steps=9_500))
    0.1 * (warmup(steps=500) >> cosine(steps=9500))
    """

    phases: tuple[Phase, ...]
    scale: int | float

    def __init__(self, phases: "Iterable[Profile | Phase]", scale: int | float = 1):
        write = "Profile([warmup(steps=500), cosine(steps=9_500)])"
        if isinstance(phases, Profile | Phase) or not isinstance(phases, Iterable):
            raise type_error("phases", phases, "a list of profiles", write)
        flat: list[Phase] = []
        scale = number("scale", scale, "0.1 * (warmup(steps=500) >> cosine(steps=9_500))")
        for index, item in enumerate(phases):
            if isinstance(item, Phase):
                item = Profile._of((item,), 1)
            if not isinstance(item, Profile):
                raise type_error("phases", item, "a list of profiles", write)
            if index == 0:
                scale = _plain(scale * item.scale)
            elif item.scale != 1:
                raise value_error(
                    "*",
                    Code(f"{' >> '.join(map(repr, flat))} >> {item!r}"),
                    "the scale in front of the whole chain, since `>>` goes on from the value it has reached",
                    f"{item.scale!r} * ({' >> '.join(map(repr, (*flat, *item.phases)))})",
                )
            flat.extend(item.phases)
        if not flat:
            raise value_error("phases", Code("[]"), "at least one phase", "Profile([warmup(steps=500)])")
        self._check(flat)
        object.__setattr__(self, "phases", tuple(flat))
        object.__setattr__(self, "scale", scale)

    @classmethod
    def _of(cls, phases: tuple[Phase, ...], scale: int | float) -> "Profile":
        profile = object.__new__(cls)
        cls._check(phases)
        object.__setattr__(profile, "phases", phases)
        object.__setattr__(profile, "scale", scale)
        return profile

    @staticmethod
    def _check(phases: Iterable[Phase]) -> None:
        rests = [phase for phase in phases if phase.length.unit == "rest"]
        if len(rests) > 1:
            raise value_error(
                "length",
                Code(" and ".join(map(repr, rests))),
                "one phase at most that takes the rest of the run",
                "warmup(epochs=5) >> hold(fraction=0.5) >> cosine()",
            )
        end: float | None = 1.0
        for phase in phases:
            if end is None and phase.start is None:
                break  # Known only when bound; `ends` is asked again there.
            end = phase.end(*phase.ends(1.0 if end is None else end))

    @property
    def peak(self) -> float:
        """The largest value between which a phase moves, times the scale.

        >>> from kwarmup import cosine, warmup
        >>> (0.1 * (warmup(steps=500) >> cosine(steps=9_500))).peak
        0.1
        """
        values: list[float] = []
        end: float | None = 1.0
        for phase in self.phases:
            start, to = phase.ends(1.0 if end is None else end)
            end = phase.end(start, to)
            values += [start, to]
        return float(self.scale * max(values))

    def __rshift__(self, other: Any) -> "Profile":
        if isinstance(other, Profile):
            return Profile((self, other))
        adapted = shapes.adapt(other)
        if adapted is not None:
            shape, scale = adapted
            if self.scale != 1:
                raise value_error(
                    "*",
                    Code(f"{self!r} >> {shape.name}(...)"),
                    "one scale: a Keras schedule brings its own, the value it starts with",
                    f"{Profile._of(self.phases, 1)!r} >> {shape.name}(...)",
                )
            return Profile((self, Phase(shape, Length(), start=0, to=1))) * scale
        if isinstance(other, int | float):
            raise type_error(">>", other, "a profile on both sides", f"{self!r} >> hold({other!r})")
        return NotImplemented

    def __rrshift__(self, other: Any) -> "Profile":
        before = f"hold({other!r}, steps=500)" if isinstance(other, int | float) else "warmup(steps=500)"
        raise type_error(">>", other, "a profile on both sides", f"{before} >> {self!r}")

    def __mul__(self, factor: Any) -> "Profile":
        if isinstance(factor, Profile):
            raise type_error("*", factor, "a number", f"0.1 * ({self!r})")
        factor = number("*", factor, f"0.1 * ({self!r})")
        return Profile._of(self.phases, _plain(factor * self.scale))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        chain = " >> ".join(map(repr, self.phases))
        if self.scale == 1:
            return chain
        return f"{self.scale!r} * ({chain})" if len(self.phases) > 1 else f"{self.scale!r} * {chain}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: `scale` and `phases`. `from_dict` reads it back."""
        return {"scale": self.scale, "phases": [_phase_to_dict(phase) for phase in self.phases]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Profile":
        """Return the profile that `to_dict` wrote.

        Raises:
            ValueError: if a key is missing or unknown, or a shape is not registered.
        """
        if not isinstance(data, dict) or set(data) != {"scale", "phases"}:
            raise value_error("data", data, "the keys 'scale' and 'phases'", _WRITE)
        return cls([_phase_from_dict(phase) for phase in data["phases"]], data["scale"])

    def to_json(self) -> str:
        """Return `to_dict` as JSON text.

        >>> from kwarmup import warmup
        >>> print(warmup(steps=500).to_json())
        {"scale": 1, "phases": [{"shape": "linear", "start": 0, "to": 1, "steps": 500}]}
        """
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """Return the profile that `to_json` wrote.

        >>> from kwarmup import warmup
        >>> Profile.from_json(warmup(steps=500).to_json())
        warmup(steps=500)
        """
        return cls.from_dict(json.loads(text))


def _plain(value: int | float) -> int | float:
    return int(value) if value == int(value) else value


def _phase_to_dict(phase: Phase) -> dict[str, Any]:
    data: dict[str, Any] = {"shape": shapes.to_json(phase.shape), "start": phase.start, "to": phase.to}
    if phase.length.value is not None:
        data[phase.length.unit] = phase.length.value
    return data


def _phase_from_dict(data: dict[str, Any]) -> Phase:
    keys = ("shape", "start", "to", *UNITS)
    if not isinstance(data, dict) or "shape" not in data or set(data) - set(keys):
        raise value_error("phases", data, f"a shape and, of {', '.join(keys[1:])}, what it has", _WRITE)
    length = Length.read("phase", **{unit: data.get(unit) for unit in UNITS})
    values = [None if data.get(key) is None else number(key, data[key], _WRITE) for key in ("start", "to")]
    return Phase(shapes.from_json(data["shape"]), length, *values)
