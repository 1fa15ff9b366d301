import math

import numpy as np
import pytest

from kwarmup import Profile, curve, decay, shapes

STANDARD = [
    shapes.linear,
    shapes.cosine,
    shapes.sqrt,
    shapes.exponential,
    shapes.polynomial(0.5),
    shapes.polynomial(1),
    shapes.polynomial(2),
    shapes.polynomial(9),
]
T = np.linspace(0, 1, 101)


@pytest.fixture
def registry(monkeypatch):
    """A registry of this test alone."""
    monkeypatch.setattr(shapes, "_NAMED", dict(shapes._NAMED))


@pytest.mark.parametrize("shape", STANDARD, ids=repr)
class TestEveryStandardShape:
    def test_goes_from_0_to_1(self, shape):
        assert shape(0) == 0
        assert shape(1) == pytest.approx(1, abs=1e-15)

    def test_only_goes_up(self, shape):
        assert (np.diff(shape(T[T < 0.95])) > 0).all()

    def test_comes_back_from_json(self, shape):
        assert shapes.from_json(shapes.to_json(shape)) == shape

    def test_backward_is_the_shape_read_from_its_end(self, shape):
        if shape.backward is not None:
            np.testing.assert_allclose(shape.backward(1 - T), shape(T), atol=1e-12)


def test_a_shape_steep_at_its_end_has_a_backward():
    steep = [shape for shape in STANDARD if not shape.geometric and shape(1) - shape(1 - 1e-6) > 1e-4]
    assert steep == [shapes.polynomial(0.5)]
    assert all(shape.backward is not None for shape in steep)


@pytest.mark.parametrize(
    "shape, t, value",
    [
        (shapes.linear, 0.3, 0.3),
        (shapes.cosine, 1 / 3, 0.25),
        (shapes.cosine, 0.5, 0.5),
        (shapes.sqrt, 0.25, 0.5),
        (shapes.polynomial(2), 0.5, 0.75),
        (shapes.polynomial(0.5), 0.75, 0.5),
        (shapes.polynomial(1), 0.3, 0.3),
        # The look at an exponential on its own takes a fall by e.
        (shapes.exponential, 0.5, (1 - math.exp(-0.5)) / (1 - math.exp(-1))),
        (shapes.inverse_sqrt(4000), 0, 1),
        (shapes.inverse_sqrt(4000), 12_000, 0.5),
    ],
    ids=repr,
)
def test_values(shape, t, value):
    assert shape(t) == pytest.approx(value, abs=1e-15)


def test_takes_arrays():
    assert shapes.sqrt([0, 0.25, 1]).tolist() == [0, 0.5, 1]
    assert shapes.sqrt(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("name", ["linear", "cosine", "sqrt", "exponential"])
def test_by_name(name):
    assert shapes.as_shape(name) is getattr(shapes, name)
    assert repr(getattr(shapes, name)) == f"shapes.{name}"


def test_by_function():
    def square(t):
        return t * t

    shape = shapes.as_shape(square)
    assert (shape(0.5), shape.name, repr(shape)) == (0.25, "square", "'square'")
    assert shape == shapes.as_shape(square)
    assert shape != shapes.as_shape(lambda t: t * t)


class TestRegister:
    def test_found_by_name_and_by_function(self, registry):
        @shapes.register
        def smoothstep(t):
            return t * t * (3 - 2 * t)

        shape = shapes.as_shape("smoothstep")
        assert shape == shapes.as_shape(smoothstep) == shapes.from_json("smoothstep")
        assert shapes.to_json(shape) == "smoothstep"
        profile = decay(shape=smoothstep, steps=5)
        assert Profile.from_json(profile.to_json()) == profile == eval(repr(profile))

    def test_a_function_of_any_ends_is_for_curve_alone(self, registry):
        @shapes.register
        def bump(t):
            return 4 * t * (1 - t)

        profile = curve(bump, steps=5)
        assert (
            Profile.from_json(profile.to_json()) == profile == curve("bump", steps=5) == eval(repr(profile))
        )
        for shape in (bump, "bump"):
            with pytest.raises(ValueError, match=r"f\(0\) = 0 and f\(1\) = 1"):
                decay(shape=shape, steps=5)

    def test_a_factory_takes_arguments(self, registry):
        def power(n):
            return shapes.Shape("power", lambda xp, t, n: t**n, (("n", n),))

        shapes.register(power, factory=True)
        shape = shapes.from_json({"name": "power", "n": 3})
        assert (shape(0.5), shapes.to_json(shape)) == (0.125, {"name": "power", "n": 3})

    def test_a_name_is_given_once(self, registry):
        with pytest.raises(ValueError, match="a name that no other shape has"):
            shapes.register(lambda t: t, name="cosine")

    def test_defining_the_same_function_again_is_no_clash(self, registry):
        def define():
            @shapes.register
            def again(t):
                return t

        define()
        define()


def test_a_function_that_is_not_registered_cannot_be_written_to_json():
    def mine(t):
        return t

    with pytest.raises(ValueError, match="registered name") as caught:
        shapes.to_json(shapes.as_shape(mine))
    assert "@kwarmup.shapes.register above `def mine(t): ...`" in str(caught.value)
    with pytest.raises(ValueError, match=r"`def my_shape\(t\): ...`"):
        shapes.to_json(shapes.as_shape(lambda t: t))


def test_a_function_named_like_a_builtin_is_not_written_as_it():
    def cosine(t):
        return t

    with pytest.raises(ValueError, match="registered name"):
        shapes.to_json(shapes.as_shape(cosine))
