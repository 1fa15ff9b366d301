"""Shapes: pure functions f on [0, 1] with f(0) = 0 and f(1) = 1, along which a phase moves.

A phase from `a` to `b` has the value `a (1 - f(t)) + b f(t)` at progress `t`. Builtin formulas take the
array module as their first argument, so that numpy and `keras.ops` run the same line.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from kwarmup.errors import Code, type_error, value_error
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
        custom: whether it is a shape of the user, with `formula(t)`.
        backward: the shape u -> f(1 - u), where f is so steep at its end that 1 - t has lost its digits.

    Example:

    >>> round(cosine(0.5), 6)
    0.5
    """

    name: str
    formula: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...] = ()
    free: bool = False
    per_step: bool = False
    geometric: bool = False
    custom: bool = field(default=False, compare=False)
    backward: "Shape | None" = field(default=None, compare=False)

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
    arguments = (("power", power),)
    backward = Shape("polynomial", _polynomial_backward, arguments) if power < 1 else None
    return Shape("polynomial", _polynomial, arguments, backward=backward)


def _polynomial(xp: Any, t: Any, power: float) -> Any:
    return 1 - (1 - t) ** power


def _polynomial_backward(xp: Any, u: Any, power: float) -> Any:
    return 1 - u**power


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


def cosine_part(begin: float, end: float) -> Shape:
    """Return the free shape `cosine(begin + (end - begin) t)`: a phase that is cut at the edge of the run.

    Args:
        begin: progress of the whole cosine at t = 0, from 0 to 1.
        end: progress at t = 1, from `begin` to 1.

    Raises:
        ValueError: if they are not in this order within 0 and 1.

    >>> cosine_part(begin=0.5, end=1)([0, 1]).round(6).tolist()
    [0.5, 1.0]
    """
    write = "cosine_part(begin=0.1, end=1)"
    begin, end = number("begin", begin, write), number("end", end, write)
    if not 0 <= begin <= end <= 1:
        raise value_error("begin/end", (begin, end), "0 <= begin <= end <= 1", write)
    return Shape("cosine_part", _cosine_part, (("begin", begin), ("end", end)), free=True)


def _cosine_part(xp: Any, t: Any, begin: float, end: float) -> Any:
    return _cosine(xp, begin + (end - begin) * t)


def damped(begin: float, end: float, steps: float, gamma: float) -> Shape:
    """Return the free shape `(begin + (end - begin) n / steps) gamma ** n`, n updates after the phase began.

    Args:
        begin: value of the line at n = 0.
        end: value of the line at n = `steps`.
        steps: updates, above 0.
        gamma: factor per update, above 0.

    Raises:
        ValueError: if `steps` or `gamma` is not above 0.

    >>> damped(begin=0, end=1, steps=2, gamma=0.5)(2)
    0.25
    """
    write = "damped(begin=0, end=1, steps=2000, gamma=0.9994)"
    given = {"begin": begin, "end": end, "steps": steps, "gamma": gamma}
    arguments = {name: number(name, value, write) for name, value in given.items()}
    for name in ("steps", "gamma"):
        if arguments[name] <= 0:
            raise value_error(name, arguments[name], "a number above 0", write)
    return Shape("damped", _damped, tuple(arguments.items()), free=True, per_step=True)


def _damped(xp: Any, t: Any, begin: float, end: float, steps: float, gamma: float) -> Any:
    # gamma ** t with gamma rounded to float32 drifts by t times that rounding; its logarithm does not.
    return (begin + (end - begin) * (t / steps)) * xp.exp(math.log(gamma) * t)


