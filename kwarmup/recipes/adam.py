"""Warmups that Adam's second moment sets: untuned_warmup, radam_warmup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kwarmup import shapes, verbs
from kwarmup.errors import Code, type_error, value_error
from kwarmup.length import number
from kwarmup.profile import Profile
from kwarmup.verbs import LengthKeywords, Number, ShapeLike

if TYPE_CHECKING:
    from typing_extensions import Unpack


def untuned_warmup(
    beta_2: float = 0.999, shape: ShapeLike = "linear", first: Number = 0, **length: Unpack[LengthKeywords]
) -> Profile:
    """Rise to the peak as fast as Adam's second moment settles; nothing to tune.

    Linear: `min(1, t (1 - beta_2) / 2)`, that is over `round(2 / (1 - beta_2))` updates, 2000 for 0.999.
    Exponential: `1 - exp(-(1 - beta_2) t)`, which never ends; with a length, a phase behind it goes on from
    where it has come to. The first update is t = `first`.

    Where libraries differ: here t counts from 0, as everywhere in this library, so the first update has the
    value 0. The paper and pytorch_warmup count from 1: `first=1`. pytorch_warmup also truncates, to 1999
    updates for 0.999: `warmup(steps=1998, start=1 / 1999)`.

    Args:
        beta_2: the optimizer's decay of the second moment, above 0 and below 1.
        shape: `"linear"` or `"exponential"`.
        first: what the first update counts as, 0 or more.
        **length: of an exponential warmup: `steps=`, `epochs=`, `examples=` or `fraction=`; none for the
            rest of the run.

    Raises:
        TypeError: if a linear warmup is given a length.
        ValueError: if an argument is out of range, or the shape is another.

    Paper: Ma and Yarats 2021, "On the Adequacy of Untuned Warmup for Adaptive Optimization", section 5.

    Example:

    >>> untuned_warmup(0.999)
    warmup(steps=2000)
    >>> untuned_warmup(0.99, shape="exponential", steps=1_000)
    curve(shapes.untuned(beta_2=0.99, first=0), steps=1000)
    """
    untuned = shapes.untuned(beta_2, first)
    along = shapes.as_shape(shape)
    if along == shapes.exponential:
        return verbs.curve(untuned, **length)
    if along != shapes.linear:
        raise value_error(
            "shape", shape, "'linear' or 'exponential'", 'untuned_warmup(0.999, shape="exponential")'
        )
    if length:
        received = Code(", ".join(f"{unit}={value!r}" for unit, value in length.items()))
        raise type_error("length", received, "no length, since beta_2 sets it", "untuned_warmup(0.999)")
    steps = round(2 / (1 - beta_2))
    first = number("first", first, "untuned_warmup(0.999, first=1)")
    if first >= steps:
        raise value_error(
            "first", first, f"less than the warmup's {steps} updates", "untuned_warmup(0.999, first=1)"
        )
    return verbs.warmup(steps=steps - first, start=first / steps)


def radam_warmup(beta_2: float = 0.999, first: Number = 0, **length: Unpack[LengthKeywords]) -> Profile:
    """Rise as RAdam's rectification does: 0 while it has no value (4 updates, mostly), then towards 1.

    `r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))` with
    `rho_inf = 2 / (1 - beta_2) - 1` and `rho = rho_inf - 2 t beta_2 ** t / (1 - beta_2 ** t)`. The first
    update is t = `first`. It never ends; with a length, a phase behind it goes on from where it has come to.

    Where libraries differ: here t counts from 0, as everywhere in this library. RAdam itself counts from 1,
    `first=1`, and while rho is at most 4 makes updates of momentum alone, which no learning rate can say.
    pytorch_warmup starts at the first t that has a value, `first=5` for a `beta_2` of 0.999.

    Args:
        beta_2: the optimizer's decay of the second moment, above 0.6 and below 1.
        first: what the first update counts as, 0 or more.
        **length: `steps=`, `epochs=`, `examples=` or `fraction=`; none for the rest of the run.

    Raises:
        TypeError: if two lengths are given, or an argument is not a number.
        ValueError: if an argument is out of range.

    Paper: Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", algorithm 2.

    Example:

    >>> import numpy as np
    >>> from kwarmup import Curve
    >>> Curve(radam_warmup(0.999))(np.array([0, 5, 100, 2000])).round(4).tolist()
    [0.0, 0.0173, 0.2153, 0.8284]
    """
    return verbs.curve(shapes.radam(beta_2, first), **length)
