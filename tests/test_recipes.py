"""Recipes: as profiles they equal, as numbers from papers, as code, as JSON, and in their errors."""

import math
from fractions import Fraction

import numpy as np
import pytest
from keras import ops

import kwarmup as kw
from kwarmup import shapes
from kwarmup.profile import Profile

NAMESPACE = {**{name: getattr(kw, name) for name in kw.__all__}, "shapes": shapes}
CLOCK = kw.Clock(examples=640, epochs=25, batch_size=64)  # 250 updates


def smoothstep(t):
    return t * t * (3 - 2 * t)


# A recipe beside the profile it stands for.
EQUAL = [
    (
        kw.one_cycle(200, anneal_strategy="linear"),
        kw.warmup(steps=59, start=0.04) >> kw.linear(steps=140, to=4e-6),
    ),
    (kw.one_cycle(epochs=4, steps_per_epoch=50), kw.one_cycle(200)),
    (kw.one_cycle(100, anneal_strategy="cosine"), kw.one_cycle(100)),
    (kw.one_cycle(100, anneal_strategy=shapes.cosine), kw.one_cycle(100)),
    (
        kw.one_cycle(100, pct_start=0.4, three_phase=True, div_factor=10, final_div_factor=100),
        kw.warmup(steps=39, start=0.1, shape="cosine")
        >> kw.cosine(steps=39, to=0.1)
        >> kw.cosine(steps=21, to=0.001),
    ),
    (
        kw.one_cycle(100, pct_start=0.5, anneal_strategy="sqrt"),
        kw.warmup(steps=49, start=0.04, shape="sqrt") >> kw.decay(steps=50, shape="sqrt", to=4e-6),
    ),
    (
        # 1 / 49 * 49 is just below 1
        kw.one_cycle(49, pct_start=1 / 49, anneal_strategy="sqrt"),
        kw.decay(steps=48, shape="sqrt", to=4e-6, start=1),
    ),
    (kw.one_cycle(10, pct_start=0.1), kw.cosine(steps=9, to=4e-6, start=1)),
    (kw.one_cycle(10, pct_start=1), kw.warmup(steps=9, start=0.04, shape="cosine")),
    (
        kw.one_cycle(10, pct_start=1, three_phase=True, anneal_strategy="sqrt"),
        kw.warmup(steps=9, start=0.04, shape="sqrt"),
    ),
    (
        kw.one_cycle_momentum(100, pct_start=0.4, anneal_strategy="linear"),
        kw.linear(start=0.95, to=0.85, steps=39) >> kw.linear(to=0.95, steps=60),
    ),
    (
        kw.wsd(kw.warmup(epochs=2), kw.decay(fraction=0.2, shape="sqrt")),
        kw.warmup(epochs=2) >> kw.hold() >> kw.decay(fraction=0.2, shape="sqrt"),
    ),
    (
        kw.wsd(kw.warmup(steps=9), kw.exponential(to=0.1, steps=10), stable=kw.hold(steps=40)),
        kw.warmup(steps=9) >> kw.hold(steps=40) >> kw.exponential(to=0.1, steps=10),
    ),
    (
        kw.wsd(0.1 * kw.warmup(steps=9), kw.linear(steps=9)),
        0.1 * kw.wsd(kw.warmup(steps=9), kw.linear(steps=9)),
    ),
    (kw.flat_cosine(epochs=10, to=0.1), kw.hold(epochs=10) >> kw.cosine(to=0.1)),
    (
        kw.cosine_restarts(epochs=1, cycles=3, t_mul=2),
        kw.cosine(epochs=1) >> kw.cosine(epochs=2, start=1) >> kw.cosine(epochs=4, start=1),
    ),
    (
        kw.cosine_restarts(steps=10, cycles=3, t_mul=1.1, m_mul=0.5, to=0.2),
        kw.cosine(steps=10, to=0.2)
        >> kw.cosine(steps=11, start=0.6, to=0.2)
        >> kw.cosine(steps=12.1, start=0.4, to=0.2),
    ),
    (
        kw.cyclic(epochs=2, down=3, base=0.5, cycles=2, m_mul=0.5),
        kw.linear(start=0.5, to=1, epochs=2)
        >> kw.linear(to=0.5, epochs=3)
        >> kw.linear(to=0.75, epochs=2)
        >> kw.linear(to=0.5, epochs=3),
    ),
    (
        kw.step_decay(fraction=0.3, drops=3),
        kw.hold(fraction=0.3) >> kw.hold(0.1, fraction=0.3) >> kw.hold(0.01, fraction=0.3) >> kw.hold(0.001),
    ),
    (
        # 0.8 - 0.1 in binary is above 0.7, and would come one update late
        kw.multistep(fraction=[0.1, 0.8]),
        kw.hold(fraction=0.1) >> kw.hold(0.1, fraction=0.7) >> kw.hold(0.01),
    ),
    (kw.multistep(steps=[3, 6, 9], gamma=0.5), kw.step_decay(steps=3, drops=3, gamma=0.5)),
    (kw.inverse_sqrt(steps=40), kw.warmup(steps=40) >> kw.curve(shapes.inverse_sqrt(timescale=40))),
    (
        kw.inverse_sqrt(epochs=4, timescale=30),
        kw.warmup(epochs=4) >> kw.curve(shapes.inverse_sqrt(timescale=30)),
    ),
    (kw.untuned_warmup(), kw.warmup(steps=2000)),
    (kw.untuned_warmup(0.99), kw.warmup(steps=200)),
    (kw.untuned_warmup(0.99, first=1), kw.warmup(steps=199, start=1 / 200)),
]
# Recipes that are not plain joins, to be printed and written to JSON as well.
OTHERS = [
    0.1 * kw.one_cycle(77, pct_start=0.37),
    kw.one_cycle(40, pct_start=0),
    kw.one_cycle(40, pct_start=0.01, anneal_strategy="linear"),
    kw.one_cycle(40, pct_start=0.7, three_phase=True),
    kw.one_cycle(1),
    kw.one_cycle_momentum(77, three_phase=True),
    kw.cyclic(steps=11, down=17, base=0.1, cycles=3, gamma=0.98, m_mul=0.5),
    kw.cyclic(fraction=0.1, base=0, cycles=5),
    kw.untuned_warmup(0.99, shape="exponential"),
    3 * (kw.untuned_warmup(0.99, shape="exponential", first=1, steps=100) >> kw.cosine(steps=100)),
    kw.radam_warmup(),
    kw.radam_warmup(0.99, first=5, epochs=3) >> kw.linear(),
]
ALL = [recipe for recipe, _ in EQUAL] + OTHERS
everyone = pytest.mark.parametrize("profile", ALL, ids=map(repr, ALL))


