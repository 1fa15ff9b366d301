"""The numbers: against a run that is played through, against closed forms, and float32 against float64."""

import math

import numpy as np
import pytest
from brute_force import Move, profile
from test_clock import RUNS, clock_of

from kwarmup import (
    Clock,
    Curve,
    Profile,
    cosine,
    curve,
    decay,
    exponential,
    hold,
    linear,
    polynomial,
    warmup,
)

#: Phases in every unit; each is bound to each of the runs, wherever it fits.
MOVES = {
    "epochs": [Move("epochs", 1, 0, 1), Move("rest", None, 1, 0, "cosine")],
    "part of an epoch": [Move("epochs", 0.3, 0, 1), Move("epochs", 0.25, 1, 0.5, "sqrt")],
    "steps": [Move("steps", 3, 0, 1), Move("steps", 2.5, 1, 0.1, "exponential")],
    "steps, then the rest": [Move("steps", 2, 0.1, 1, "exponential"), Move("rest", None, 1, 0)],
    "fractions": [
        Move("fraction", 0.1, 0, 1),
        Move("fraction", 0.5, 1, 1),
        Move("fraction", 0.4, 1, 0, "sqrt"),
    ],
    "examples": [Move("examples", 5, 0, 1, "cosine"), Move("examples", 2, 0.5, 0.25)],
    "rest in the middle": [Move("epochs", 0.5, 0, 1), Move("rest", None, 1, 1), Move("fraction", 0.2, 1, 0)],
    "rest first": [Move("rest", None, 1, 0.5), Move("steps", 2, 0.5, 0)],
    "all units": [
        Move("steps", 1, 0.1, 1, "exponential"),
        Move("examples", 1, 1, 2),
        Move("rest", None, 2, 1, "cosine"),
        Move("fraction", 0.1, 1, 0.5),
        Move("epochs", 0.1, 0.5, 0.1, "exponential"),
    ],
    "jumps": [Move("epochs", 0, 0, 1), Move("steps", 0, 0.5, 2), Move("rest", None, 3, 4)],
    "up along an exponential": [Move("fraction", 0.9, 1e-4, 1, "exponential")],
}


def fits(run, moves):
    bounds = run.bounds(moves)
    return bounds == sorted(bounds) and bounds[-1][0] <= len(run.taken)


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_against_the_run_itself(run, moves):
    if not fits(run, moves):
        with pytest.raises(ValueError, match="phases that fit into the run"):
            Curve(profile(moves), clock_of(run))
        return
    for scaling in (0, 0.5, 1):
        found = Curve(profile(moves, 0.1), clock_of(run), scaling=scaling)(np.arange(run.steps))
        np.testing.assert_allclose(found, run.values(moves, 0.1, scaling), rtol=0, atol=1e-12)


def test_most_of_them_fit():
    # The test above must not be content with refusals.
    found = [fits(run, moves) for run in RUNS.values() for moves in MOVES.values()]
    assert 0.9 * len(found) < sum(found) < len(found)


class TestBoundaries:
    def test_half_open(self):
        # At its begin the later phase holds; the one before never reaches its end.
        assert Curve(hold(1, steps=3) >> hold(2, steps=2) >> hold(3))(np.arange(7)).tolist() == [
            1,
            1,
            1,
            2,
            2,
            3,
            3,
        ]

    def test_a_boundary_between_two_updates_belongs_to_the_next(self):
        assert Curve(hold(1, steps=2.5) >> hold(2))(np.arange(5)).tolist() == [1, 1, 1, 2, 2]

    def test_a_boundary_within_a_pass(self):
        clock = Clock(examples=100, epochs=2, batch_size=32)
        values = Curve(hold(1, examples=33) >> hold(2, examples=31) >> hold(3), clock)(np.arange(5))
        assert values.tolist() == [1, 1, 3, 3, 3]  # updates begin at 0, 32, 64, 96 and 100 examples

    def test_a_phase_that_no_update_falls_into_still_hands_on_its_end(self):
        assert Curve(linear(steps=2, to=0.5) >> linear(steps=0.25, to=4) >> hold())(2) == 0.5
        assert Curve(linear(steps=2, to=0.5) >> linear(steps=0.25, to=4) >> hold())(3) == 4

    def test_a_phase_of_length_zero_is_a_jump(self):
        clock = Clock(examples=100, epochs=2, batch_size=50)
        for length in (dict(steps=0), dict(epochs=0), dict(examples=0), dict(fraction=0)):
            found = Curve(hold(steps=2) >> linear(to=0.25, **length) >> hold(), clock)(np.arange(4))
            assert found.tolist() == [1, 1, 0.25, 0.25]

    def test_step_0_sees_the_left_edge_and_step_w_the_peak(self):
        found = Curve(warmup(steps=1000) >> cosine(steps=9000))
        assert (found(0), found(1000), found(10_000)) == (0, 1, 0)


