"""Turn a decay of the learning rate into a growing batch; what batches that grow divide by."""

from __future__ import annotations

import math

from kwarmup import shapes
from kwarmup.clock import Clock
from kwarmup.errors import Code, value_error
from kwarmup.length import Length
from kwarmup.places import places
from kwarmup.profile import Phase, Profile


def in_examples(profile: Profile, clock: Clock) -> Profile:
    """Return the profile with every length in steps told in examples, so that it no longer moves with the batch."""
    bounds = places(profile, clock)
    phases = []
    for phase, begin, end in zip(profile.phases, bounds[:-1], bounds[1:], strict=True):
        length = phase.length
        if length.unit == "steps":
            assert begin is not None and begin.example is not None
            assert end is not None and end.example is not None
            examples = end.example - begin.example
            length = Length(int(examples) if examples.denominator == 1 else float(examples), "examples")
        phases.append(Phase(phase.shape, length, phase.start, phase.to))
    return Profile(phases, profile.scale)


def unit_of(clock: Clock) -> int:
    """Return what a batch that grows must divide by."""
    return math.lcm(clock.multiple_of, clock.gradient_accumulation_steps * clock.replicas)


def growing_batch(profile: Profile, batch_size: int, largest: int) -> Profile:
    """Return the batch size `batch_size / f`, f being the profile over its peak, from the peak on.

    Before the peak, in a warmup, the batch size stays. At `largest` it stops growing.

    Raises:
        ValueError: if the profile has a phase that counts its own steps.
    """
    values, end = [], 1.0
    for phase in profile.phases:
        if phase.shape.per_step:
            raise value_error(
                "learning_rate",
                Code(repr(phase)),
                "phases along a shape of the progress, since a growing batch changes the number of steps",
                "0.1 * (warmup(epochs=5) >> cosine())",
            )
        start, to = phase.ends(end)
        values.append((start, to))
        end = phase.end(start, to) or 0.0
    peak = max(max(pair) for pair in values)
    limit = largest / batch_size
    phases, reached = [], False
    for phase, (start, to) in zip(profile.phases, values, strict=True):
        reached = reached or start == peak
        start, to = start / peak, to / peak
        if not reached:
            phases.append(Phase(shapes.linear, phase.length, start=1))
        elif phase.to is None or start == to and not phase.shape.free:
            phases.append(Phase(shapes.linear, phase.length, start=min(1 / start, limit) if start else limit))
        else:
            shape = shapes.reciprocal(phase.shape, start=start, to=to, limit=limit)
            phases.append(Phase(shape, phase.length, start=0, to=1))
    return Profile(phases, batch_size)
