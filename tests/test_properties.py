"""What must hold for any profile and any run, sought by hypothesis."""

import numpy as np
import tensorflow as tf
from brute_force import Move, Run
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_clock import clock_of

from kwarmup import Clock, Curve, Profile, Schedule, cosine, hold, linear, polynomial, shapes, verbs, warmup

# The same examples every time: what CI finds, everybody finds.
settings.register_profile("kwarmup", derandomize=True, deadline=None, max_examples=150)
settings.load_profile("kwarmup")

WORDS = {**vars(verbs), "shapes": shapes, "Profile": Profile, "Clock": Clock}

values = st.one_of(st.integers(0, 4), st.floats(0, 10, allow_subnormal=False)).map(lambda value: value or 0)
powers = st.floats(0.1, 10)
standard = st.one_of(
    st.sampled_from([shapes.linear, shapes.cosine, shapes.sqrt]), powers.map(shapes.polynomial)
)
lengths = {
    "steps": st.one_of(st.integers(0, 60), st.floats(0, 60)),
    "epochs": st.one_of(st.integers(0, 5), st.floats(0, 5)),
    "examples": st.integers(0, 1_000),
    "fraction": st.floats(0, 1),
}


@st.composite
def phases(draw, units=("steps",)):
    unit = draw(st.sampled_from(units))
    length = {unit: draw(lengths[unit])}
    kind = draw(st.sampled_from(["warmup", "hold", "decay", "exponential", "curve"]))
    if kind == "hold":
        return hold(draw(st.none() | values), **length)
    if kind == "exponential":
        above = st.floats(1e-3, 10)
        return verbs.exponential(start=draw(above), to=draw(above), **length)
    if kind == "curve":
        return verbs.curve(draw(standard), low=draw(values), high=draw(values), **length)
    if kind == "warmup":
        return warmup(start=draw(values), shape=draw(standard), **length)
    return verbs.decay(to=draw(values), start=draw(st.none() | values), shape=draw(standard), **length)


scales = st.floats(1e-3, 1e3).map(lambda value: float(f"{value:.3g}"))
in_steps = st.lists(phases(), min_size=1, max_size=4).map(Profile)
in_any_unit = st.lists(phases(tuple(lengths)), min_size=1, max_size=4).map(Profile)


def alike(found, expected, tolerance):
    """Equal to `tolerance` times the peak."""
    peak = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * peak)


@given(in_any_unit, in_any_unit, in_any_unit)
def test_join_groups_freely(a, b, c):
    assert (a >> b) >> c == a >> (b >> c) == Profile([a, b, c])


@given(scales, in_steps, in_steps)
@example(1.0, hold(steps=1), verbs.exponential(steps=5e-324, to=2, start=1))
def test_scale_moves_through_a_join(scale, a, b):
    assert scale * (a >> b) == (scale * a) >> b
    steps = np.arange(300)
    alike(Curve(scale * (a >> b))(steps), scale * Curve(a >> b)(steps), 1e-13)


@given(scales, in_any_unit)
def test_repr_and_json_come_back(scale, a):
    profile = scale * a
    assert eval(repr(profile), WORDS) == profile
    assert Profile.from_json(profile.to_json()) == profile


@given(scales, in_steps)
@example(0.1, warmup(steps=3, shape=shapes.polynomial(0.1)) >> verbs.exponential(to=1e-300, steps=7))
def test_never_negative_and_never_above_the_peak(scale, a):
    profile = scale * a
    found = Curve(profile)(np.arange(300))
    assert found.min() >= 0
    assert found.max() <= profile.peak * (1 + 1e-12)


@given(in_steps, st.integers(1, 8))
def test_accumulation_changes_nothing_for_an_update(a, parts):
    steps = np.arange(300)
    alike(Curve(a, gradient_accumulation_steps=parts)(steps), Curve(a)(steps), 1e-13)


@given(in_steps)
def test_held_from_its_end_on(a):
    found = Curve(a)
    assert len(set(found(found.end + np.array([0, 1, 10, 10**6, 10**12])))) == 1


