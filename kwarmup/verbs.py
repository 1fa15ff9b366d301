"""The words profiles are written in: warmup, hold, decay, the named decays, and curve.

Every verb takes one length, `steps=`, `epochs=`, `examples=` or `fraction=` (of the whole run), or none:
then the phase takes the rest of the run. Values are relative to the peak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

from kwarmup import shapes
from kwarmup.errors import Code, type_error
from kwarmup.length import Length, number
from kwarmup.profile import Phase, Profile
from kwarmup.shapes import Shape, as_shape

if TYPE_CHECKING:
    from typing_extensions import Unpack

Number = int | float
ShapeLike = str | Shape | Callable[[Any], Any]


class LengthKeywords(TypedDict, total=False):
    """The keywords of a length; exactly one is given, or none for the rest of the run.

    `steps` counts updates, `epochs` passes over the data, `examples` training examples, and
    `fraction` is a part of the whole run, from 0 to 1.
    """

    steps: Number
    epochs: Number
    examples: Number
    fraction: Number


def warmup(
    *bare: Any, start: Number = 0, shape: ShapeLike = "linear", **length: Unpack[LengthKeywords]
) -> Profile:
    """Rise from `start` to the peak along `shape`.

    `start (1 - f(t)) + f(t)`, with t = 0 at the first update of the phase and t = 1 at the first update
    after it: `warmup(steps=W)` gives 0 at update 0 and the peak at update W, as Keras and optax do.
    For pytorch_warmup's and DeepSpeed's rule (the peak at update W - 1) write `warmup(steps=W - 1)`.

    Args:
        start: value at the first update, relative to the peak; above 0 for `shape="exponential"`.
        shape: a name, a shape or a function f(t) with f(0) = 0 and f(1) = 1.
        **length: `steps=`, `epochs=`, `examples=` or `fraction=`; none for the rest of the run.

    Raises:
        TypeError: if a length is a bare number or given twice.
        ValueError: if a length is out of range, the shape is unknown, or it is exponential from 0.

    Paper: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.2 (gradual warmup).

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(warmup(steps=4))(np.arange(6)).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return _profile("warmup", bare, as_shape(shape), start, 1, length)


def hold(value: Number | None = None, *bare: Any, **length: Unpack[LengthKeywords]) -> Profile:
    """Stay at `value`, or where the last phase ended.

    Args:
        value: relative to the peak; given, the phase begins with a jump to it.
        **length: `steps=`, `epochs=`, `examples=` or `fraction=`; none for the rest of the run.

    Raises:
        TypeError: if a length is a bare number or given twice.
        ValueError: if a length is out of range.

    Paper: Goyal et al. 2017, section 2.2 (constant warmup, `hold(0.1, epochs=5) >> hold(1)`).

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(hold(0.1, steps=2) >> hold(1))(np.arange(4)).tolist()
    [0.1, 0.1, 1.0, 1.0]
    """
    return _profile("hold", bare and (value, *bare), shapes.linear, value, None, length)


def decay(
    *bare: Any,
    to: Number = 0,
    shape: ShapeLike = "linear",
    start: Number | None = None,
    **length: Unpack[LengthKeywords],
) -> Profile:
    """Move to `to` along `shape`, from where the last phase ended: down, or up where `to` is above.

    `a (1 - f(t)) + to f(t)`, with `a` the value at the begin. `shape="sqrt"` going down is 1 - sqrt(t).

    Args:
        to: value that is reached at the end, relative to the peak.
        shape: a name, a shape or a function f(t) with f(0) = 0 and f(1) = 1.
        start: jump to this value first; `None` to go on from where the last phase ended.
        **length: `steps=`, `epochs=`, `examples=` or `fraction=`; none for the rest of the run.

    Raises:
        TypeError: if a length is a bare number or given twice.
        ValueError: if a length is out of range or the shape is unknown.

    Paper: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", section 3 (the 1 - sqrt cooldown).

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(decay(steps=4, shape="sqrt"))(np.arange(5)).round(3).tolist()
    [1.0, 0.5, 0.293, 0.134, 0.0]
    """
    return _profile("decay", bare, as_shape(shape), start, to, length)


