"""The clock against a run that is played through batch by batch, and against arithmetic where that is too long."""

import json
import math
import time
from fractions import Fraction

import numpy as np
import pytest
from brute_force import Move, Run

from kwarmup import Clock, cosine, hold, linear, verbs
from kwarmup.length import Length

#: A run, and the clock that must agree with it on everything.
RUNS = {
    "whole batches": Run(100, 3, 25),
    "a partial batch": Run(100, 3, 32),
    "the partial batch dropped": Run(100, 3, 32, drop_remainder=True),
    "one example": Run(1, 3, 1),
    "batches of one": Run(7, 2, 1),
    "a batch larger than the data": Run(10, 3, 64),
    "a batch as large as the data": Run(10, 3, 10),
    "accumulation": Run(96, 2, 32, parts=4),
    "accumulation goes on into the next pass": Run(100, 5, 32, parts=4),
    "accumulation over more than a pass": Run(8, 10, 32, parts=8),
    "accumulation, drop_remainder": Run(100, 5, 32, drop_remainder=True, parts=4),
    "two sizes": Run(100, 4, [Move("epochs", 2, 1, 1), Move("rest", None, 2, 2)], scale=8),
    "two sizes, changing within a pass": Run(
        100, 4, [Move("epochs", 1.5, 1, 1), Move("rest", None, 2, 2)], scale=8
    ),
    "sizes by steps": Run(
        100, 4, [Move("steps", 7, 1, 1), Move("steps", 3, 4, 4), Move("rest", None, 2, 2)], scale=8
    ),
    "by examples": Run(100, 4, [Move("examples", 120, 1, 1), Move("examples", 9, 3, 3)], scale=8),
    "a ramp": Run(100, 6, [Move("epochs", 4, 1, 4)], scale=8),
    "a ramp down": Run(100, 6, [Move("epochs", 4, 4, 1)], scale=8),
    "a ramp in multiples": Run(120, 6, [Move("rest", None, 1, 4)], scale=8, multiple_of=8),
    "a cosine ramp": Run(120, 6, [Move("epochs", 3, 1, 2, "cosine")], scale=8, multiple_of=4),
    "an exponential ramp": Run(120, 6, [Move("fraction", 0.7, 1, 8, "exponential")], scale=4, multiple_of=4),
    "a ramp, accumulated": Run(50, 8, [Move("epochs", 5, 1, 4)], scale=8, parts=4, multiple_of=4),
    "a ramp, dropped": Run(50, 8, [Move("epochs", 5, 1, 3)], drop_remainder=True, scale=8),
    "two sizes, accumulated, within a pass": Run(
        50, 4, [Move("epochs", 0.5, 1, 1), Move("rest", None, 2, 2)], scale=8, parts=4
    ),
    "rest in the middle": Run(
        60, 6, [Move("epochs", 1, 1, 1), Move("rest", None, 2, 2), Move("epochs", 2, 3, 3)], scale=6
    ),
}


def clock_of(run):
    return Clock(
        **run.clock_arguments,
        drop_remainder=run.drop_remainder,
        gradient_accumulation_steps=run.parts,
        multiple_of=run.multiple_of,
    )


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
class TestAgainstTheRunItself:
    def test_steps_and_examples(self, run):
        clock = clock_of(run)
        assert (clock.steps, clock.total_examples) == (run.steps, run.consumed[-1])
        steps = np.arange(run.steps + 5)
        assert clock.examples_at(steps).tolist() == [run.examples_at(step) for step in steps]
        assert [clock.examples_at(int(step)) for step in steps] == clock.examples_at(steps).tolist()

    def test_batch_sizes(self, run):
        clock = clock_of(run)
        steps = np.arange(run.steps)
        assert clock.batch_size_at(steps).tolist() == [run.batch_size_at(step) for step in steps]
        assert [clock.batch_size_at(int(step)) for step in steps] == clock.batch_size_at(steps).tolist()

    def test_micro_batches(self, run):
        clock = clock_of(run)
        taken = [clock.micro_batches(epoch).tolist() for epoch in range(run.epochs)]
        assert [sum(sizes) for sizes in taken] == np.diff(run.passes).tolist()
        assert sum(taken, []) == run.taken

    def test_step_at_undoes_examples_at(self, run):
        clock = clock_of(run)
        for step in range(run.steps + 1):
            example = clock.examples_at(step)
            assert clock.step_at(examples=example) == step
            if step and example < clock.total_examples:
                assert clock.step_at(examples=example - 0.5) == step
                assert clock.step_at(examples=example + 0.5) == step + 1

    def test_units_agree(self, run):
        clock = clock_of(run)
        for epoch in range(run.epochs + 1):
            first = next((tick for tick, seen in enumerate(run.consumed) if seen >= run.passes[epoch]), None)
            assert clock.step_at(epochs=epoch) == math.ceil(first / run.parts)
        for step in range(run.steps + 1):
            assert clock.step_at(steps=step) == step
            assert clock.epoch_at(step) == pytest.approx(float(run.epoch_at_example(clock.examples_at(step))))
        for fraction in (0, 0.1, 0.5, 1):
            examples = Fraction(repr(fraction)) * run.consumed[-1]
            assert clock.step_at(fraction=fraction) == math.ceil(run.tick_at_example(examples) / run.parts)

    def test_places_are_found_both_ways(self, run):
        clock = clock_of(run)
        for length in (
            Length(3, "steps"),
            Length(0.5, "steps"),
            Length(0.75, "epochs"),
            Length(7, "examples"),
            Length(0.3, "fraction"),
        ):
            there = clock.forward(clock.backward(clock.end, length), length)
            assert there == clock.end
            assert there.example == clock.example_at_tick(there.tick)

    def test_survives_json(self, run):
        clock = clock_of(run)
        again = Clock.from_dict(json.loads(json.dumps(clock.to_dict())))
        assert again == clock == eval(repr(clock), {**vars(verbs), "Clock": Clock})
        assert hash(again) == hash(clock)


