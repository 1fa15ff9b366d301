"""Against torch: what it gave once (always), and what it gives now (where it is installed)."""

import functools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from compare import check, ours
from torch_cases import CASES, values

import kwarmup as kw

RECORDED = json.loads(Path(__file__).with_name("torch_values.json").read_text())
each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def test_the_record_is_of_this_table():
    assert {name: len(row) for name, row in RECORDED.items()} == {case.name: case.steps for case in CASES}


@each_case
def test_as_recorded(case):
    check(case.profile, RECORDED[case.name], exact=1e-9)


@each_case
def test_one_update_off_would_be_seen(case):
    theirs = RECORDED[case.name]
    with pytest.raises(AssertionError, match="is off by"):
        check(case.profile, [*theirs[1:], theirs[-1]])


@pytest.mark.peers
@each_case
def test_live(case, torch):
    live = values(torch, case.make, case.steps, case.quantity)
    check(case.profile, live, exact=1e-9)
    np.testing.assert_allclose(RECORDED[case.name], live, rtol=1e-11, atol=0)


def one_cycle(schedulers, optimizer, **arguments):
    return schedulers.OneCycleLR(optimizer, 0.1, **arguments)


@pytest.mark.peers
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_one_cycle_of_any_length_live(torch, strategy, three_phase):
    draw = random.Random(f"{strategy} {three_phase}")
    lengths = [
        (draw.randint(1, 150), draw.choice([draw.random(), round(draw.random(), 2)])) for _ in range(150)
    ]
    # Phases that end on an update, next to one, or on the last: (T + 1) / 2T ends phase two at T - 1.
    lengths += [(total, part / total) for total in (7, 30, 49, 98, 107) for part in (2, 3, total / 2, total)]
    lengths += [(total, (total + 1) / (2 * total)) for total in (9, 26, 46, 47, 77, 98, 122)]
    lengths += [(total, math.nextafter((total + 1) / (2 * total), 0)) for total in (3, 4, 6, 34)]
    lengths += [(total, 1 / total) for total in (49, 98, 103)]
    compared = 0
    for total, part in lengths:
        arguments = {"pct_start": float(part), "anneal_strategy": strategy, "three_phase": three_phase}
        try:
            make = functools.partial(one_cycle, total_steps=total, **arguments)
            theirs = [values(torch, make, total, quantity) for quantity in ("lr", "momentum")]
        except ZeroDivisionError:
            continue
        compared += 1
        step = np.arange(total)
        found = 0.1 * kw.one_cycle(total, **arguments)
        np.testing.assert_allclose(
            kw.Curve(found)(step), theirs[0], rtol=0, atol=1e-10, err_msg=f"{total, part}"
        )
        found = kw.one_cycle_momentum(total, **arguments)
        np.testing.assert_allclose(
            kw.Curve(found)(step), theirs[1], rtol=0, atol=1e-10, err_msg=f"{total, part}"
        )
    assert compared > 150


@pytest.mark.peers
def test_where_torch_divides_by_zero_we_start_at_the_peak(torch):
    with pytest.raises(ZeroDivisionError):
        values(torch, lambda s, o: s.OneCycleLR(o, 0.1, total_steps=10, pct_start=0.1), 10)
    curve = kw.Curve(kw.one_cycle(10, pct_start=0.1))
    assert curve(0) == 1
    assert curve(9) == pytest.approx(4e-6)


@pytest.mark.peers
def test_past_its_end_torch_goes_on_and_we_hold(torch):
    def linear(s, o):
        return s.OneCycleLR(o, 1.0, total_steps=8, anneal_strategy="linear", pct_start=0.25)

    assert values(torch, linear, 9)[8] == pytest.approx(-1 / 6, abs=1e-4)
    curve, schedule = ours(kw.one_cycle(8, anneal_strategy="linear", pct_start=0.25), 20)
    assert (curve[7:] == 4e-6).all()
    assert (schedule[7:] == np.float32(4e-6)).all()