def linear(
    *bare: Any, to: Number = 0, start: Number | None = None, **length: Unpack[LengthKeywords]
) -> Profile:
    """Move to `to` along a straight line; see `decay` for the arguments.

    Paper: Defazio et al. 2023, "When, Why and How Much? Adaptive Learning Rate Scheduling by
    Refinement" (linear decay to 0 as the default).

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(linear(steps=4, to=0.2))(np.arange(5)).round(3).tolist()
    [1.0, 0.8, 0.6, 0.4, 0.2]
    """
    return _profile("linear", bare, shapes.linear, start, to, length)


def cosine(
    *bare: Any, to: Number = 0, start: Number | None = None, **length: Unpack[LengthKeywords]
) -> Profile:
    """Move to `to` along half a cosine wave; see `decay` for the arguments.

    Paper: Loshchilov and Hutter 2017, "SGDR", equation 5 (one period).

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(cosine(steps=4))(np.arange(6)).round(4).tolist()
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """
    return _profile("cosine", bare, shapes.cosine, start, to, length)


def polynomial(
    *bare: Any,
    power: Number,
    to: Number = 0,
    start: Number | None = None,
    **length: Unpack[LengthKeywords],
) -> Profile:
    """Move to `to` as `to + (a - to) (1 - t) ** power`, as Keras, torch and optax do.

    Args:
        power: above 0; at 1 a straight line, above 1 early and then gently.
        to: value that is reached at the end, relative to the peak.
        start: jump to this value first; `None` to go on from where the last phase ended.
        **length: `steps=`, `epochs=`, `examples=` or `fraction=`; none for the rest of the run.

    Raises:
        TypeError: if a length is a bare number or given twice.
        ValueError: if `power` is not above 0, or a length is out of range.

    Paper: Liu et al. 2015, "ParseNet" (the "poly" policy).

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(polynomial(power=2, steps=4))(np.arange(5)).tolist()
    [1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    return _profile("polynomial", bare, shapes.polynomial(power), start, to, length)


def exponential(
    *bare: Any, to: Number, start: Number | None = None, **length: Unpack[LengthKeywords]
) -> Profile:
    """Move to `to` by equal factors: `a (to / a) ** t`, a straight line on a logarithmic axis.

    Args:
        to: value that is reached at the end, relative to the peak; above 0.
        start: jump to this value first; `None` to go on from where the last phase ended.
        **length: `steps=`, `epochs=`, `examples=` or `fraction=`; none for the rest of the run.

    Raises:
        TypeError: if a length is a bare number or given twice.
        ValueError: if one end is 0, or a length is out of range.

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(exponential(to=0.01, steps=2))(np.arange(3)).round(6).tolist()
    [1.0, 0.1, 0.01]
    """
    return _profile("exponential", bare, shapes.exponential, start, to, length)


def curve(
    function: ShapeLike, *bare: Any, low: Number = 0, high: Number = 1, **length: Unpack[LengthKeywords]
) -> Profile:
    """Follow any function: `low (1 - f(t)) + high f(t)`, t from 0 to 1 over the phase.

    Args:
        function: f(t), made of operators and `keras.ops` so that it runs on tensors too; its values
            at 0 and 1 are free. Or a shape, such as `shapes.inverse_sqrt(timescale=4_000)`.
        low: value where f is 0, relative to the peak.
        high: value where f is 1.
        **length: `steps=`, `epochs=`, `examples=` or `fraction=`; none for the rest of the run.

    Raises:
        TypeError: if `function` is neither a name, a shape nor a function, or a length is a bare number.
        ValueError: if a length is out of range.

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(curve(lambda t: 4 * t * (1 - t), steps=4))(np.arange(5)).tolist()
    [0.0, 0.75, 1.0, 0.75, 0.0]
    """
    shape = as_shape(function, free=True)
    return _profile("curve", bare and (shape, *bare), shape, low, high, length)


def _profile(
    verb: str,
    bare: tuple[Any, ...],
    shape: Shape,
    start: Number | None,
    to: Number | None,
    length: Any,
) -> Profile:
    if bare:
        *before, last = map(repr, bare)
        write = f"{verb}({', '.join([*before, f'steps={last}'])})"
        received = Code(f"{verb}({', '.join([*before, last])})")
        raise type_error("length", received, "a keyword that names the unit", write)
    start = None if start is None else number("start", start, f"{verb}(start=0.1, epochs=5)")
    to = None if to is None else number("to", to, f"{verb}(to=0.1, epochs=5)")
    return Profile([Phase(shape, Length.read(verb, **length), start, to)])
