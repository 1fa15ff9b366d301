import math

import numpy as np
import pytest

from kwarmup import Curve, cosine, curve, decay, exponential, hold, linear, polynomial, shapes, warmup

HALF = math.sqrt(0.5)

#: A profile beside its values at updates 0, 1, 2, …: the whole curve, and what it holds past its end.
CURVES = [
    (warmup(steps=4), [0, 0.25, 0.5, 0.75, 1, 1, 1]),
    (warmup(steps=4, start=0.2), [0.2, 0.4, 0.6, 0.8, 1, 1]),
    (warmup(steps=4, start=2), [2, 1.75, 1.5, 1.25, 1, 1]),
    (warmup(steps=4, shape="cosine"), [0, (1 - HALF) / 2, 0.5, (1 + HALF) / 2, 1, 1]),
    (warmup(steps=4, shape="sqrt"), [0, 0.5, HALF, math.sqrt(0.75), 1, 1]),
    (warmup(steps=4, shape="exponential", start=0.0625), [0.0625, 0.125, 0.25, 0.5, 1, 1]),
    (warmup(steps=4, shape=lambda t: t**3), [0, 1 / 64, 1 / 8, 27 / 64, 1, 1]),
    (warmup(steps=4, shape=shapes.polynomial(2)), [0, 7 / 16, 3 / 4, 15 / 16, 1, 1]),
    (hold(steps=2), [1, 1, 1, 1]),
    (hold(0.5), [0.5, 0.5]),
    (hold(0.5, steps=2), [0.5, 0.5, 0.5]),
    (hold(0), [0, 0]),
    (decay(steps=4), [1, 0.75, 0.5, 0.25, 0, 0]),
    (decay(steps=4, to=0.2), [1, 0.8, 0.6, 0.4, 0.2, 0.2]),
    (decay(steps=4, shape="sqrt"), [1, 0.5, 1 - HALF, 1 - math.sqrt(0.75), 0, 0]),
    (decay(steps=4, shape="exponential", to=0.0625), [1, 0.5, 0.25, 0.125, 0.0625, 0.0625]),
    (decay(steps=4, start=2), [2, 1.5, 1, 0.5, 0, 0]),
    (decay(steps=4, to=3), [1, 1.5, 2, 2.5, 3, 3]),
    (linear(steps=4), [1, 0.75, 0.5, 0.25, 0, 0]),
    (cosine(steps=4), [1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 0, 0]),
    (cosine(steps=4, to=0.5), [1, (3 + HALF) / 4, 0.75, (3 - HALF) / 4, 0.5, 0.5]),
    (polynomial(power=2, steps=4), [1, 9 / 16, 1 / 4, 1 / 16, 0, 0]),
    (polynomial(power=0.5, steps=4), [1, math.sqrt(0.75), HALF, 0.5, 0, 0]),
    (polynomial(power=3, steps=2, to=0.2), [1, 0.3, 0.2, 0.2]),
    (exponential(to=16, steps=4), [1, 2, 4, 8, 16, 16]),
    (exponential(to=0.0625, steps=4), [1, 0.5, 0.25, 0.125, 0.0625, 0.0625]),
    (exponential(to=1, steps=4), [1, 1, 1, 1, 1, 1]),
    (-1 * exponential(to=4, steps=2), [-1, -2, -4, -4]),
    (curve(lambda t: 4 * t * (1 - t), steps=4), [0, 0.75, 1, 0.75, 0, 0]),
    (curve(lambda t: 0 * t + 0.5, steps=4), [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
    (curve("linear", steps=4, low=1, high=3), [1, 1.5, 2, 2.5, 3, 3]),
    (curve(shapes.inverse_sqrt(1)), [1, HALF, 1 / math.sqrt(3), 0.5, 1 / math.sqrt(5)]),
    # Lengths need not be whole: update 2 is at 2 / 2.5, and update 3 is past the end.
    (linear(steps=2.5), [1, 0.6, 0.2, 0, 0]),
    (warmup(steps=0.5) >> hold(2), [0, 2, 2]),
    # A phase of length zero is a jump, also at the begin.
    (warmup(steps=0), [1, 1]),
    (warmup(steps=0) >> linear(steps=2), [1, 0.5, 0, 0]),
]


@pytest.mark.parametrize("profile, values", CURVES, ids=[repr(profile) for profile, _ in CURVES])
def test_whole_curve(profile, values):
    assert Curve(profile)(np.arange(len(values))) == pytest.approx(values, abs=1e-14)


SAME = {
    "decay is linear": (decay(steps=5, to=0.5), linear(steps=5, to=0.5)),
    "decay by name": (decay(steps=5, shape="cosine"), cosine(steps=5)),
    "decay by shape": (decay(steps=5, shape=shapes.polynomial(2)), polynomial(power=2, steps=5)),
    "decay by function": (decay(steps=5, shape=lambda t: 1 - (1 - t) ** 2), polynomial(power=2, steps=5)),
    "exponential is decay": (decay(steps=5, shape="exponential", to=0.1), exponential(to=0.1, steps=5)),
    "warmup is linear from 0": (warmup(steps=5), linear(steps=5, start=0, to=1)),
    "polynomial of power 1": (polynomial(power=1, steps=5), linear(steps=5)),
    "curve of a shape": (curve("cosine", steps=5, low=1, high=0), cosine(steps=5)),
    "hold is a curve": (hold(0.3, steps=5), curve(lambda t: 0 * t, steps=5, low=0.3)),
}


@pytest.mark.parametrize("left, right", SAME.values(), ids=SAME)
def test_same_values(left, right):
    steps = np.arange(8)
    assert Curve(left)(steps) == pytest.approx(Curve(right)(steps), abs=1e-14)
