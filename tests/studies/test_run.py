"""A run is numbers: where it came to the target, and whether it diverged."""

import math

import pytest

from kwarmup.studies.run import Check, Run

CHECKS = [(0, 0.0, 2.0, 0.1), (10, 1.0, 1.0, 0.5), (30, 3.0, 0.5, 0.9), (40, 4.0, 0.6, 0.8)]


def run(checks=CHECKS, **changes):
    values = {"batch_size": 32, "seed": 0, "peak": 0.1, "checks": checks, "training": 1.0, "validation": 0.8,
              "trace_seconds": 0.5}  # fmt: skip
    return Run(**{**values, **changes})


@pytest.mark.parametrize(
    ("target", "updates", "seconds"),
    [(0.5, 10, 1.0), (0.7, 20, 2.0), (0.9, 30, 3.0), (0.1, 0, 0.0), (0.05, 0, 0.0)],
)
def test_the_target_is_met_between_two_checks(target, updates, seconds):
    found = run().to_target(target, sign=1)
    assert (found.updates, found.seconds) == (pytest.approx(updates), pytest.approx(seconds))


def test_a_target_that_is_never_met_has_no_place():
    assert run().to_target(0.91, sign=1) is None


def test_less_is_better_where_the_sign_says_so():
    falling = [(updates, seconds, loss, loss) for updates, seconds, loss, _ in CHECKS]
    assert run(falling).to_target(0.75, sign=-1).updates == pytest.approx(20)
    assert run(falling).to_target(0.4, sign=-1) is None


def test_a_value_that_is_not_finite_does_not_meet_a_target():
    assert run([*CHECKS[:2], (30, 3.0, math.nan, math.nan)]).to_target(0.7, sign=1) is None


@pytest.mark.parametrize(
    ("last", "diverged"), [(2.1, True), (math.nan, True), (math.inf, True), (1.9, False), (2.0, False)]
)
def test_divergence(last, diverged):
    assert run([*CHECKS, (50, 5.0, last, 0.1)]).diverged is diverged


def test_it_comes_back_from_plain_values():
    assert Run(**run().to_dict()) == run()
    assert isinstance(Run(**run().to_dict()).checks[0], Check)
    assert (run().updates, run().examples, run().seconds) == (40, 1280, 4.0)
