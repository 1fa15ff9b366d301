"""torch's schedulers beside the profiles that give the same values: the one table of cases.

`write_torch_values.py` writes down what torch gives, and the tests compare with that and with torch itself.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import kwarmup as kw


class Case(NamedTuple):
    """What torch makes, what we make, and for how many updates to compare."""

    name: str
    make: Callable[[Any, Any], Any]
    profile: kw.Profile
    steps: int
    quantity: str = "lr"


CASES = [
    Case(
        "linear", lambda s, o: s.LinearLR(o, 0.25, total_iters=20), 0.1 * kw.warmup(steps=20, start=0.25), 30
    ),
    Case(
        "linear_down",
        lambda s, o: s.LinearLR(o, 1.0, end_factor=0.1, total_iters=33),
        0.1 * kw.linear(steps=33, to=0.1),
        50,
    ),
    Case("constant", lambda s, o: s.ConstantLR(o, 0.3, 7), 0.1 * (kw.hold(0.3, steps=7) >> kw.hold(1)), 15),
    Case("cosine", lambda s, o: s.CosineAnnealingLR(o, T_max=60), 0.1 * kw.cosine(steps=60), 61),
    Case(
        "cosine_eta_min",
        lambda s, o: s.CosineAnnealingLR(o, T_max=47, eta_min=0.01),
        0.1 * kw.cosine(steps=47, to=0.1),
        48,
    ),
    Case(
        "warmup_cosine",
        lambda s, o: s.SequentialLR(
            o, [s.LinearLR(o, 0.01, total_iters=13), s.CosineAnnealingLR(o, T_max=50, eta_min=0.001)], [13]
        ),
        0.1 * (kw.warmup(steps=13, start=0.01) >> kw.cosine(steps=50, to=0.01)),
        64,
    ),
    Case("polynomial", lambda s, o: s.PolynomialLR(o, 40, 2.0), 0.1 * kw.polynomial(power=2, steps=40), 50),
    Case(
        "polynomial_half",
        lambda s, o: s.PolynomialLR(o, 40, 0.5),
        0.1 * kw.polynomial(power=0.5, steps=40),
        50,
    ),
    Case("exponential", lambda s, o: s.ExponentialLR(o, 0.9), 0.1 * kw.exponential(to=0.9**50, steps=50), 51),
    Case("step", lambda s, o: s.StepLR(o, 15), 0.1 * kw.step_decay(steps=15, drops=3), 60),
    Case(
        "step_half",
        lambda s, o: s.StepLR(o, 7, gamma=0.5),
        0.1 * kw.step_decay(steps=7, drops=9, gamma=0.5),
        70,
    ),
    Case("multistep", lambda s, o: s.MultiStepLR(o, [30, 80]), 0.1 * kw.multistep(steps=[30, 80]), 100),
    Case(
        "multistep_twice",
        lambda s, o: s.MultiStepLR(o, [5, 9, 9, 40], gamma=0.3),
        0.1 * kw.multistep(steps=[5, 9, 9, 40], gamma=0.3),
        50,
    ),
    Case(
        "restarts",
        lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=20),
        0.1 * kw.cosine_restarts(steps=20, cycles=5),
        100,
    ),
    Case(
        "restarts_longer",
        lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=9, T_mult=2, eta_min=0.02),
        0.1 * kw.cosine_restarts(steps=9, cycles=4, t_mul=2, to=0.2),
        135,
    ),
    Case(
        "triangular",
        lambda s, o: s.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=16),
        0.1 * kw.cyclic(steps=16, base=0.1, cycles=3),
        97,
    ),
    Case(
        "triangular2",
        lambda s, o: s.CyclicLR(
            o, base_lr=0.02, max_lr=0.1, step_size_up=9, step_size_down=14, mode="triangular2"
        ),
        0.1 * kw.cyclic(steps=9, down=14, base=0.2, cycles=5, m_mul=0.5),
        116,
    ),
    Case(
        "exp_range",
        lambda s, o: s.CyclicLR(
            o, base_lr=0.01, max_lr=0.1, step_size_up=11, step_size_down=17, mode="exp_range", gamma=0.98
        ),
        0.1 * kw.cyclic(steps=11, down=17, base=0.1, cycles=4, gamma=0.98),
        113,
    ),
    Case(
        "one_cycle",
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, total_steps=100),
        0.1 * kw.one_cycle(100),
        100,
    ),
    Case(
        "one_cycle_linear",
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, steps_per_epoch=50, epochs=4, anneal_strategy="linear"),
        0.1 * kw.one_cycle(steps_per_epoch=50, epochs=4, anneal_strategy="linear"),
        200,
    ),
    Case(
        "one_cycle_between_updates",
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, total_steps=77, pct_start=0.37, div_factor=10),
        0.1 * kw.one_cycle(77, pct_start=0.37, div_factor=10),
        77,
    ),
    Case(
        "one_cycle_three_phase",
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, total_steps=90, pct_start=0.41, three_phase=True),
        0.1 * kw.one_cycle(90, pct_start=0.41, three_phase=True),
        90,
    ),
    Case(
        "one_cycle_three_phase_linear",
        lambda s, o: s.OneCycleLR(
            o,
            0.1,
            epochs=3,
            steps_per_epoch=31,
            pct_start=0.25,
            anneal_strategy="linear",
            three_phase=True,
            div_factor=5,
            final_div_factor=100,
        ),
        0.1
        * kw.one_cycle(
            epochs=3,
            steps_per_epoch=31,
            pct_start=0.25,
            anneal_strategy="linear",
            three_phase=True,
            div_factor=5,
            final_div_factor=100,
        ),
        93,
    ),
    Case(
        "one_cycle_no_rise",
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, total_steps=40, pct_start=0.0),
        0.1 * kw.one_cycle(40, pct_start=0),
        40,
    ),
    Case(
        "one_cycle_no_rise_linear",
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=40, pct_start=0.01, anneal_strategy="linear"),
        0.1 * kw.one_cycle(40, pct_start=0.01, anneal_strategy="linear"),
        40,
    ),
    Case(
        "one_cycle_no_fall",
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, total_steps=40, pct_start=1.0),
        0.1 * kw.one_cycle(40, pct_start=1),
        40,
    ),
    Case(
        "one_cycle_three_phase_overlong",
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, total_steps=40, pct_start=0.7, three_phase=True),
        0.1 * kw.one_cycle(40, pct_start=0.7, three_phase=True),
        40,
    ),
    Case(
        # The second phase ends by rounding a 1e-14th before the last update, which belongs to the third.
        "one_cycle_three_phase_one_update",
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=34, pct_start=0.514705882352941, three_phase=True),
        0.1 * kw.one_cycle(34, pct_start=0.514705882352941, three_phase=True),
        34,
    ),
    Case(
        "one_cycle_momentum",
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, total_steps=100, pct_start=0.35),
        kw.one_cycle_momentum(100, pct_start=0.35),
        100,
        "momentum",
    ),
    Case(
        "one_cycle_momentum_three_phase",
        lambda s, o: s.OneCycleLR(
            o,
            0.1,
            total_steps=60,
            anneal_strategy="linear",
            three_phase=True,
            base_momentum=0.8,
            max_momentum=0.9,
        ),
        kw.one_cycle_momentum(
            60, anneal_strategy="linear", three_phase=True, base_momentum=0.8, max_momentum=0.9
        ),
        60,
        "momentum",
    ),
    Case(
        "cyclic_momentum",
        lambda s, o: s.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=8),
        kw.linear(start=0.9, to=0.8, steps=8) >> kw.linear(to=0.9, steps=8),
        17,
        "momentum",
    ),
]


def values(torch: Any, make: Callable[[Any, Any], Any], steps: int, quantity: str = "lr") -> list[float]:
    """Return what the optimizer of torch uses at each of `steps` updates."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SequentialLR about itself
        scheduler = make(torch.optim.lr_scheduler, optimizer)
        found = []
        for step in range(steps):
            found.append(float(optimizer.param_groups[0][quantity]))
            optimizer.step()
            if step + 1 < steps:
                scheduler.step()
    return found
