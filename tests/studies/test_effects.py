"""What is found of each effect, from studies whose answer is known, and what is not said where nothing is known."""

import dataclasses
import math
import re

import lively
import made_up
import numpy as np
import pytest

from kwarmup.studies import effects
from kwarmup.studies.effects import EFFECTS
from kwarmup.studies.effects.generalisation import finding_generalisation, notes_generalisation
from kwarmup.studies.effects.learning_rate import finding_learning_rate
from kwarmup.studies.effects.memory import draw_memory, finding_memory, notes_memory
from kwarmup.studies.effects.noise import fastest, finding_noise, notes_noise
from kwarmup.studies.effects.optimisation import (
    critical,
    draw_optimisation,
    finding_optimisation,
    notes_optimisation,
    stopwatch,
)
from kwarmup.studies.effects.speed import draw_speed, finding_speed, notes_speed
from kwarmup.studies.effects.warmup import finding_warmup

NOTHING = {
    "runs": (), "throughput": None, "memory": None, "sweep": None, "stable": None, "noise": (), "pilots": (),
    "facts": {},
}  # fmt: skip


def said(pattern, text):
    assert re.search(pattern, text), text


def runs(sizes=(16, 64), seeds=3, **changes):
    return [made_up.run(size, seed, **changes) for size in sizes for seed in range(seeds)]


# Speed


def test_speed_is_the_ratio_of_the_ends():
    # 1 ms + 10 us: 16 examples take 1.16 ms, 512 take 6.12 ms.
    said(
        "13,800 examples per second at batch size 16 and 83,700 at 512, 6.1 times as many, and was still",
        finding_speed(made_up.study()),
    )
    said(r"takes 1 ms \[1, 1\] and 10 µs \[10, 10\] for each example", notes_speed(made_up.study())[0])


def test_the_knee_is_said_where_there_is_one():
    seconds = [[1.0, 1.0, 1.2, 2.4]] * 3
    found = lively.throughput((8, 16, 32, 64))
    flat = dataclasses.replace(found, seconds=seconds)
    said("from 32 on there is hardly any speed left to gain", finding_speed(made_up.study(throughput=flat)))
    slower = dataclasses.replace(found, seconds=[[1.0, 2.2, 4.8, 10.0]] * 3)
    said("0.8 times as many: larger batches are no faster", finding_speed(made_up.study(throughput=slower)))


def test_speeds_within_their_noise_are_no_difference():
    wild = lively.throughput((64, 128), scatter=2.0)
    said(
        "no difference in speed between batch sizes 64 and 128 that 3 repeats could tell",
        finding_speed(made_up.study(throughput=wild)),
    )


def test_a_line_that_is_far_off_is_not_trusted():
    bent = lively.throughput((8, 64, 512))
    bent = dataclasses.replace(bent, seconds=[[0.001, 0.0011, 0.03]] * 3)
    assert any("Trust the points" in note for note in notes_speed(made_up.study(throughput=bent)))
    assert not any("Trust the points" in note for note in notes_speed(made_up.study()))


def test_memory_says_what_did_not_fit():
    lost = dataclasses.replace(lively.throughput((8, 16)), out_of_memory=(32,))
    said("Batch size 32 does not fit.*; 16 does", finding_memory(made_up.study(throughput=lost)))
    said(
        "Batch size 32 does not fit", finding_memory(made_up.study(throughput=lost, memory=made_up.memory()))
    )
    said("was not measured", finding_memory(made_up.study()))


def test_memory_is_told_where_there_is_any_to_tell():
    # 3 MB and 50 kB for each example: 3.8 MB at 16, 28.6 MB at 512; 1 GB is left, which 19,940 would fill.
    study = made_up.study(memory=made_up.memory())
    said(
        "takes 3.8 MB of memory at batch size 16 and 28.6 MB at 512, some 50 kB for each example more",
        finding_memory(study),
    )
    said(
        "beside the 400 MB .*off a straight line by up to 0 %.*some 20,000 would fill the 1 GB",
        " ".join(notes_memory(study)),
    )
    assert len(draw_memory(study).axes[0].lines) == 2
    few = made_up.study(memory=made_up.memory(per_example=1e3))
    said("too little to tell them apart", finding_memory(few))
    assert len(notes_memory(few)) == 1 and len(draw_memory(few).axes[0].lines) == 1
    assert notes_memory(made_up.study()) == [] and draw_memory(made_up.study()) is None


