"""Shapes: pure functions f on [0, 1] with f(0) = 0 and f(1) = 1, along which a phase moves.

A phase from `a` to `b` has the value `a (1 - f(t)) + b f(t)` at progress `t`. Builtin formulas take the
array module as their first argument, so that numpy and `keras.ops` run the same line.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from kwarmup.errors import type_error, value_error
from kwarmup.length import number


@final
@dataclass(frozen=True)
class Shape:
    """A shape with a name, so that it can be printed, compared and written to JSON.

    Args:
        name: what the shape is called; registered names can be loaded from JSON.
        formula: `formula(xp, t, **arguments)` with `xp` either numpy or `keras.ops`;
            for a shape of the user, `formula(t)`.
        arguments: the keyword arguments of the formula, in order.
        free: whether f(0) and f(1) may be anything (only `curve` uses such shapes).
        per_step: whether the formula is given the updates since the phase began, a number
            from 0 up, in place of the progress from 0 to 1.
        geometric: whether the formula also takes `rate`, the logarithm of end over start.

    Example:

    >>> cosine(0.5)
    0.5
    """

    name: str
    formula: Callable[..., Any]
    arguments: tuple[tuple[str, int | float], ...] = ()
    free: bool = False
    per_step: bool = False
    geometric: bool = False
    custom: bool = field(default=False, compare=False)

    def evaluate(self, xp: Any, t: Any, rate: Any = None) -> Any:
        """Return f(t) with the array module `xp`; `rate` only reaches a geometric shape."""
        if self.custom:
            return self.formula(t)
        arguments = dict(self.arguments)
        if self.geometric:
            arguments["rate"] = rate
        return self.formula(xp, t, **arguments)

    def __call__(self, t: Any) -> Any:
        """Return f(t) in float64, for a look at the shape itself."""
        value = np.asarray(self.evaluate(np, np.asarray(t, "float64"), rate=-1.0), "float64")
        return value.item() if value.ndim == 0 else value

    def __repr__(self) -> str:
        if self.custom:
            return repr(self.name)
        if not self.arguments:
            return f"shapes.{self.name}"
        return f"shapes.{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments)})"


def _linear(xp: Any, t: Any) -> Any:
    return t


def _cosine(xp: Any, t: Any) -> Any:
    return 0.5 - 0.5 * xp.cos(math.pi * t)


def _sqrt(xp: Any, t: Any) -> Any:
    return xp.sqrt(t)


def _exponential(xp: Any, t: Any, rate: Any) -> Any:
    # A phase between equal values has rate 0, where every finite f gives the same value.
    still = xp.equal(rate, 0)
    return xp.expm1(rate * t) / xp.where(still, xp.ones_like(rate), xp.expm1(rate))


linear = Shape("linear", _linear)
cosine = Shape("cosine", _cosine)
sqrt = Shape("sqrt", _sqrt)
exponential = Shape("exponential", _exponential, geometric=True)


def polynomial(power: float) -> Shape:
    """Return the shape `1 - (1 - t) ** power`: the convention of Keras, torch and optax.

    Args:
        power: above 0. At 1 it is linear; above 1 it moves early and lands gently.

    Raises:
        ValueError: if `power` is not above 0.

    >>> polynomial(2)(0.5)
    0.75
    """
    power = number("power", power, "polynomial(power=2)")
    if power <= 0:
        raise value_error("power", power, "a number above 0", "polynomial(power=2)")
    return Shape("polynomial", _polynomial, (("power", power),))


def _polynomial(xp: Any, t: Any, power: float) -> Any:
    return 1 - (1 - t) ** power


def inverse_sqrt(timescale: float) -> Shape:
    """Return the free shape `sqrt(timescale / (timescale + n))`, n updates after the phase began.

    Args:
        timescale: updates, above 0.

    Raises:
        ValueError: if `timescale` is not above 0.

    >>> inverse_sqrt(4000)(12000)
    0.5
    """
    timescale = number("timescale", timescale, "inverse_sqrt(timescale=4000)")
    if timescale <= 0:
        raise value_error("timescale", timescale, "updates, above 0", "inverse_sqrt(timescale=4000)")
    return Shape("inverse_sqrt", _inverse_sqrt, (("timescale", timescale),), free=True, per_step=True)


def _inverse_sqrt(xp: Any, t: Any, timescale: float) -> Any:
    return 1 / xp.sqrt(1 + t / timescale)


_NAMED: dict[str, Shape | Callable[..., Shape]] = {
    shape.name: shape for shape in (linear, cosine, sqrt, exponential)
}
_NAMED.update(polynomial=polynomial, inverse_sqrt=inverse_sqrt)
_EXAMPLES = {"polynomial": "shapes.polynomial(power=2)", "inverse_sqrt": "shapes.inverse_sqrt(timescale=4000)"}


def register(function: Callable[..., Any], name: str | None = None, factory: bool = False) -> Any:
    """Give a function f(t) a name, under which JSON and saved models find it again.

    Use it as a decorator, in a module that the loading program imports too.

    Args:
        function: f(t) with f(0) = 0 and f(1) = 1, made of operators and `keras.ops`.
        name: the name; by default the function's own.
        factory: whether `function` is not f itself but makes a `Shape` from keyword arguments.

    Raises:
        ValueError: if the name is taken by another shape, or f(0) is not 0 or f(1) not 1.

    Example:

    >>> @register
    ... def smoothstep(t):
    ...     return t * t * (3 - 2 * t)
    >>> as_shape("smoothstep")(0.5)
    0.5
    """
    name = name or function.__name__
    entry = function if factory else _custom(function, name)
    taken = _NAMED.get(name)
    # The same function defined anew (a module reloaded, a notebook cell run twice) is no clash.
    if taken is not None and _origin(taken) != _origin(entry):
        raise value_error("name", name, "a name that no other shape has", f"register(f, name='my_{name}')")
    _NAMED[name] = entry
    return function


def _origin(shape: Any) -> tuple[Any, Any]:
    function = shape.formula if isinstance(shape, Shape) else shape
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def as_shape(shape: "str | Shape | Callable[[Any], Any]", free: bool = False) -> Shape:
    """Return the `Shape` for a name, a shape or a function f(t), as Keras takes activations.

    A function must work on tensors: operators and `keras.ops`, not `math` or numpy. Unless `free`,
    f(0) = 0 and f(1) = 1 are checked to 1e-6.

    Raises:
        TypeError: if it is none of the three.
        ValueError: if the name is unknown, or the function has other values at 0 and 1.

    Example:

    >>> as_shape("cosine")
    shapes.cosine
    >>> as_shape(lambda t: t * t)(0.5)
    0.25
    """
    if isinstance(shape, str):
        entry = _NAMED.get(shape)
        if isinstance(entry, Shape):
            return entry
        if shape in _EXAMPLES:
            raise value_error("shape", shape, "a shape with its arguments", f"shape={_EXAMPLES[shape]}")
        names = ", ".join(repr(name) for name, entry in _NAMED.items() if isinstance(entry, Shape))
        raise value_error("shape", shape, f"one of {names}, or a function f(t)", 'shape="cosine"')
    if not isinstance(shape, Shape):
        if not callable(shape) or isinstance(shape, type):
            raise type_error("shape", shape, "a name or a function f(t)", 'shape="cosine"')
        for known in _NAMED.values():
            if isinstance(known, Shape) and known.custom and known.formula is shape:
                return known
        shape = _custom(shape, getattr(shape, "__name__", type(shape).__name__), free)
    if shape.free and not free:
        raise value_error("shape", shape, "a shape with f(0) = 0 and f(1) = 1", f"curve({shape!r})")
    return shape


def _custom(function: Callable[[Any], Any], name: str, free: bool = False) -> Shape:
    if not free:
        ends = [float(function(np.float64(t))) for t in (0, 1)]
        if not np.allclose(ends, [0, 1], rtol=0, atol=1e-6):
            raise value_error(
                "shape",
                f"{name} with f(0) = {ends[0]:g}, f(1) = {ends[1]:g}",
                "a function with f(0) = 0 and f(1) = 1",
                "decay(shape=lambda t: t * t), or curve(f) for a function of any values",
            )
    return Shape(name, function, free=free, custom=True)


def to_json(shape: Shape) -> Any:
    """Return what JSON holds of a shape: its name, or its name and arguments.

    Raises:
        ValueError: if the shape is a function without a registered name.
    """
    if hasattr(shape.formula, "to_json"):
        return shape.formula.to_json()
    if _NAMED.get(shape.name) is None or (shape.custom and _NAMED[shape.name] != shape):
        raise value_error(
            "shape",
            shape.name,
            "a shape with a registered name, to be written to JSON",
            f"@kwarmup.shapes.register above `def {shape.name}(t): ...`, in a module of yours",
        )
    return {"name": shape.name, **dict(shape.arguments)} if shape.arguments else shape.name


def from_json(data: Any) -> Shape:
    """Return the shape that `to_json` wrote.

    Raises:
        ValueError: if no shape of that name is registered.

    >>> from_json({"name": "polynomial", "power": 2})
    shapes.polynomial(power=2)
    """
    name, arguments = (data, {}) if isinstance(data, str) else (data.get("name"), dict(data))
    arguments.pop("name", None)
    entry = _NAMED.get(name)
    if entry is None:
        raise value_error("shape", name, "a registered shape", f"import the module that registers {name!r} first")
    if isinstance(entry, Shape):
        return entry
    return entry(**arguments)


#: Functions from a foreign object to (shape, scale) or None; the floor that knows Keras adds one.
ADAPTERS: list[Callable[[Any], tuple[Shape, float] | None]] = []


def adapt(thing: Any) -> tuple[Shape, float] | None:
    """Return the free shape and the scale that stand for a foreign schedule, `None` if none does."""
    for adapter in ADAPTERS:
        adapted = adapter(thing)
        if adapted is not None:
            return adapted
    return None
