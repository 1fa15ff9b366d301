from fractions import Fraction

import numpy as np
import pytest

from kwarmup.length import UNITS, Length, number


@pytest.mark.parametrize(
    "unit, value", [("steps", 500), ("epochs", 0.5), ("examples", 50_000), ("fraction", 0.1)]
)
def test_reads_each_unit(unit, value):
    length = Length.read("hold", **{unit: value})
    assert (length.value, length.unit, length.keyword) == (value, unit, f"{unit}={value}")


def test_no_unit_is_the_rest():
    assert Length.read("hold") == Length.read("hold", **dict.fromkeys(UNITS)) == Length()
    assert (Length().unit, Length().value, Length().keyword) == ("rest", None, "")


@pytest.mark.parametrize(
    "written, stored",
    [
        (5, 5),
        (5.0, 5),
        (0, 0),
        (0.25, 0.25),
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (np.float64(3), 3),
        (Fraction(1, 2), 0.5),
        (10**12, 10**12),
    ],
)
def test_numbers_become_plain(written, stored):
    value = number("steps", written, "")
    assert value == stored
    assert type(value) is type(stored)


@pytest.mark.parametrize("written", ["5", None, True, np.bool_(True), 1j, [5], np.array([1, 2])])
def test_what_is_no_number_is_refused(written):
    with pytest.raises(TypeError, match="a real number"):
        number("steps", written, "")


@pytest.mark.parametrize("written", [float("nan"), float("inf"), -float("inf"), np.float32("inf")])
def test_what_is_not_finite_is_refused(written):
    with pytest.raises(ValueError, match="a finite number"):
        number("steps", written, "")


@pytest.mark.parametrize(
    "value, exact",
    [
        (0.1, Fraction(1, 10)),
        (0.3, Fraction(3, 10)),
        (1e-6, Fraction(1, 10**6)),
        (10**15 + 1, Fraction(10**15 + 1)),
    ],
)
def test_exact_is_what_the_author_wrote(value, exact):
    assert Length(value, "fraction").exact == exact