def test_accumulated_micro_batches_left_at_the_end_are_no_update():
    clock = Clock(examples=100, epochs=1, batch_size=40, gradient_accumulation_steps=4)
    assert clock.micro_batches(0).tolist() == [10] * 10
    assert clock.steps == 2
    assert clock.examples_at([1, 2, 3]).tolist() == [40, 80, 100]


def test_replicas_share_the_batch():
    alone = Clock(examples=100, epochs=2, batch_size=32)
    shared = Clock(examples=100, epochs=2, batch_size=32, replicas=4)
    assert shared != alone
    steps = np.arange(10)
    assert shared.steps == alone.steps
    assert (shared.examples_at(steps) == alone.examples_at(steps)).all()


def test_before_the_begin_nothing_is_seen_and_past_the_end_the_total_holds():
    clock = Clock(examples=100, epochs=3, batch_size=32)
    assert clock.examples_at([-1, 0, 12, 13, 2**40]).tolist() == [0, 0, 300, 300, 300]
    assert clock.batch_size_at(2**40) == 32


def test_takes_numpy_numbers_and_whole_floats():
    clock = Clock(examples=np.int64(100), epochs=3.0, batch_size=np.int32(32), drop_remainder=np.bool_(True))
    assert clock == Clock(examples=100, epochs=3, batch_size=32, drop_remainder=True)
    assert type(clock.examples) is type(clock.epochs) is type(clock.batch_size) is int
    assert clock.drop_remainder is True


def test_repr_shows_what_is_not_the_default():
    clock = Clock(examples=100, epochs=3, batch_size=32, gradient_accumulation_steps=1, replicas=2)
    assert repr(clock) == "Clock(examples=100, epochs=3, batch_size=32, replicas=2)"


class TestLongRuns:
    """Closed forms, where nobody can play the run through."""

    def test_a_million_million_examples(self):
        examples, epochs, size = 10**12 + 7, 3, 1_000
        clock = Clock(examples=examples, epochs=epochs, batch_size=size)
        per_pass = 10**9 + 1
        assert clock.steps == 3 * per_pass
        for step in (
            0,
            1,
            per_pass - 1,
            per_pass,
            per_pass + 1,
            2 * per_pass,
            3 * per_pass - 1,
            3 * per_pass,
        ):
            passes, part = divmod(step, per_pass)
            seen = passes * examples + part * size
            assert clock.examples_at(step) == seen
            assert clock.step_at(examples=seen) == step
            assert clock.step_at(examples=max(0, seen - 1)) == step
        assert clock.step_at(epochs=2) == 2 * per_pass
        assert clock.step_at(fraction=1) == 3 * per_pass

    def test_a_million_million_examples_in_small_passes(self):
        clock = Clock(examples=1_000_003, epochs=10**6, batch_size=256, gradient_accumulation_steps=4)
        ticks = -(-1_000_003 // 64)
        assert clock.steps == 10**6 * ticks // 4
        for tick in (0, 4, 400, 10**9 * 4, (10**6 * ticks // 4) * 4):
            passes, part = divmod(tick, ticks)
            assert clock.examples_at(tick // 4) == passes * 1_000_003 + part * 64

    @pytest.mark.parametrize(
        "batch_size",
        [
            32,
            8 * (hold(epochs=300_000) >> hold(2, epochs=0.5) >> hold(4)),
            8 * linear(to=4),
            8 * cosine(to=2, epochs=10**5),
        ],
        ids=repr,
    )
    def test_a_million_passes_are_made_at_once(self, batch_size):
        began = time.process_time()
        clock = Clock(examples=100, epochs=10**6, batch_size=batch_size)
        assert clock.total_examples == 10**8
        assert clock.step_at(fraction=1) == clock.steps
        middle = clock.steps // 2
        assert clock.step_at(examples=clock.examples_at(middle)) == middle
        # Pass by pass it would take minutes.
        assert time.process_time() - began < 2

    def test_sums_of_sizes_that_grow(self):
        clock = Clock(examples=6_400, epochs=3_000, batch_size=64 * (hold(epochs=1_000) >> hold(4)))
        assert clock.steps == 1_000 * 100 + 2_000 * 25
        assert clock.examples_at(100_000) == 6_400_000
        assert clock.examples_at(100_001) == 6_400_256


def test_a_size_changes_with_the_pass_when_it_is_meant_to():
    # 64, 128, 192, 256: the middles between them lie at 1/6, 3/6 and 5/6 of the ramp, the ends of passes 1, 3 and 5.
    clock = Clock(examples=1_000, epochs=6, batch_size=64 * linear(to=4), multiple_of=64)
    begins = [clock.step_at(epochs=epoch) for epoch in range(7)]
    found = [set(clock.batch_size_at(np.arange(*ends))) for ends in zip(begins[:-1], begins[1:], strict=True)]
    assert found == [{64}, {128}, {128}, {192}, {192}, {256}]


@pytest.mark.parametrize(
    "arguments",
    [
        dict(examples=10, batch_size=20),
        dict(examples=10, batch_size=20 * (hold(epochs=1) >> hold(2))),
        dict(examples=10, batch_size=8 * (hold(epochs=1) >> hold(2))),
        dict(examples=10, batch_size=44, gradient_accumulation_steps=4),
    ],
    ids=str,
)
def test_drop_remainder_must_leave_something_of_every_pass(arguments):
    Clock(epochs=4, **arguments)
    with pytest.raises(ValueError, match="nothing is left of a pass"):
        Clock(epochs=4, drop_remainder=True, **arguments)