# Optimisation


def test_updates_and_examples_are_compared_over_the_seeds():
    # S(B) = 40 (1 + 400 / B): 1,040 updates at 16 and 71.25 at 512, so 14.6 times fewer and 32 / 14.6 the examples.
    said(
        r"accuracy 0.8, 32 times the batch \(16 to 512\) takes 15 \[15, 15\] times fewer updates and 2.2 times as",
        finding_optimisation(made_up.study()),
    )


def test_more_updates_at_the_larger_batch_are_not_called_fewer():
    slow = [made_up.run(size, seed, updates=size) for size in (16, 64) for seed in range(3)]
    said(
        r"takes 4 \[4, 4\] times as many updates and 16 times as many ex",
        finding_optimisation(made_up.study(slow)),
    )


def test_a_perfect_scaling_takes_as_many_examples():
    perfect = [made_up.run(size, seed, updates=6400 / size) for size in (16, 64) for seed in range(3)]
    said("4 .* times fewer updates and as many examples", finding_optimisation(made_up.study(perfect)))


def test_updates_within_the_seeds_are_no_difference():
    random = np.random.default_rng(0)
    same = [
        made_up.run(size, seed, updates=300 * np.exp(0.3 * random.normal()))
        for size in (16, 64)
        for seed in range(3)
    ]
    said(
        "no difference in updates between batch sizes 16 and 64 that 3 seeds could tell",
        finding_optimisation(made_up.study(same)),
    )


def test_one_seed_cannot_tell_chance():
    level = [made_up.run(size, updates=300) for size in (16, 64)]
    said(
        "takes as many updates and 4 times as many examples, from one seed",
        finding_optimisation(made_up.study(level)),
    )
    said("from one seed, which cannot tell chance", finding_optimisation(made_up.study(runs(seeds=1))))
    said("from one seed, which cannot tell chance", finding_generalisation(made_up.study(runs(seeds=1))))


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (made_up.study(runs(reaches=False)), "No training came to accuracy 0.8 within 100,000 examples"),
        (
            made_up.study(runs((32,))),
            r"One batch size, the only one tried, came to accuracy 0.8: 32, after 551 \(",
        ),
        (
            made_up.study([*runs((32,)), *runs((64,), reaches=False)]),
            "One batch size of several came to accuracy 0.8: 32",
        ),
        (made_up.study(()), "No training was finished"),
        (
            made_up.study(settings=dataclasses.replace(made_up.study().settings, target=None)),
            "There is no target",
        ),
        (
            made_up.study(settings=dataclasses.replace(made_up.study().settings, target=0.05)),
            "The untrained model is at accuracy 0.05 already",
        ),
        (
            made_up.study([made_up.run(16, 0), made_up.run(64, 1)]),
            "16 and 64, but no seed that could be compared",
        ),
    ],
    ids=["nowhere", "one size", "one of two", "no runs", "no target", "at the begin", "other seeds"],
)
def test_what_is_not_known_of_the_updates_is_said(study, words):
    said(words, finding_optimisation(study))


def test_sizes_that_did_not_come_there_are_named():
    mixed = [*runs((16, 64)), *runs((128,), reaches=False)]
    said("fewer updates.*; 128 did not come there", finding_optimisation(made_up.study(mixed)))
    # One seed of three is not what a batch size needs: the ends that most seeds reached are compared.
    partly = [*runs((16, 64)), made_up.run(128), *(made_up.run(128, seed, reaches=False) for seed in (1, 2))]
    said(r"\(16 to 64\)", finding_optimisation(made_up.study(partly)))
    assert any("1 of 3 seeds at 128" in note for note in notes_optimisation(made_up.study(partly)))