@pytest.mark.parametrize(("recipe", "profile"), EQUAL, ids=[repr(profile) for _, profile in EQUAL])
def test_recipe_is_this_profile(recipe, profile):
    assert recipe == profile


@everyone
def test_repr_is_the_code_that_makes_it(profile):
    assert eval(repr(profile), NAMESPACE) == profile


@everyone
def test_json_round_trip(profile):
    assert Profile.from_json(profile.to_json()) == profile


@everyone
def test_float32_is_right_to_1e6_of_the_peak_and_nothing_is_negative(profile):
    clock = CLOCK if any(phase.length.unit != "steps" for phase in profile.phases) else None
    step = np.array([*range(300), *range(400, 30_000, 371), 2**24 + 1, 2**31 - 2], "int32")
    expected = kw.Curve(profile, clock)(step)
    found = ops.convert_to_numpy(kw.Schedule(profile, clock)(step))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * profile.peak)
    assert (expected >= 0).all()
    assert (found >= 0).all()


# Numbers that papers and other libraries give


def test_one_cycle_holds_its_last_value():
    curve = kw.Curve(0.1 * kw.one_cycle(100))
    assert curve([29, 99]).tolist() == pytest.approx([0.1, 4e-7])
    assert (curve(np.arange(99, 300)) == curve(99)).all()