class TestEnd:
    @pytest.mark.parametrize(
        "profile, end, value",
        [
            (warmup(steps=4) >> cosine(steps=6), 10, 0),
            (warmup(steps=4), 4, 1),
            (exponential(to=1e-3, steps=7), 7, 1e-3),
            (decay(steps=5, shape="sqrt", to=0.2), 5, 0.2),
            (polynomial(power=0.3, steps=5, to=0.2), 5, 0.2),
            (curve(lambda t: 4 * t * (1 - t), steps=3), 3, 0),
            (linear(steps=2.5), 3, 0),
            (hold(3), 0, 3),
        ],
        ids=repr,
    )
    def test_the_last_value_is_held(self, profile, end, value):
        found = Curve(profile)
        assert found.end == end
        assert set(found(np.array([end, end + 1, end + 1000, 2**31, 2**40]))) == {value}

    def test_with_a_clock_too(self):
        clock = Clock(examples=100, epochs=3, batch_size=32)
        found = Curve(warmup(epochs=1) >> cosine(to=0.1), clock)
        assert found.end == clock.steps == 12
        assert set(found(np.array([12, 13, 2**40]))) == {0.1}

    def test_before_the_begin_the_first_value_holds(self):
        assert Curve(warmup(steps=4, start=0.1))(-3) == 0.1


def test_one_epoch_is_its_examples_and_its_fraction():
    clock = Clock(examples=100, epochs=4, batch_size=32)
    steps = np.arange(20)
    in_epochs = Curve(warmup(epochs=1) >> cosine(epochs=2), clock)(steps)
    assert (Curve(warmup(examples=100) >> cosine(examples=200), clock)(steps) == in_epochs).all()
    assert (Curve(warmup(fraction=0.25) >> cosine(fraction=0.5), clock)(steps) == in_epochs).all()
    whole = Clock(examples=96, epochs=4, batch_size=32)
    assert Curve(warmup(steps=3) >> cosine(steps=6), whole)(steps) == pytest.approx(
        Curve(warmup(epochs=1) >> cosine(epochs=2), whole)(steps)
    )


def test_a_growing_batch_does_not_move_the_phases():
    constant = Clock(examples=1024, epochs=8, batch_size=32)
    growing = Clock(examples=1024, epochs=8, batch_size=32 * (hold(epochs=2) >> hold(4)))
    learning_rate = warmup(epochs=3) >> cosine()
    steps = np.arange(growing.steps)
    same_place = [constant.step_at(examples=int(seen)) for seen in growing.examples_at(steps)]
    assert Curve(learning_rate, growing)(steps) == pytest.approx(
        Curve(learning_rate, constant)(np.array(same_place))
    )


class TestScaling:
    clock = Clock(examples=128, epochs=4, batch_size=8 * (hold(epochs=1) >> hold(4, epochs=1) >> hold(16)))

    @pytest.mark.parametrize("scaling, factors", [(0, [1, 1, 1]), (0.5, [1, 2, 4]), (1, [1, 4, 16])])
    def test_multiplies_by_the_batch_over_the_first(self, scaling, factors):
        found = Curve(0.1, self.clock, scaling=scaling)(np.array([0, 16, 20]))
        assert found == pytest.approx(np.multiply(0.1, factors))

    def test_an_update_has_one_batch_size(self):
        # Pass 1 ends within update 2: the size that its first micro-batch had is the update's.
        clock = Clock(
            examples=10, epochs=6, batch_size=4 * (hold(epochs=1) >> hold(2)), gradient_accumulation_steps=4
        )
        assert clock.batch_size_at(np.arange(5)).tolist() == [4, 4, 4, 8, 8]
        assert Curve(1, clock, scaling=1)(np.arange(5)).tolist() == [1, 1, 1, 2, 2]

    def test_does_nothing_to_a_constant_batch(self):
        clock = Clock(examples=100, epochs=4, batch_size=32)
        steps = np.arange(20)
        assert (
            Curve(warmup(epochs=1), clock, scaling=1)(steps) == Curve(warmup(epochs=1), clock)(steps)
        ).all()


class TestAccumulation:
    def test_steps_are_updates(self):
        steps = np.arange(30)
        plain = Curve(warmup(steps=5) >> cosine(steps=10))
        accumulated = Curve(warmup(steps=5) >> cosine(steps=10), gradient_accumulation_steps=4)
        assert (accumulated(steps) == plain(steps)).all()
        for micro in range(4):
            assert (accumulated.at_tick(steps * 4 + micro, np, "int64", "float64") == plain(steps)).all()

    def test_accumulated_and_large_batch_training_see_the_same(self):
        large = Clock(examples=128, epochs=5, batch_size=32)
        accumulated = Clock(examples=128, epochs=5, batch_size=32, gradient_accumulation_steps=4)
        learning_rate = warmup(epochs=1.5) >> cosine()
        steps = np.arange(large.steps + 5)
        assert (Curve(learning_rate, large)(steps) == Curve(learning_rate, accumulated)(steps)).all()


def test_an_array_of_any_shape():
    found = Curve(warmup(steps=10))
    steps = np.arange(24).reshape(2, 3, 4)
    assert found(steps).shape == (2, 3, 4)
    assert (found(steps).ravel() == found(steps.ravel())).all()
    assert found([]).shape == (0,)
    assert type(found(3)) is float


def test_a_number_is_a_constant():
    assert Curve(0.1)(np.array([0, 5, 2**40])).tolist() == [0.1, 0.1, 0.1]
    assert Curve(1).profile == hold()


def test_cosine_over_the_whole_run_in_closed_form():
    clock = Clock(examples=1_000, epochs=7, batch_size=96)
    examples = clock.examples_at(np.arange(clock.steps))
    expected = 0.05 * (1 + np.cos(math.pi * examples / 7_000))
    assert Curve(0.1 * cosine(), clock)(np.arange(clock.steps)) == pytest.approx(expected, abs=1e-14)


def test_many_phases():
    steps = Profile([hold(value, steps=10) for value in range(1, 201)])
    assert (Curve(steps)(np.arange(2_000)) == 1 + np.arange(2_000) // 10).all()