def test_both_critical_batch_sizes_stand_side_by_side():
    # Planted: 400 in the updates, and 400 in the noise. The seeds of the formula are 2 % apart.
    said(
        r"is 395 \[.*\] by the fit to the updates, and 400 \[320, 500\] by the gradient noise at the target. The .* ov",
        critical(made_up.study()),
    )
    far = critical(made_up.study(scales=(4_000.0,) * 3))
    said("do not overlap, and the two differ by 10 times", far)


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (
            made_up.study(noise=()),
            "395 .* by the fit to the updates; no noise scale was measured, so nothing confirms it",
        ),
        (
            made_up.study(runs()),
            r"400 \[320, 500\] by the gradient noise.*fewer than three batch sizes came to the target",
        ),
        (made_up.study(runs(), noise=()), "is not known"),
        (made_up.study(scales=(400.0, 400.0, math.inf)), "but not both have an upper end"),
    ],
    ids=["no noise", "two sizes", "neither", "endless"],
)
def test_a_critical_batch_size_that_nothing_confirms(study, words):
    if math.inf in [place.scale.value for place in study.noise]:
        study = dataclasses.replace(
            study, noise=(*study.noise[:2], study.noise[2]._replace(scale=lively.scale(math.inf)))
        )
    said(words, critical(study))


def test_a_noise_scale_from_before_the_target_is_not_called_that_at_it():
    early = made_up.study().noise[:2]
    said("by the gradient noise at the last place measured", critical(made_up.study(noise=early)))


def test_the_stopwatch_names_what_it_cannot_tell_apart():
    # (1 ms + 10 us B) 40 (1 + 400 / B): 0.3588 s at 256, 0.3761 s at 128; the seeds scatter alike, so they are told.
    (words,) = stopwatch(made_up.study())
    said(r"256 came to the target soonest, in 0.372 s \(0.365 – 0.379\) of training\.$", words)
    (words,) = stopwatch(lively.study())
    said("256 came .*; 128 cannot be told from it", words)
    assert stopwatch(made_up.study(runs((16,)))) == []


# Generalisation


def test_quality_is_compared_over_the_seeds():
    worse = [
        made_up.run(size, seed, validation=0.9 + 0.01 * seed - 0.05 * (size == 64) + 0.001 * (seed == size / 64))
        for size in (16, 64) for seed in range(3)
    ]  # fmt: skip
    found = finding_generalisation(made_up.study(worse))
    said(r"accuracy is worse at batch size 64 than at 16, by 0.0497 \[0.0482, 0.0511\]", found)
    less = dataclasses.replace(made_up.study().settings, monitor="loss", sign=-1.0)
    said("loss is better at batch size 64", finding_generalisation(made_up.study(worse, settings=less)))


def test_quality_within_the_seeds_is_no_difference():
    random = np.random.default_rng(1)
    same = [
        made_up.run(size, seed, validation=0.9 + 0.01 * random.normal())
        for size in (16, 64)
        for seed in range(3)
    ]
    said(
        "no difference in accuracy between batch sizes 16 and 64 that 3 seeds could tell",
        finding_generalisation(made_up.study(same)),
    )


def test_what_diverged_is_left_out_and_named():
    mixed = [*runs((16, 64)), made_up.run(64, 3, diverged=True, validation=0.1), *runs((128,), diverged=True)]
    said("between batch sizes 16 and 64", finding_generalisation(made_up.study(mixed)))
    notes = " ".join(notes_generalisation(made_up.study(mixed)))
    assert "Diverged: 1 of 4 at batch size 64 and 3 of 3 at batch size 128; these are left out here." in notes
    every = made_up.study(runs(diverged=True))
    said("Every training diverged", finding_generalisation(every))


def test_equal_examples_are_said_to_be_fewer_updates():
    assert any(
        "same 100,000 examples" in note and "32 times fewer" in note
        for note in notes_generalisation(made_up.study())
    )


def test_the_gap_is_said_with_whether_it_moves():
    moving = [
        made_up.run(size, seed, training=0.95 if size == 16 else 0.91)
        for size in (16, 64)
        for seed in range(3)
    ]
    note = notes_generalisation(made_up.study(moving))[0]
    said(r"is 0.05 at 16 and 0.01 at 64\.$", note)
    said("which the seeds cannot tell apart", notes_generalisation(made_up.study())[0])


# Noise


