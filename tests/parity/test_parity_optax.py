"""Against optax's joined schedules, over whole runs and past their ends."""

import numpy as np
import pytest
from compare import check

import kwarmup as kw

pytestmark = pytest.mark.peers

CASES = {
    "join": (
        lambda o: o.join_schedules(
            [o.linear_schedule(0.0, 0.1, 15), o.constant_schedule(0.1), o.cosine_decay_schedule(0.1, 50)],
            [15, 40],
        ),
        0.1 * (kw.warmup(steps=15) >> kw.hold(steps=25) >> kw.cosine(steps=50)),
    ),
    "join_linear_exponential": (
        lambda o: o.join_schedules(
            [o.linear_schedule(0.01, 0.1, 15), o.exponential_decay(0.1, 20, 0.5, end_value=0.0125)], [15]
        ),
        0.1 * (kw.warmup(steps=15, start=0.1) >> kw.exponential(to=0.125, steps=60)),
    ),
    "warmup_cosine": (
        # decay_steps includes the warmup
        lambda o: o.warmup_cosine_decay_schedule(0.0, 0.1, 12, 80, end_value=0.001),
        0.1 * (kw.warmup(steps=12) >> kw.cosine(steps=68, to=0.01)),
    ),
    "warmup_exponential": (
        lambda o: o.warmup_exponential_decay_schedule(0.0, 0.1, 10, 25, 0.3, end_value=0.1 * 0.3**3),
        0.1 * (kw.warmup(steps=10) >> kw.exponential(to=0.3**3, steps=75)),
    ),
    "polynomial": (
        lambda o: o.polynomial_schedule(0.1, 0.01, 2, 60, transition_begin=10),
        0.1 * (kw.hold(steps=10) >> kw.polynomial(power=2, steps=60, to=0.1)),
    ),
    "piecewise_constant": (
        lambda o: o.piecewise_constant_schedule(0.1, {30: 0.1, 80: 0.1}),
        0.1 * kw.multistep(steps=[30, 80]),
    ),
    "restarts": (
        lambda o: o.sgdr_schedule(
            [
                {"init_value": 0.1, "peak_value": 0.1, "warmup_steps": 0, "decay_steps": 10 * 2**i}
                for i in range(3)
            ]
        ),
        0.1 * kw.cosine_restarts(steps=10, cycles=3, t_mul=2),
    ),
    "restarts_with_warmup": (
        lambda o: o.sgdr_schedule(
            [
                {"init_value": 0.0, "peak_value": 0.1 * 0.5**i, "warmup_steps": 5, "decay_steps": 40}
                for i in range(3)
            ]
        ),
        0.1
        * kw.Profile(
            part for i in range(3) for part in (kw.linear(start=0, to=0.5**i, steps=5), kw.cosine(steps=35))
        ),
    ),
    "one_cycle_cosine": (
        # the peak at int(pct_start * T), the end at T: what the docstring of one_cycle says
        lambda o: o.cosine_onecycle_schedule(99, 0.1),
        0.1
        * (kw.warmup(steps=int(0.3 * 99), start=1 / 25, shape="cosine") >> kw.cosine(steps=99 - 29, to=4e-6)),
    ),
    "one_cycle_linear": (
        lambda o: o.linear_onecycle_schedule(100, 0.1, pct_start=0.2, pct_final=0.7, div_factor=10),
        0.1 * (kw.warmup(steps=20, start=0.1) >> kw.linear(steps=50, to=0.1) >> kw.linear(steps=30, to=1e-5)),
    ),
}
STEPS = 120
each_case = pytest.mark.parametrize("name", CASES)


def values(schedule):
    # One step at a time: the one-cycle schedules of optax take no array.
    import jax  # optax brings it

    return np.asarray(jax.vmap(schedule)(np.arange(STEPS))).tolist()


@each_case
def test_optax(name, optax):
    make, profile = CASES[name]
    check(profile, values(make(optax)))


@each_case
def test_one_update_off_would_be_seen(name, optax):
    make, profile = CASES[name]
    theirs = values(make(optax))
    with pytest.raises(AssertionError, match="is off by"):
        check(profile, [*theirs[1:], theirs[-1]])