@st.composite
def runs(draw):
    parts = draw(st.sampled_from([1, 1, 2, 3]))
    examples, epochs, drop = draw(st.integers(1, 90)), draw(st.integers(1, 5)), draw(st.booleans())
    if draw(st.booleans()):
        run = Run(examples, epochs, parts * draw(st.integers(1, 60)), drop, parts)
    else:
        # Where a remainder is dropped, the place at which a length in steps turns into examples is not defined.
        units = ("examples", "epochs") if drop else ("examples", "epochs", "steps")
        moves = []
        for _ in range(draw(st.integers(1, 3))):
            unit = draw(st.sampled_from(units))
            amount = draw(st.integers(0, {"examples": 100, "epochs": 3, "steps": 9}[unit]))
            ends = st.sampled_from([1, 1.5, 2, 3])
            shape = draw(st.sampled_from(["linear", "cosine", "sqrt", "exponential"]))
            moves.append(Move(unit, amount, draw(ends), draw(ends), shape))
        assume(
            sum(m.amount * {"examples": 1, "epochs": examples, "steps": 0}[m.unit] for m in moves)
            <= examples * epochs
        )
        run = Run(
            examples, epochs, moves, drop, parts, multiple_of=parts, scale=parts * draw(st.integers(1, 6))
        )
    assume(all(before < after for before, after in zip(run.passes, run.passes[1:], strict=False)))
    assume(run.steps > 0)
    return run


@given(runs())
def test_clock_is_the_run_and_undoes_itself(run):
    clock = clock_of(run)
    steps = np.arange(run.steps + 3)
    assert clock.examples_at(steps).tolist() == [run.examples_at(step) for step in steps]
    assert clock.batch_size_at(steps[:-3]).tolist() == [run.batch_size_at(step) for step in steps[:-3]]
    assert [clock.step_at(examples=int(seen)) for seen in clock.examples_at(steps[:-2])] == steps[
        :-2
    ].tolist()


@given(runs(), st.floats(0, 1), st.sampled_from([0, 0.5, 1]))
def test_curve_is_the_run(run, part, scaling):
    moves = [
        Move("fraction", round(part / 2, 3), 0.1, 1, "exponential"),
        Move("rest", None, 1, 1),
        Move("fraction", 0.25, 1, 0, "cosine"),
    ]
    profile = Profile([move.phase for move in moves])
    found = Curve(profile, clock_of(run), scaling=scaling)(np.arange(run.steps))
    np.testing.assert_allclose(found, run.values(moves, scaling=scaling), rtol=0, atol=1e-12)


@given(st.integers(1, 500), st.integers(1, 20), st.integers(1, 600), st.booleans())
def test_one_epoch_is_its_examples(examples, epochs, batch_size, drop_remainder):
    assume(not drop_remainder or batch_size <= examples)
    clock = Clock(examples=examples, epochs=epochs, batch_size=batch_size, drop_remainder=drop_remainder)
    steps = np.arange(clock.steps + 3)
    per_pass = clock.total_examples // epochs
    one = Curve(warmup(epochs=1) >> cosine(), clock)(steps)
    assert (one == Curve(warmup(examples=per_pass) >> cosine(), clock)(steps)).all()
    assert (one == Curve(warmup(epochs=1) >> cosine(epochs=epochs - 1), clock)(steps)).all()


@given(in_steps, scales)
@settings(max_examples=25)
def test_host_is_eager(a, scale):
    schedule = Schedule(scale * a)
    steps = np.arange(300)
    alike(schedule(steps), schedule.curve(steps), 1e-6)


@given(in_any_unit)
@settings(max_examples=6)
def test_host_is_graph_is_xla(a):
    clock = Clock(examples=100, epochs=50, batch_size=32)
    try:
        schedule = Schedule(a, clock)
    except ValueError as error:
        assume("fit into the run" not in str(error))
        raise
    steps = np.arange(clock.steps + 10)
    for jit_compile in (False, True):
        found = tf.function(schedule.__call__, jit_compile=jit_compile)(tf.constant(steps))
        alike(found, schedule.curve(steps), 1e-6)


@given(st.integers(1, 2**31 - 2), st.integers(0, 2**31 - 2), standard)
def test_progress_in_closed_form(length, step, shape):
    found = Curve(
        linear(steps=length, start=0, to=1) if shape == shapes.linear else warmup(steps=length, shape=shape)
    )
    expected = shape(min(1.0, step / length)) if shape != shapes.linear else min(1.0, step / length)
    assert abs(found(step) - expected) < 1e-6


@given(st.integers(1, 10**6), st.floats(0.1, 0.9))
def test_a_steep_end_is_exact_to_its_last_step(length, power):
    # The value one step before the end is (1 / length) ** power.
    found = Curve(polynomial(power=power, steps=length))
    assert abs(found(length - 1) / length**-power - 1) < 1e-9
    assert found(length) == 0
