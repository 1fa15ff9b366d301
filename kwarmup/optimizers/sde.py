"""How Adam's betas and epsilon move with the batch size."""

from __future__ import annotations

import math
from fractions import Fraction

from kwarmup.clock import Clock
from kwarmup.errors import Code, value_error
from kwarmup.length import number
from kwarmup.plan import Plan
from kwarmup.profile import Profile
from kwarmup.schedule import Schedule
from kwarmup.verbs import hold

_WRITE = "kw.AdamW(plan.learning_rate, **kw.adam_sde(plan, beta_1=0.9, beta_2=0.999))"


def adam_sde(
    plan: Plan, *, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
) -> dict[str, Schedule]:
    """Return `beta_1`, `beta_2` and `epsilon` that follow the plan's batch size, by the SDE rule.

    With kappa = batch / first batch, at every update:

        beta     1 - kappa (1 - beta)        as many examples remembered, so fewer updates
        epsilon  epsilon / sqrt(kappa)       as the noise of the gradient

    and the learning rate times sqrt(kappa), which is the plan's `scaling=0.5`. Together they keep the
    path that Adam takes through the weights, per example seen, near the one at the first batch size, as
    long as the noise of the gradient outweighs the gradient.

    Args:
        plan: what says the batch size at each update; with `scaling=0.5`.
        beta_1: decay of the first moment at the first batch size, between 0 and 1.
        beta_2: decay of the second moment at the first batch size, between 0 and 1.
        epsilon: at the first batch size, above 0.

    Returns:
        The three schedules by name, on the plan's clock: `kw.AdamW(plan.learning_rate, **kw.adam_sde(plan))`.

    Raises:
        ValueError: if an argument is out of range, if the plan scales the learning rate otherwise, or if
            a batch is so much larger than the first that a beta would be 0 or less.

    Paper: Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (the
    square root scaling rule for Adam).

    Example:

    >>> from kwarmup import Plan, hold
    >>> growing = 32 * (hold(epochs=1) >> hold(4))
    >>> plan = Plan(learning_rate=1e-3, batch_size=growing, examples=64_000, epochs=4, scaling=0.5)
    >>> moving = adam_sde(plan)
    >>> moving["beta_1"].profile
    hold(0.9, examples=64000) >> hold(0.6)
    >>> moving["beta_2"].profile, moving["epsilon"].profile
    (hold(0.999, examples=64000) >> hold(0.996), hold(1e-07, examples=64000) >> hold(5e-08))
    """
    sizes = _sizes(plan.clock)
    if len(sizes) > 1 and plan.scaling != 0.5:
        raise value_error("scaling", plan.scaling, "0.5 in a plan for Adam", "plan.replace(scaling=0.5)")
    betas = {name: _beta(name, value, sizes) for name, value in (("beta_1", beta_1), ("beta_2", beta_2))}
    epsilon = number("epsilon", epsilon, _WRITE)
    if epsilon <= 0:
        raise value_error("epsilon", epsilon, "a number above 0", _WRITE)
    epsilons = [epsilon / math.sqrt(size / sizes[0][1]) for _, size in sizes]
    profiles = {name: _holds(sizes, values) for name, values in {**betas, "epsilon": epsilons}.items()}
    return {name: Schedule(profile, plan.clock) for name, profile in profiles.items()}


def _sizes(clock: Clock) -> list[tuple[int, int]]:
    """Return where the batch size changes, in examples, and what it is from there on."""
    found: list[tuple[int, int]] = []
    for _, segment in clock.segments_between(0, None):
        if not found or segment.batch_size != found[-1][1]:
            found.append((segment.example, segment.batch_size))
    return found


def _beta(name: str, value: float, sizes: list[tuple[int, int]]) -> list[float]:
    value = number(name, value, _WRITE)
    if not 0 < value < 1:
        raise value_error(name, value, "a number between 0 and 1", _WRITE)
    first, largest = sizes[0][1], max(size for _, size in sizes)
    # As decimals: 1 - 4 (1 - 0.9) is 0.6, not next to it.
    forgotten = 1 - Fraction(repr(value))
    values = [1 - Fraction(size, first) * forgotten for _, size in sizes]
    if min(values) <= 0:
        limit = first / forgotten
        nearer = float(1 - Fraction(first, 2 * largest))
        raise value_error(
            name,
            Code(
                f"{value!r} with batches of {first} to {largest}, which would make it {float(min(values)):g}"
            ),
            f"a largest batch below {float(limit):g}, or a {name} nearer to 1",
            f"plan.replace(max_batch_size={math.ceil(limit) - 1}), or kw.adam_sde(plan, {name}={nearer:.4g})",
        )
    return [float(value) for value in values]


def _holds(sizes: list[tuple[int, int]], values: list[float]) -> Profile:
    ends = [*(begin for begin, _ in sizes[1:]), None]
    return Profile(
        hold(value) if end is None else hold(value, examples=end - begin)
        for value, (begin, _), end in zip(values, sizes, ends, strict=True)
    )
