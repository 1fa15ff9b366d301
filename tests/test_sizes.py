from fractions import Fraction

import pytest

from kwarmup import cosine, curve, exponential, hold, linear, shapes, warmup
from kwarmup.sizes import Rounding, stretches

F = Fraction


def sizes(profile, multiple_of=1, examples=100, epochs=6):
    """For each phase the sizes, and where they begin."""
    found = stretches(profile, examples, epochs, Rounding(multiple_of, multiple_of, None))
    return [(stretch.unit, stretch.sizes, stretch.offsets, stretch.length) for stretch in found]


@pytest.mark.parametrize(
    "value, multiple_of, size",
    [
        (64, 1, 64),
        (64.4, 1, 64),
        (64.5, 1, 65),
        (0.1, 1, 1),
        (95, 64, 64),
        (96, 64, 128),
        (0, 8, 8),
        (1e300, 1, 2**53),
    ],
)
def test_rounding(value, multiple_of, size):
    assert Rounding(multiple_of, multiple_of, None)(value) == size


@pytest.mark.parametrize("value, size", [(1, 16), (40, 40), (500, 64)])
def test_rounding_stays_within_limits(value, size):
    assert Rounding(8, 16, 64)(value) == size


class TestHold:
    def test_each_phase_is_one_size(self):
        found = sizes(64 * (hold(epochs=1) >> hold(2, examples=50) >> hold(4, steps=7)))
        assert found == [
            ("examples", (64,), (0,), 100),
            ("examples", (128,), (0,), 50),
            ("steps", (256,), (0,), 7),
            ("examples", (256,), (0,), None),
        ]

    def test_fractions_are_of_all_examples(self):
        assert sizes(8 * (hold(fraction=0.1) >> hold(2)))[0][3] == 60

    def test_rest_in_the_middle(self):
        found = sizes(8 * (hold(epochs=1) >> hold(2) >> hold(4, epochs=2)))
        assert [length for *_, length in found] == [100, 300, 200, None]


class TestRamp:
    @pytest.mark.parametrize(
        "profile, multiple_of, expected_sizes, offsets",
        [
            # The size changes where the value is in the middle between two sizes.
            (64 * linear(to=4, epochs=6), 64, (64, 128, 192, 256), (0, F(100), F(300), F(500))),
            (64 * linear(to=1, start=4, epochs=6), 64, (256, 192, 128, 64), (0, F(100), F(300), F(500))),
            (10 * linear(to=4, epochs=3), 10, (10, 20, 30, 40), (0, F(50), F(150), F(250))),
            (64 * cosine(to=2, epochs=3), 32, (64, 96, 128), (0, F(100), F(200))),
            (8 * warmup(epochs=1, start=0.25), 2, (2, 4, 6, 8), (0, F(100, 6), F(300, 6), F(500, 6))),
            (3 * linear(to=1), 1, (3,), (0,)),
            (8 * linear(to=2, epochs=0), 8, (8, 16), (0, 0)),
        ],
    )
    def test_where_sizes_change(self, profile, multiple_of, expected_sizes, offsets):
        unit, found, places, _ = sizes(profile, multiple_of)[0]
        assert (unit, found, places) == ("examples", expected_sizes, offsets)

    def test_exponential_changes_at_the_geometric_middle_of_no_two_sizes(self):
        # 1 · 8 ** t reaches 1.5 at log(1.5) / log(8).
        _, found, places, length = sizes(exponential(to=8, epochs=1))[0]
        assert found == tuple(range(1, 9))
        assert [8 ** float(place / length) for place in places[1:]] == pytest.approx(
            [n + 0.5 for n in range(1, 8)]
        )

    def test_goes_on_from_where_the_ramp_ended(self):
        found = sizes(8 * (linear(to=2.5, epochs=1) >> hold() >> linear(to=1, epochs=2)))
        assert found[1][1] == (20,)
        assert (found[2][1][0], found[2][1][-1]) == (20, 8)

    def test_from_a_function(self):
        assert sizes(curve(lambda t: t, low=8, high=10, epochs=1))[0][1] == (8, 9, 10)


@pytest.mark.parametrize(
    "profile, words",
    [
        (8 * hold(epochs=7), "phases that fit into the run of 6 epochs of 100 examples"),
        (8 * (hold() >> hold(2, steps=5)), "lengths in epochs, examples or fractions around a phase"),
        (8 * (hold(steps=5) >> linear(to=2)), "a length for a ramp behind lengths in steps"),
        (8 * curve(lambda t: 1 + t * (1 - t), epochs=1), "a shape that only goes up or only goes down"),
        (8 * curve(shapes.inverse_sqrt(10), epochs=1), "a shape of the progress, not of the step"),
    ],
)
def test_refused(profile, words):
    with pytest.raises(ValueError, match=words):
        sizes(profile)
