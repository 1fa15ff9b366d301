import copy
import json
import pickle

import numpy as np
import pytest

from kwarmup import (
    Curve,
    Profile,
    cosine,
    curve,
    decay,
    exponential,
    hold,
    linear,
    polynomial,
    shapes,
    warmup,
)

#: Each profile, and the one way in which it prints itself.
PRINTED = [
    (warmup(steps=500), "warmup(steps=500)"),
    (warmup(), "warmup()"),
    (warmup(epochs=5, start=0.1), "warmup(epochs=5, start=0.1)"),
    (warmup(steps=5.0, start=0.0), "warmup(steps=5)"),
    (warmup(steps=5, shape="cosine"), "warmup(steps=5, shape='cosine')"),
    (warmup(steps=5, shape=shapes.polynomial(2)), "warmup(steps=5, shape=shapes.polynomial(power=2))"),
    (hold(), "hold()"),
    (hold(0.5), "hold(0.5)"),
    (hold(fraction=0.25), "hold(fraction=0.25)"),
    (hold(2, examples=100), "hold(2, examples=100)"),
    (decay(steps=5), "linear(steps=5)"),
    (decay(steps=5, shape="sqrt", to=0.1), "decay(steps=5, shape='sqrt', to=0.1)"),
    (decay(steps=5, shape="cosine"), "cosine(steps=5)"),
    (linear(to=0.1), "linear(to=0.1)"),
    (linear(steps=3, to=1, start=0), "warmup(steps=3)"),
    (cosine(steps=3, start=0.5), "cosine(steps=3, start=0.5)"),
    (polynomial(power=2, steps=3), "polynomial(steps=3, power=2)"),
    (exponential(to=0.01, steps=3), "exponential(steps=3, to=0.01)"),
    (curve("linear", steps=3), "warmup(steps=3)"),
    (curve(shapes.inverse_sqrt(40)), "curve(shapes.inverse_sqrt(timescale=40))"),
    (
        curve(shapes.inverse_sqrt(40), steps=3, low=1, high=2),
        "curve(shapes.inverse_sqrt(timescale=40), steps=3, low=1, high=2)",
    ),
    (0.1 * warmup(steps=3), "0.1 * warmup(steps=3)"),
    (0.1 * (warmup(steps=3) >> cosine()), "0.1 * (warmup(steps=3) >> cosine())"),
    (warmup(steps=3) >> hold(steps=1) >> cosine(), "warmup(steps=3) >> hold(steps=1) >> cosine()"),
    (-1 * hold(), "-1 * hold()"),
    (1 * hold(), "hold()"),
    (0.1 * (10 * hold()), "hold()"),
]


@pytest.mark.parametrize("profile, code", PRINTED, ids=[code for _, code in PRINTED])
def test_repr_is_the_code_that_makes_it(profile, code):
    assert repr(profile) == code
    assert eval(code) == profile


@pytest.mark.parametrize("profile", [profile for profile, _ in PRINTED], ids=repr)
def test_is_a_value(profile):
    for other in (
        Profile.from_json(profile.to_json()),
        Profile.from_dict(json.loads(json.dumps(profile.to_dict()))),
        copy.deepcopy(profile),
        pickle.loads(pickle.dumps(profile)),
    ):
        assert other == profile
        assert hash(other) == hash(profile)
        assert repr(other) == repr(profile)


#: Expressions that are equal, though written differently.
a, b, c = warmup(steps=3), hold(steps=2), cosine(steps=5)
EQUAL = {
    "join groups freely": ((a >> b) >> c, a >> (b >> c)),
    "join is the constructor": (a >> b >> c, Profile([a, b, c])),
    "phases too": (a >> b, Profile(a.phases + b.phases)),
    "scale commutes": (2 * a, a * 2),
    "scale moves out of the first phase": ((2 * a) >> b, 2 * (a >> b)),
    "scales multiply": (2 * (3 * a), 6 * a),
    "scale of the constructor": (Profile([a, b], 2), 2 * (a >> b)),
    "scales of both": (Profile([2 * a, b], 3), 6 * (a >> b)),
    "1 is no scale": (1 * a, a),
    "an int is its float": (2.0 * a, 2 * a),
    "numpy numbers": (np.float64(0.5) * a, 0.5 * a),
    "numpy lengths": (warmup(steps=np.int32(3)), a),
}


@pytest.mark.parametrize("left, right", EQUAL.values(), ids=EQUAL)
def test_equal_expressions(left, right):
    assert left == right
    assert hash(left) == hash(right)


@pytest.mark.parametrize("other", [2 * a, warmup(steps=4), warmup(epochs=3), a >> b, 3, "a", None], ids=repr)
def test_unequal(other):
    assert a != other


def test_nothing_is_filled_in_by_joining():
    assert (a >> b).phases == a.phases + b.phases


def test_is_frozen():
    with pytest.raises(AttributeError):
        a.scale = 2


def test_is_not_callable():
    # Keras would take any callable for a learning rate, and call it without a step.
    assert not callable(a)


@pytest.mark.parametrize(
    "profile, peak",
    [
        (a >> c, 1),
        (0.1 * (a >> c), 0.1),
        (3 * hold(0.5), 1.5),
        (warmup(steps=3) >> linear(steps=3, to=2), 2),
        (linear(to=0.5, start=0.2), 0.5),
        (hold(0), 0),
    ],
    ids=repr,
)
def test_peak(profile, peak):
    assert profile.peak == pytest.approx(peak)


#: Where a phase starts is where the last one ended, and 1 for the first.
CONTINUATIONS = [
    (linear(steps=2), [1, 0.5, 0]),
    (hold(steps=2), [1, 1, 1]),
    (warmup(steps=2) >> hold(steps=1) >> linear(steps=2), [0, 0.5, 1, 1, 0.5, 0]),
    (linear(steps=2, to=0.5) >> linear(steps=2), [1, 0.75, 0.5, 0.25, 0]),
    (hold(0.5, steps=1) >> linear(steps=2, to=1), [0.5, 0.5, 0.75, 1]),
    (linear(steps=2, to=0.5) >> hold(2, steps=1) >> hold(), [1, 0.75, 2, 2]),
    (linear(steps=2) >> linear(steps=2, start=1), [1, 0.5, 1, 0.5, 0]),
    (hold(steps=1) >> linear(steps=0, to=0.25) >> hold(steps=1), [1, 0.25, 0.25]),
    (curve("sqrt", steps=4, low=0, high=2) >> linear(steps=2), [0, 1, 2**0.5, 3**0.5, 2, 1, 0]),
    (curve(lambda t: 1 - t / 2, steps=2) >> linear(steps=2), [1, 0.75, 0.5, 0.25, 0]),
    (curve(shapes.inverse_sqrt(1), steps=3) >> linear(steps=2), [1, 0.5**0.5, 3**-0.5, 0.5, 0.25, 0]),
    (curve(lambda t: 1 - t, steps=2, low=2, high=4) >> hold(), [4, 3, 2, 2]),
]


@pytest.mark.parametrize(
    "profile, values", CONTINUATIONS, ids=[repr(profile) for profile, _ in CONTINUATIONS]
)
def test_a_phase_goes_on_where_the_last_one_ended(profile, values):
    assert Curve(profile)(np.arange(len(values))) == pytest.approx(values, abs=1e-15)