def untuned(beta_2: float, first: float = 0) -> Shape:
    """Return the free shape `1 - exp(-(1 - beta_2) (first + n))`, n updates after the phase began.

    Args:
        beta_2: decay of Adam's second moment, above 0 and below 1.
        first: what the first update counts as, 0 or more.

    Raises:
        ValueError: if an argument is out of range.

    Paper: Ma and Yarats 2021, "On the Adequacy of Untuned Warmup for Adaptive Optimization", section 5.

    >>> round(untuned(beta_2=0.999)(1000), 6)
    0.632121
    """
    beta_2, first = _adam("untuned", beta_2, first, 0)
    return Shape("untuned", _untuned, (("beta_2", beta_2), ("first", first)), free=True, per_step=True)


def _untuned(xp: Any, t: Any, beta_2: float, first: float) -> Any:
    return -xp.expm1(-(1 - beta_2) * (t + first))


def radam(beta_2: float, first: float = 0) -> Shape:
    """Return the free shape of RAdam's rectification, 0 where the variance has no bound.

    `sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))` with
    `rho_inf = 2 / (1 - beta_2) - 1` and `rho = rho_inf - 2 t beta_2 ** t / (1 - beta_2 ** t)`, where rho > 4;
    t = `first` + n, n updates after the phase began.

    Args:
        beta_2: decay of Adam's second moment, above 0.6 (below, rho never reaches 4) and below 1.
        first: what the first update counts as, 0 or more.

    Raises:
        ValueError: if an argument is out of range.

    Paper: Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", algorithm 2.

    >>> radam(beta_2=0.999)([4, 5, 100]).round(6).tolist()
    [0.0, 0.017312, 0.215335]
    """
    beta_2, first = _adam("radam", beta_2, first, 0.6)
    return Shape("radam", _radam, (("beta_2", beta_2), ("first", first)), free=True, per_step=True)


def _radam(xp: Any, t: Any, beta_2: float, first: float) -> Any:
    # rho as it stands subtracts two numbers near rho_inf and leaves nothing of its digits in float32.
    # With c = -log(beta_2) and L(z) = coth(z) - 1 / z it is L(c / 2) + t (1 - L(c t / 2)), free of that.
    c = -math.log(beta_2)
    rest = _langevin(c / 2)
    limit = rest + 2 / c
    t = t + first
    early = rest + t * (1 - _langevin(xp.minimum(c * t, 1.0) / 2))
    x = xp.maximum(c * t, 1.0)
    late = limit + 2 * t * xp.exp(-x) / xp.expm1(-x)
    rho = xp.maximum(xp.where(x > 1, late, early), 4.0)
    return xp.sqrt((rho - 4) / (limit - 4) * ((rho - 2) / (limit - 2)) * (limit / rho))


def _langevin(z: Any) -> Any:
    """coth(z) - 1 / z for z from 0 to 1/2, by its continued fraction."""
    s = z * z
    return z / (3 + s / (5 + s / (7 + s / (9 + s / (11 + s / 13)))))


def _adam(shape: str, beta_2: Any, first: Any, above: float) -> tuple[int | float, int | float]:
    write = f"{shape}(beta_2=0.999)"
    beta_2, first = number("beta_2", beta_2, write), number("first", first, write)
    if not above < beta_2 < 1:
        raise value_error("beta_2", beta_2, f"a number above {above} and below 1", write)
    if first < 0:
        raise value_error("first", first, "0 or more", write)
    return beta_2, first


def reciprocal(shape: "str | Shape | dict[str, Any]", start: float, to: float, limit: float) -> Shape:
    """Return the free shape `1 / v(t)`, at most `limit`, where v moves from `start` to `to` along `shape`.

    The batch size that grows as a learning rate decays (Smith et al. 2018): see `Plan.grow_batch`.

    Args:
        shape: along which v moves.
        start: v at t = 0, 0 or more.
        to: v at t = 1, 0 or more.
        limit: the largest value, above 0.

    Raises:
        ValueError: if `start` or `to` is negative, or `limit` is not above 0.

    >>> reciprocal("linear", start=1, to=0, limit=8)([0, 0.5, 0.75, 1]).tolist()
    [1.0, 2.0, 4.0, 8.0]
    """
    write = 'reciprocal("linear", start=1, to=0, limit=8)'
    inner = from_json(shape) if isinstance(shape, dict) else as_shape(shape, free=True)
    numbers = {"start": start, "to": to, "limit": limit}
    numbers = {name: number(name, value, write) for name, value in numbers.items()}
    for name, value in numbers.items():
        if value < 0 or name == "limit" and value == 0:
            raise value_error(name, value, "a number above 0", write)
    return Shape("reciprocal", _reciprocal, (("shape", inner), *numbers.items()), free=True)