def test_one_cycle_with_a_shape_of_ones_own():
    curve = kw.Curve(kw.one_cycle(21, pct_start=11 / 21, anneal_strategy=smoothstep, div_factor=10))
    n = np.arange(11)
    np.testing.assert_allclose(curve(n), 0.1 + 0.9 * smoothstep(n / 10), atol=1e-12)
    np.testing.assert_allclose(curve(n + 10), 1 + (1e-5 - 1) * smoothstep(n / 10), atol=1e-12)


def test_one_cycle_of_the_updates_of_a_clock_ends_with_the_run():
    curve = kw.Curve(kw.one_cycle(CLOCK.steps), CLOCK)
    assert curve(74) == 1
    assert curve(CLOCK.steps - 1) == pytest.approx(4e-6)
    assert curve(CLOCK.steps - 2) > 1.1 * 4e-6


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 0.853553, 0.5, 0.146447, 0]),
        ("sqrt", [1, 0.5, 0.292893, 0.133975, 0]),
    ],
)
def test_wsd_cools_down_from_the_peak(shape, expected):
    # Hägele et al. 2024: 10 updates, of which the last 4 decay
    curve = kw.Curve(kw.wsd(kw.warmup(steps=2), kw.decay(steps=4, shape=shape), stable=kw.hold(steps=4)))
    assert curve(np.arange(6, 11)).round(6).tolist() == expected


def test_wsd_with_the_exponential_of_megatron():
    curve = kw.Curve(kw.decay(shape=lambda t: 2 - 2 * 0.5**t, steps=8))
    assert curve(np.arange(9)) == pytest.approx([2 * 0.5 ** (n / 8) - 1 for n in range(9)])


def test_inverse_sqrt_is_noam_counted_from_zero():
    width, warm = 512, 400

    def noam(n):
        return width**-0.5 * min(n**-0.5 if n else 0, n * warm**-1.5)

    step = np.arange(3000)
    curve = kw.Curve((width * warm) ** -0.5 * kw.inverse_sqrt(steps=warm))
    np.testing.assert_allclose(curve(step), [noam(n) for n in step], rtol=1e-12)
    from_one = kw.warmup(steps=warm - 1, start=1 / warm) >> kw.curve(shapes.inverse_sqrt(timescale=warm))
    curve = kw.Curve((width * warm) ** -0.5 * from_one)
    np.testing.assert_allclose(curve(step), [noam(n + 1) for n in step], rtol=1e-12)


def test_restarts_lowered_as_timm_does():
    # timm: the top of cycle i is decay ** i, whatever the minimum
    curve = kw.Curve(kw.cosine(steps=10, to=0.1) >> kw.cosine(steps=10, start=0.5, to=0.1))
    expected = [
        0.1 + 0.5 * (0.5 ** (n // 10) - 0.1) * (1 + math.cos(math.pi * (n % 10) / 10)) for n in range(20)
    ]
    assert curve(np.arange(21)) == pytest.approx([*expected, 0.1])


def test_untuned_linear_lasts_2000_updates_for_adam():
    assert 2 / (1 - 0.999) < 2000  # what truncating would make of it
    curve = kw.Curve(kw.untuned_warmup(0.999))
    assert curve([0, 1, 100, 1000, 1999, 2000, 9999]) == pytest.approx([0, 0.0005, 0.05, 0.5, 0.9995, 1, 1])
    assert kw.Curve(kw.untuned_warmup(0.999, first=1))([0, 999, 1999]) == pytest.approx([0.0005, 0.5, 1])


def test_untuned_exponential():
    curve = kw.Curve(kw.untuned_warmup(0.999, shape="exponential"))
    assert curve([0, 1, 100, 1000, 2000]).round(6).tolist() == [0, 0.001, 0.095163, 0.632121, 0.864665]
    paper = kw.Curve(kw.untuned_warmup(0.999, shape="exponential", first=1))
    assert paper(np.arange(999)).tolist() == curve(np.arange(1, 1000)).tolist()


def rectification(t, beta_2):
    """RAdam's term in fractions, from the paper."""
    beta = Fraction(repr(beta_2))
    limit = 2 / (1 - beta) - 1
    rho = limit - 2 * t * beta**t / (1 - beta**t)
    if rho <= 4:
        return 0.0
    return math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))


