"""Where the phases of a profile begin and end, on a clock or in steps alone."""

from __future__ import annotations

import math
from fractions import Fraction

from kwarmup.clock import Clock, Place
from kwarmup.errors import value_error
from kwarmup.profile import Phase, Profile


def places(profile: Profile, clock: Clock | None, gradient_accumulation_steps: int = 1) -> list[Place | None]:
    """Return where each phase begins, and last where the profile ends (`None` for never).

    Raises:
        ValueError: if a phase needs a clock and there is none, or the phases are longer than the run.
    """
    if clock is None:
        return _places_in_steps(profile, gradient_accumulation_steps)
    found: list[Place | None] = [Place(Fraction(0), Fraction(0))]
    phases = profile.phases
    rest = next((i for i, phase in enumerate(phases) if phase.length.unit == "rest"), len(phases))
    for phase in phases[:rest]:
        found.append(clock.forward(found[-1], phase.length))  # type: ignore[arg-type]
    behind = [clock.end] if rest < len(phases) else []
    for phase in reversed(phases[rest + 1 :]):
        behind.insert(0, clock.backward(behind[0], phase.length))
    found += behind
    _check_fits(profile, found, clock, rest)
    return found


def _places_in_steps(profile: Profile, parts: int) -> list[Place | None]:
    found: list[Place | None] = [Place(Fraction(0), None)]
    for index, phase in enumerate(profile.phases):
        before = found[-1]
        last = index + 1 == len(profile.phases)
        if phase.length.unit == "steps" and before is not None:
            found.append(Place(before.tick + phase.length.exact * parts, None))
        elif phase.length.unit == "rest" and last and (phase.to is None or phase.shape.per_step):
            found.append(None)  # It needs no end: it holds, or counts its own steps, for ever.
        else:
            raise _needs_clock(phase, profile)
    return found


def _needs_clock(phase: Phase, profile: Profile) -> ValueError:
    what = "the rest of the run" if phase.length.unit == "rest" else phase.length.keyword
    return value_error(
        "clock",
        None,
        f"a clock, since `{phase!r}` needs one to know how long {what} is",
        f"Schedule({profile!r}, Clock(examples=50_000, epochs=90, batch_size=256)), or lengths in steps",
    )


def _check_fits(profile: Profile, found: list[Place | None], clock: Clock, rest: int) -> None:
    steps = [place.tick / clock.gradient_accumulation_steps for place in found if place is not None]
    slack = Fraction(clock.steps + 1, 10**9)  # fractions such as 1/3 are not exact as decimals
    if rest < len(profile.phases):
        over = steps[rest] - steps[rest + 1] if rest + 1 < len(steps) else Fraction(0)
        needed = clock.end.tick / clock.gradient_accumulation_steps + over
    else:
        over = steps[-1] - clock.end.tick / clock.gradient_accumulation_steps
        needed = steps[-1]
    if over <= slack:
        return
    write = "shorter phases; one without a length takes what is left"
    if all(phase.length.unit != "fraction" for phase in profile.phases):
        write += f". Or a longer run: Clock(..., epochs={math.ceil(needed / clock.steps * clock.epochs)})"
    lengths = ", ".join(phase.length.keyword for phase in profile.phases if phase.length.keyword)
    raise value_error(
        "profile",
        profile,
        f"phases that fit into the run of {clock.steps} updates "
        f"({clock.epochs} epochs, {clock.total_examples} examples); {lengths} add up to {float(needed):g} updates",
        write,
    )