def _reciprocal(xp: Any, t: Any, shape: Shape, start: float, to: float, limit: float) -> Any:
    rate = math.log(to / start) if shape.geometric and start != to else 0.0
    f = shape.evaluate(xp, t, rate=rate + xp.zeros_like(t))
    return 1 / xp.maximum(start * (1 - f) + to * f, 1 / limit)


_NAMED: dict[str, Shape | Callable[..., Shape]] = {
    shape.name: shape for shape in (linear, cosine, sqrt, exponential)
}
_NAMED.update(
    polynomial=polynomial,
    inverse_sqrt=inverse_sqrt,
    cosine_part=cosine_part,
    damped=damped,
    untuned=untuned,
    radam=radam,
    reciprocal=reciprocal,
)
_EXAMPLES = {
    "polynomial": "shapes.polynomial(power=2)",
    "inverse_sqrt": "shapes.inverse_sqrt(timescale=4000)",
    "cosine_part": "shapes.cosine_part(begin=0.1, end=1)",
    "damped": "shapes.damped(begin=0, end=1, steps=2000, gamma=0.9994)",
    "untuned": "shapes.untuned(beta_2=0.999)",
    "radam": "shapes.radam(beta_2=0.999)",
    "reciprocal": "shapes.reciprocal('cosine', start=1, to=0, limit=8)",
}


def register(function: Callable[..., Any], name: str | None = None, factory: bool = False) -> Any:
    """Give a function f(t) a name, under which JSON and saved models find it again.

    Use it as a decorator, in a module that the loading program imports too.

    Args:
        function: f(t), made of operators and `keras.ops`; only `curve` takes it unless f(0) = 0 and f(1) = 1.
        name: the name; by default the function's own.
        factory: whether `function` is not f itself but makes a `Shape` from keyword arguments.

    Raises:
        ValueError: if the name is taken by another shape.

    Example:

    >>> @register
    ... def smoothstep(t):
    ...     return t * t * (3 - 2 * t)
    >>> as_shape("smoothstep")(0.5)
    0.5
    """
    name = name or function.__name__
    entry = function if factory else Shape(name, function, free=_ends(function) != (0, 1), custom=True)
    taken = _NAMED.get(name)
    # The same function defined anew (a module reloaded, a notebook cell run twice) is no clash.
    if taken is not None and _origin(taken) != _origin(entry):
        raise value_error("name", name, "a name that no other shape has", f"register(f, name='my_{name}')")
    _NAMED[name] = entry
    return function