def test_radam_has_the_numbers_of_the_paper():
    step = np.array([0, 1, 2, 3, 4, 5, 6, 10, 100, 1000, 2000])
    expected = [0, 0, 0, 0, 0, 0.017312, 0.025821, 0.048998, 0.215335, 0.645326, 0.82839]
    assert kw.Curve(kw.radam_warmup(0.999))(step).round(6).tolist() == expected
    later = kw.Curve(kw.radam_warmup(0.999, first=5))(step)
    assert later.tolist() == kw.Curve(kw.radam_warmup(0.999))(step + 5).tolist()


@pytest.mark.parametrize("beta_2", [0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999])
def test_radam_keeps_its_digits_in_float32(beta_2):
    step = np.array([1, 2, 3, 4, 5, 6, 7, 8, 20, 99, 100, 101, 500, 1000, 2000])
    expected = [rectification(int(t), beta_2) for t in step]
    profile = kw.radam_warmup(beta_2)
    np.testing.assert_allclose(kw.Curve(profile)(step), expected, rtol=0, atol=1e-12)
    found = ops.convert_to_numpy(kw.Schedule(profile)(step.astype("int32")))
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-7)


def test_a_phase_behind_an_endless_warmup_goes_on_from_where_it_has_come_to():
    curve = kw.Curve(kw.radam_warmup(0.99, steps=150) >> kw.linear(steps=50))
    assert curve(150) == pytest.approx(rectification(150, 0.99))
    assert curve(175) == pytest.approx(rectification(150, 0.99) / 2)


def test_milestones_in_every_unit_are_the_same_places():
    step = np.arange(300)
    expected = kw.Curve(kw.multistep(steps=[25, 200]), CLOCK)(step)
    assert expected[[24, 25, 199, 200]] == pytest.approx([1, 0.1, 0.1, 0.01])
    for places in ({"epochs": [2.5, 20]}, {"examples": [1600, 12_800]}, {"fraction": [0.1, 0.8]}):
        assert kw.Curve(kw.multistep(**places), CLOCK)(step).tolist() == expected.tolist()


