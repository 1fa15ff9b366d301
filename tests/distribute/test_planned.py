"""`plan.on`: which plans divide over so many devices, and what is said where one does not."""

import types

import numpy as np
import pytest

from kwarmup import Plan, cosine, follow_noise, hold, linear, warmup
from kwarmup.distribute.shares import Shares


def devices(count):
    return types.SimpleNamespace(num_replicas_in_sync=count)


def plan(batch_size, **more):
    return Plan(learning_rate=0.1 * cosine(), batch_size=batch_size, examples=1_000, epochs=4, **more)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [12, 12 * (hold(epochs=1) >> hold(3)), follow_noise(12, 48)])
def test_a_plan_that_divides_stays_as_it_is(count, batch_size):
    if count > 1 and not isinstance(batch_size, int) and "follow" in repr(batch_size):
        with pytest.raises(ValueError, match="measured on one device"):
            plan(batch_size).on(devices(count))
        return
    found = plan(batch_size).on(devices(count))
    assert found == plan(batch_size).replace(replicas=count)
    assert found.learning_rate == plan(batch_size).learning_rate


@pytest.mark.parametrize(
    ("made", "count"),
    [
        (plan(33), 2),
        (plan(1), 4),
        (plan(250), 4),
        (plan(12, gradient_accumulation_steps=2), 4),
        (plan(33 * (hold(epochs=1) >> hold(2))), 2),
        (plan(32 * linear(start=1, to=4, epochs=2), max_batch_size=101, min_batch_size=7), 4),
        (plan(45 * (hold(epochs=1) >> hold(2)), multiple_of=3), 4),
    ],
)
def test_the_plan_that_is_said_divides(made, count):
    with pytest.raises(ValueError, match="divide by") as error:
        made.on(devices(count))
    write = str(error.value).partition("Write: ")[2]
    found = eval(write, {"plan": made, "strategy": devices(count)})
    unit = count * made.clock.gradient_accumulation_steps
    sizes = {segment.batch_size for _, segment in found.clock.segments_between(0, None)}
    assert sizes and all(size % unit == 0 for size in sizes)
    before = {segment.batch_size for _, segment in made.clock.segments_between(0, None)}
    # Nearest: no size is further away than half a unit, or what limits and roundings of its own leave.
    assert abs(max(sizes) - max(before)) < max(unit, np.lcm(unit, made.clock.multiple_of))


@pytest.mark.parametrize(("scaling", "factor"), [(1, 4.0), (0.5, 2.0)])
def test_scale_batch_scales_the_batch_and_the_learning_rate_by_the_rule(scaling, factor):
    made = plan(10 * (hold(epochs=1) >> hold(2)), scaling=scaling, max_batch_size=20, min_batch_size=10)
    found = made.on(devices(4), scale_batch=True)
    assert [row.batch_sizes for row in found.rows] == [
        tuple(4 * b for b in row.batch_sizes) for row in made.rows
    ]
    assert found.curve(0) == pytest.approx(factor * made.curve(0))
    # At the same place in the data the same factor lies between them.
    assert found.curve(found.clock.step_at(epochs=3)) == pytest.approx(
        factor * made.curve(made.clock.step_at(epochs=3))
    )


def test_scale_batch_wants_a_rule():
    with pytest.raises(ValueError, match="scaling=1") as error:
        plan(10).on(devices(4), scale_batch=True)
    write = str(error.value).partition("Write: ")[2].split(" for ")[0]
    assert eval(write, {"plan": plan(10), "strategy": devices(4)}).clock.batch_size == 40


def test_what_is_no_strategy_is_refused():
    with pytest.raises(TypeError, match="`strategy`: expected a tf.distribute strategy"):
        plan(10).on(2)


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("local", [1, 2])
def test_shares_take_each_row_once_and_in_order(replicas, local):
    sizes = np.array([7, 1, 0, 12, 5])
    ends = np.cumsum(sizes)
    begins = ends - sizes
    pieces = {number: [] for number in range(replicas * local)}
    for worker in range(replicas):
        cut = zip(*Shares(replicas * local, worker * local, local).cut(begins, ends), strict=True)
        for index, (begin, end) in enumerate(cut):
            pieces[worker * local + index % local].append((index // local, begin, end))
    for batch, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        parts = [(b, e) for number in pieces for n, b, e in pieces[number] if n == batch]
        assert [row for b, e in parts for row in range(b, e)] == list(range(begin, end))
        lengths = [e - b for b, e in parts]
        assert max(lengths) - min(lengths) <= 1


def test_a_learning_rate_made_before_fits_the_plan_on_devices():
    made = plan(12, scaling=1).replace(learning_rate=0.1 * (warmup(epochs=1) >> cosine()))
    assert made.on(devices(3)).learning_rate == made.learning_rate


def test_on_jax_the_last_batch_must_divide_too():
    mesh = types.SimpleNamespace(axis_names=["batch"], shape=(4,))
    strategy = types.SimpleNamespace(device_mesh=mesh, batch_dim_name="batch")
    assert plan(8).on(strategy).clock.replicas == 4
    with pytest.raises(ValueError, match="a last batch of 10 examples") as error:
        plan(12).replace(examples=1_006).on(strategy)
    write = str(error.value).partition("Write: ")[2]
    assert eval(write, {"plan": plan(12).replace(examples=1_006), "strategy": strategy}).clock.replicas == 4