def _origin(shape: Any) -> tuple[Any, Any]:
    function = shape.formula if isinstance(shape, Shape) else shape
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def as_shape(
    shape: "str | Shape | Callable[[Any], Any]", free: bool = False, argument: str = "shape"
) -> Shape:
    """Return the `Shape` for a name, a shape or a function f(t), as Keras takes activations.

    A function must work on tensors: operators and `keras.ops`, not `math` or numpy. Unless `free`,
    f(0) = 0 and f(1) = 1 are checked to 1e-6. Errors call it `argument`.

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
        shape = _named(shape, argument)
    if not isinstance(shape, Shape):
        if not callable(shape) or isinstance(shape, type):
            raise type_error(argument, shape, "a name or a function f(t)", f'{argument}="cosine"')
        known = (entry for entry in _NAMED.values() if isinstance(entry, Shape))
        registered = next((entry for entry in known if entry.custom and entry.formula is shape), None)
        shape = registered or _custom(shape, getattr(shape, "__name__", type(shape).__name__), free)
    if shape.free and not free:
        raise value_error(argument, shape, "a shape with f(0) = 0 and f(1) = 1", f"curve({shape!r})")
    return shape


def _named(name: str, argument: str) -> Shape:
    entry = _NAMED.get(name)
    if isinstance(entry, Shape):
        return entry
    if name in _EXAMPLES:
        raise value_error(argument, name, "a shape with its arguments", f"{argument}={_EXAMPLES[name]}")
    ready = [repr(name) for name, entry in _NAMED.items() if isinstance(entry, Shape) and not entry.free]
    raise value_error(
        argument, name, f"one of {', '.join(ready)}, or a function f(t)", f'{argument}="cosine"'
    )


def _custom(function: Callable[[Any], Any], name: str, free: bool = False) -> Shape:
    if not free and (ends := _ends(function)) != (0, 1):
        raise value_error(
            "shape",
            Code(f"{name} with f(0) = {ends[0]:g}, f(1) = {ends[1]:g}"),
            "a function with f(0) = 0 and f(1) = 1",
            "decay(shape=lambda t: t * t), or curve(f) for a function of any values",
        )
    return Shape(name, function, free=free, custom=True)


def _ends(function: Callable[[Any], Any]) -> tuple[float, float]:
    """f(0) and f(1), rounded to 6 digits."""
    first, last = (round(float(function(np.float64(t))), 6) for t in (0, 1))
    return first, last


def to_json(shape: Shape) -> Any:
    """Return what JSON holds of a shape: its name, or its name and arguments.

    Raises:
        ValueError: if the shape is a function without a registered name.
    """
    if hasattr(shape.formula, "to_json"):
        return shape.formula.to_json()
    if _NAMED.get(shape.name) is None or (shape.custom and _NAMED[shape.name] != shape):
        name = shape.name if shape.name.isidentifier() else "my_shape"
        raise value_error(
            "shape",
            shape.name,
            "a shape with a registered name, to be written to JSON",
            f"@kwarmup.shapes.register above `def {name}(t): ...`, in a module of yours",
        )
    if not shape.arguments:
        return shape.name
    plain = {key: to_json(value) if isinstance(value, Shape) else value for key, value in shape.arguments}
    return {"name": shape.name, **plain}


def from_json(data: Any) -> Shape:
    """Return the shape that `to_json` wrote.

    Raises:
        ValueError: if no shape of that name is registered.

    >>> from_json({"name": "polynomial", "power": 2})
    shapes.polynomial(power=2)
    """
    arguments = {"name": data} if isinstance(data, str) else data
    if not isinstance(arguments, dict) or not isinstance(arguments.get("name"), str):
        raise value_error("shape", data, "the name of a shape, with its arguments", '{"name": "cosine"}')
    name: str = arguments["name"]
    arguments = {key: arguments[key] for key in arguments if key != "name"}
    entry = _NAMED.get(name)
    if entry is None:
        raise value_error(
            "shape", name, "a registered shape", f"import the module that registers {name!r} first"
        )
    try:
        inspect.signature(_no_arguments if isinstance(entry, Shape) else entry).bind(**arguments)
    except TypeError as error:
        expected, write = f"the arguments of {name!r} ({error})", _EXAMPLES.get(name, name)
        raise value_error("shape", data, expected, write) from None
    return entry if isinstance(entry, Shape) else entry(**arguments)


def _no_arguments() -> None:
    """The signature of a shape that is not made by a function."""


#: Functions from a foreign object to (shape, scale) or None; the floor that knows Keras adds one.
ADAPTERS: list[Callable[[Any], tuple[Shape, float] | None]] = []


def adapt(thing: Any) -> tuple[Shape, float] | None:
    """Return the free shape and the scale that stand for a foreign schedule, `None` if none does."""
    for adapter in ADAPTERS:
        adapted = adapter(thing)
        if adapted is not None:
            return adapted
    return None