# Errors: the argument, what was received, the line to write


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: kw.one_cycle(),
            TypeError,
            ["`total_steps`", "no length", "one_cycle(steps_per_epoch=50, epochs=4)"],
        ),
        (lambda: kw.one_cycle(epochs=4), TypeError, ["`total_steps`", "epochs=4"]),
        (
            lambda: kw.one_cycle(200, epochs=4, steps_per_epoch=50),
            TypeError,
            ["either total_steps, or epochs"],
        ),
        (lambda: kw.one_cycle(0), ValueError, ["`total_steps`", "1 or more", "Received: 0"]),
        (lambda: kw.one_cycle(99.5), TypeError, ["`total_steps`", "a whole number", "99.5"]),
        (lambda: kw.one_cycle(99, pct_start=30), ValueError, ["`pct_start`", "from 0 to 1", "30"]),
        (lambda: kw.one_cycle(99, div_factor=0), ValueError, ["`div_factor`", "above 0"]),
        (lambda: kw.one_cycle(99, final_div_factor=-1), ValueError, ["`final_div_factor`", "above 0"]),
        (lambda: kw.one_cycle(99, anneal_strategy="cosin"), ValueError, ["`anneal_strategy`", "'cosin'"]),
        (
            lambda: kw.one_cycle(99, pct_start=0, anneal_strategy="sqrt"),
            ValueError,
            ["`pct_start`", "cut at the edge of the run", "shapes.sqrt"],
        ),
        (
            lambda: kw.one_cycle_momentum(99, max_momentum=1.5),
            ValueError,
            ["`max_momentum`", "below 1", "1.5"],
        ),
        (lambda: kw.wsd(500, kw.linear(steps=9)), TypeError, ["`warmup`", "a profile", "500", "wsd(warmup("]),
        (lambda: kw.wsd(kw.warmup(steps=9), kw.linear), TypeError, ["`cooldown`", "a profile"]),
        (lambda: kw.wsd(kw.warmup(), kw.linear(epochs=1)), ValueError, ["`length`", "one phase at most"]),
        (lambda: kw.flat_cosine(), TypeError, ["`length`", "without a length", "flat_cosine(fraction=0.75)"]),
        (lambda: kw.flat_cosine(0.75), TypeError, ["`length`", "names the unit", "flat_cosine(0.75)"]),
        (
            lambda: kw.cosine_restarts(10, cycles=3),
            TypeError,
            ["`length`", "cosine_restarts(epochs=10, cycles=3"],
        ),
        (lambda: kw.cosine_restarts(steps=0, cycles=3), ValueError, ["`steps`", "above 0"]),
        (lambda: kw.cosine_restarts(steps=9, cycles=0), ValueError, ["`cycles`", "1 or more"]),
        (lambda: kw.cosine_restarts(steps=9, cycles=2, t_mul=0), ValueError, ["`t_mul`", "above 0"]),
        (
            lambda: kw.cosine_restarts(steps=9, cycles=2, m_mul="a"),
            TypeError,
            ["`m_mul`", "a real number", "'a'"],
        ),
        (
            lambda: kw.cyclic(epochs=2, base=0.1, cycles=2, gamma=0.9),
            TypeError,
            ["`gamma`", "lengths in steps"],
        ),
        (lambda: kw.cyclic(steps=2, base=1, cycles=2), ValueError, ["`base`", "below 1"]),
        (lambda: kw.cyclic(steps=2, base=0.1, cycles=2, down=0), ValueError, ["`down`", "above 0"]),
        (
            lambda: kw.step_decay(steps=2, epochs=3, drops=2),
            TypeError,
            ["`steps/epochs`", "exactly one length"],
        ),
        (lambda: kw.step_decay(steps=2, drops=1.5), TypeError, ["`drops`", "a whole number", "1.5"]),
        (lambda: kw.step_decay(steps=2, drops=2, gamma=0), ValueError, ["`gamma`", "above 0"]),
        (
            lambda: kw.multistep([30, 60]),
            TypeError,
            ["`milestones`", "multistep([30, 60])", "epochs=[30, 60, 80]"],
        ),
        (lambda: kw.multistep(steps=[3], epochs=[2]), TypeError, ["`milestones`", "one list"]),
        (lambda: kw.multistep(steps=30), TypeError, ["`steps`", "a list", "30"]),
        (lambda: kw.multistep(steps=[]), TypeError, ["`steps`", "a list"]),
        (lambda: kw.multistep(steps=[60, 30]), ValueError, ["`steps`", "ascending", "[60, 30]"]),
        (lambda: kw.multistep(fraction=[0.5, 1.5]), ValueError, ["`fraction`", "from 0 to 1", "1.5"]),
        (
            lambda: kw.inverse_sqrt(epochs=2),
            TypeError,
            ["`timescale`", "inverse_sqrt(epochs=2, timescale=4_000)"],
        ),
        (lambda: kw.inverse_sqrt(steps=2, timescale=0), ValueError, ["`timescale`", "above 0"]),
        (lambda: kw.untuned_warmup(1.0), ValueError, ["`beta_2`", "below 1"]),
        (lambda: kw.untuned_warmup(0.99, steps=9), TypeError, ["`length`", "beta_2 sets it", "steps=9"]),
        (
            lambda: kw.untuned_warmup(0.99, shape="cosine"),
            ValueError,
            ["`shape`", "'linear' or 'exponential'"],
        ),
        (lambda: kw.untuned_warmup(0.99, first=-1), ValueError, ["`first`", "0 or more"]),
        (
            lambda: kw.untuned_warmup(0.5, first=4),
            ValueError,
            ["`first`", "less than the warmup's 4 updates"],
        ),
        (lambda: kw.radam_warmup(0.6), ValueError, ["`beta_2`", "above 0.6 and below 1"]),
    ],
)
def test_errors_say_what_to_write(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in [*words, "Write: "]:
        assert word in str(caught.value)