def test_noise_that_grows_or_falls_or_stays():
    growing = made_up.study(scales=(40.0, 100.0, 400.0))
    said(
        r"grows from 40 \[32, 50\] to 400 \[320, 500\], 10 times, while 50,000 examples are trained on at batch size",
        finding_noise(growing),
    )
    said("falls from 400 .* to 40 .*, 10 times", finding_noise(made_up.study(scales=(400.0, 100.0, 40.0))))
    said(
        "does not change by more than its intervals", finding_noise(made_up.study(scales=(400.0, 9.0, 450.0)))
    )


def test_endless_noise_is_said():
    places = lively.noise()
    endless = [place._replace(scale=lively.scale(math.inf, converged=False)) for place in places]
    said("Nowhere along the training", finding_noise(lively.study(noise=endless)))
    said(
        "At 1 of 5 places .* from 48 .* to 210", finding_noise(lively.study(noise=[endless[0], *places[1:]]))
    )
    assert any("5 of 5 places" in note for note in notes_noise(lively.study(noise=endless)))
    said("the only place measured", finding_noise(lively.study(noise=places[:1])))


def test_the_batch_sizes_that_noise_speaks_for_follow_the_formula():
    found = fastest(made_up.study(scales=(100.0, 400.0, 900.0)))
    assert [size for _, size in found] == pytest.approx([100.0, 200.0, 300.0])  # sqrt(1e-3 / 1e-5 * scale)
    assert fastest(made_up.study(throughput=None)) == []


# Learning rate, warmup, all


def test_the_range_test_and_the_warmup_speak_for_themselves():
    said(
        r"batch size 32 the loss falls fastest at a learning rate of 0.01 \[0.01, 0.01\], and only rises from",
        finding_learning_rate(made_up.study()),
    )
    flat = dataclasses.replace(lively.sweep(), losses=[[2.0] * 80])
    said("suggests nothing: expected losses that fall", finding_learning_rate(lively.study(sweep=flat)))
    assert finding_warmup(lively.study(gain=lively.gain())) == str(lively.gain())


@pytest.mark.parametrize("effect", EFFECTS, ids=[effect.name for effect in EFFECTS])
def test_where_nothing_was_measured_one_honest_line_remains(effect):
    empty = lively.study(**NOTHING)
    found = effect.finding(empty)
    assert found.endswith(".") and re.search("not measured|No |nothing is known", found), found
    assert effect.draw(empty) is None
    effect.notes(empty)


@pytest.mark.parametrize("effect", EFFECTS, ids=[effect.name for effect in EFFECTS])
def test_every_finding_is_one_sentence(effect):
    found = effect.finding(lively.study())
    assert found.endswith(".") and ". " not in found and "  " not in found


# Pictures


def curves(axes, label):
    return [line for line in axes.get_lines() if line.get_label() == label]


def test_the_picture_of_speed_shows_what_was_measured():
    (axes,) = draw_speed(made_up.study()).axes
    (medians,) = curves(axes, "median")
    sizes = np.array(made_up.SIZES)
    np.testing.assert_allclose(medians.get_ydata(), sizes / made_up.seconds(sizes))
    (fit,) = curves(axes, "fit")
    np.testing.assert_allclose(fit.get_ydata()[-1], 512 / made_up.seconds(512))


def test_the_picture_of_optimisation_shows_all_seeds_and_the_fit():
    study = lively.study()
    updates, examples, clock, below = draw_optimisation(study).axes
    (medians,) = curves(updates, "median")
    assert list(medians.get_xdata()) == [16, 32, 64, 128, 256]
    dots = [line for line in updates.get_lines() if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [3] * 5
    (fit,), (same,) = curves(updates, "fit"), curves(examples, "fit")
    np.testing.assert_allclose(same.get_ydata(), fit.get_ydata() * fit.get_xdata())
    (predicted,) = curves(clock, "predicted")
    time = study.throughput.step_time
    np.testing.assert_allclose(predicted.get_ydata(), fit.get_ydata() * time.seconds(fit.get_xdata()))
    assert [text.get_text() for text in below.get_yticklabels()] == ["fit", "noise"]
    band = updates.collections[-1].get_paths()[0].vertices
    assert band[:, 1].min() <= fit.get_ydata().min() and band[:, 1].max() >= fit.get_ydata().max()


def test_the_effects_are_named_once():
    assert len({effect.name for effect in effects.EFFECTS}) == len(EFFECTS) == 7
