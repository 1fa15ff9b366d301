"""The schedule of the Transformer: inverse_sqrt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kwarmup import shapes, verbs
from kwarmup.errors import type_error
from kwarmup.profile import Profile
from kwarmup.recipes.arguments import given_length, positive, times
from kwarmup.verbs import LengthKeywords, Number

if TYPE_CHECKING:
    from typing_extensions import Unpack


def inverse_sqrt(*bare: Any, timescale: Number | None = None, **length: Unpack[LengthKeywords]) -> Profile:
    """Rise linearly to the peak, then decay as `sqrt(timescale / (timescale + n))`, n updates later.

    With W updates of warmup and the same timescale that is `min(n / W, sqrt(W / n))` at update n, the
    schedule of Vaswani et al. over its peak `1 / sqrt(d_model * W)`.

    Where libraries differ: like transformers' `get_inverse_sqrt_schedule`, and Megatron's, updates count
    from 0, so the first one has the value 0. The paper and tensor2tensor count them from 1:
    `warmup(steps=W - 1, start=1 / W) >> curve(shapes.inverse_sqrt(timescale=W))`.

    Args:
        timescale: updates, above 0; the decay is a half after three of them. `None` for the length of
            the warmup, which must then be in steps.
        **length: of the warmup: `steps=`, `epochs=`, `examples=` or `fraction=`.

    Raises:
        TypeError: if the length is a bare number, missing or given twice, or not in steps without a
            timescale.
        ValueError: if it is out of range.

    Paper: Vaswani et al. 2017, "Attention Is All You Need", equation 3.

    Example:

    >>> inverse_sqrt(steps=4_000)
    warmup(steps=4000) >> curve(shapes.inverse_sqrt(timescale=4000))
    """
    rise = given_length("inverse_sqrt", bare, length, "inverse_sqrt(steps=4_000)")
    write = f"inverse_sqrt({rise.keyword}, timescale=4_000)"
    if timescale is None:
        if rise.unit != "steps":
            raise type_error("timescale", timescale, "updates, where the warmup is not in steps", write)
        timescale = rise.value
    shape = shapes.inverse_sqrt(positive("timescale", timescale, write))
    return verbs.warmup(**times(rise, 1)) >> verbs.curve(shape)
