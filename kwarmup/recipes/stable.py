"""Recipes that stay at the peak before they decay: wsd, flat_cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kwarmup import verbs
from kwarmup.errors import type_error
from kwarmup.profile import Profile
from kwarmup.recipes.arguments import given_length, times
from kwarmup.verbs import LengthKeywords, Number

if TYPE_CHECKING:
    from typing_extensions import Unpack


def wsd(warmup: Profile, cooldown: Profile, stable: Profile | None = None) -> Profile:
    """Warmup, stable, decay: `warmup >> stable >> cooldown`.

    Each part has a length in the unit its author thinks in. Without `stable` the peak is held for what
    the other two leave of the run, for which a clock is needed. The cooldown is any decay: `linear(...)`,
    `cosine(...)`, `decay(shape="sqrt", ...)` for 1 - sqrt, `exponential(to=0.01, ...)`.

    Where libraries differ: as in transformers, the first update of the cooldown still sees the peak. For
    a first one that is already lower, make `stable` one update shorter. Megatron's `exponential` is not
    geometric but reaches 0: `decay(shape=lambda t: 2 - 2 * 0.5**t, ...)`.

    Args:
        warmup: the rise, such as `warmup(epochs=5)`.
        cooldown: the decay, such as `decay(fraction=0.2, shape="sqrt")`.
        stable: the stretch between them; `None` for `hold()`.

    Raises:
        TypeError: if a part is not a profile.
        ValueError: if two parts take the rest of the run, or an exponential goes to 0.

    Paper: Hu et al. 2024, "MiniCPM", section 4; Hägele et al. 2024, "Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations", section 3 (the 1 - sqrt cooldown).

    Example:

    >>> from kwarmup import decay, warmup
    >>> wsd(warmup(epochs=5), decay(fraction=0.2, shape="sqrt"))
    warmup(epochs=5) >> hold() >> decay(fraction=0.2, shape='sqrt')
    """
    parts = {"warmup": warmup, "stable": verbs.hold() if stable is None else stable, "cooldown": cooldown}
    for name, part in parts.items():
        if not isinstance(part, Profile):
            write = 'wsd(warmup(epochs=5), decay(fraction=0.2, shape="sqrt"))'
            raise type_error(name, part, "a profile with a length of its own", write)
    return Profile(parts.values())


def flat_cosine(*bare: Any, to: Number = 0, **length: Unpack[LengthKeywords]) -> Profile:
    """Stay at the peak, then fall along half a cosine wave for the rest of the run.

    It needs a clock; with lengths in steps alone write `hold(steps=7_500) >> cosine(steps=2_500)`.

    Where libraries differ: fastai's `fit_flat_cos` ends at 1e-5 of the peak, `flat_cosine(fraction=0.75,
    to=1e-5)`; here the end is 0 unless said otherwise.

    Args:
        to: value at the end of the run, relative to the peak.
        **length: of the flat stretch: `steps=`, `epochs=`, `examples=` or `fraction=`.

    Raises:
        TypeError: if the length is a bare number, missing or given twice.
        ValueError: if it is out of range.

    Example:

    >>> flat_cosine(fraction=0.75)
    hold(fraction=0.75) >> cosine()
    """
    flat = given_length("flat_cosine", bare, length, "flat_cosine(fraction=0.75)")
    return verbs.hold(**times(flat, 1)) >> verbs.cosine(to=to)
