"""From what a study has measured to a plan, each part of it with its reason."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from kwarmup.errors import Code, value_error
from kwarmup.goodput import NEAR, BestBatchSize, Known, best_batch_size, goodput
from kwarmup.plan import Plan, PlanWarning
from kwarmup.profile import Profile
from kwarmup.studies.advised_rate import length, peak_at, trained, warmup_of
from kwarmup.studies.ramp import predicted_seconds
from kwarmup.studies.words import number
from kwarmup.verbs import hold, linear

if TYPE_CHECKING:
    from kwarmup.measure.noise_scale import NoiseScale
    from kwarmup.studies.result import Noise, Study

GOALS = ("time", "examples", "memory", "quality")
#: More examples, or more time, than the least, that is still "as good".
_SLACK, _MEMORY_SLACK = 1.1, 1.5
#: How much shorter a measured time must be to overrule the formula, beside telling the seeds apart.
_OVERRULE = 1.2


class Reason(NamedTuple):
    """Why a part of the plan is as it is.

    Args:
        part: of the plan, such as `"batch size"`.
        choice: what was chosen.
        why: the figures behind it, in words.
    """

    part: str
    choice: str
    why: str


@final
@dataclasses.dataclass(frozen=True)
class Advice:
    """A plan and the reasons of its parts.

    Args:
        goal: what it is good for.
        plan: the recommended plan.
        reasons: one for each part, each with the names `part`, `choice` and `why`.

    Example:

    >>> from kwarmup import Advice, Plan
    >>> plan = Plan(learning_rate=0.1, batch_size=64, examples=6_400, epochs=1)
    >>> print(Advice("time", plan, ()))
    For the goal 'time':
    Plan(learning_rate=0.1 * hold(), batch_size=64, examples=6400, epochs=1)
    """

    goal: str
    plan: Plan
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        lines = [f"{reason.part}: {reason.choice}\n    {reason.why}" for reason in self.reasons]
        return "\n".join([f"For the goal {self.goal!r}:", *lines, repr(self.plan)])


def advise(study: Study, goal: str, epochs: int | None) -> Advice:
    """Return the plan for a goal; see `Study.advise`."""
    if goal not in GOALS:
        raise value_error(
            "goal", goal, f"one of {', '.join(map(repr, GOALS))}", 'study.recommend(goal="time")'
        )
    if study.throughput is None or study.sweep is None or not study.runs:
        raise value_error(
            "study", Code(repr(study)), "one with trainings", 'study(build, x, y, path="study.json") again'
        )
    settings = study.settings
    whole = epochs is None or isinstance(epochs, int) and not isinstance(epochs, bool)
    if not whole or epochs is not None and epochs < 1:
        raise value_error("epochs", epochs, "a whole number, 1 or more", "study.recommend(epochs=20)")
    size, why = {
        "time": _for_time,
        "examples": _for_examples,
        "memory": _for_memory,
        "quality": _for_quality,
    }[goal](study)
    steps, grows = [(0, size)], ""
    if goal == "time":
        steps, grows = _along_the_run(study, size)
    first = steps[0][1]
    epochs, length_why = length(study, goal, steps[-1][1], epochs)
    peak, peak_why = peak_at(study, first, steps[-1][1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        profile, warmup_choice, warmup_why = warmup_of(study, goal, peak, first, epochs)
        plan = Plan(
            learning_rate=peak * (profile >> linear()),
            batch_size=_sizes(steps, epochs * settings.examples),
            examples=settings.examples,
            epochs=epochs,
            scaling=settings.scaling if len(steps) > 1 else 0,
        )
    choice = " → ".join(str(one) for _, one in steps)
    reasons = (
        Reason("batch size", choice, f"{why} {grows}".strip()),
        Reason("learning rate", f"{peak:.3g}", peak_why),
        Reason("warmup", warmup_choice, warmup_why),
        Reason(
            "decay",
            "linear to 0",
            "Over the rest of the run: the shape that is optimal in the worst case, and in most measured ones "
            "(Defazio et al. 2023). The study's own trainings hold the rate and decay over their last fifth."
            + length_why,
        ),
    )
    return Advice(goal, plan, reasons)


# The batch size


def _rounded(study: Study, wanted: float) -> int:
    """The nearest power of two, or measured size, within what was measured."""
    allowed = trained(study)
    within = min(max(wanted, allowed[0]), allowed[-1])
    powers = [2**k for k in range(21) if allowed[0] <= 2**k <= allowed[-1]]
    return min({*powers, *allowed}, key=lambda size: abs(math.log(size / within)))


def _noise(study: Study) -> float:
    """The noise scale where the target is reached, or the critical batch size of the fit where there is none."""
    if (noise := study.noise_at_target) is not None:
        return noise.value
    if (fit := study.tradeoff) is not None:
        return fit.critical_batch_size
    raise value_error(
        "study", Code("neither"), "a noise scale, or updates to the target at three batch sizes",
        'study(..., budget=600, path="study.json"), which goes on',
    )  # fmt: skip


def _best(study: Study, noise: NoiseScale | float) -> BestBatchSize:
    """The batch size of the formula, within those that were trained with."""
    assert study.throughput is not None
    time, allowed = study.throughput.step_time, trained(study)
    return best_batch_size(
        Known(time.fixed, time.fixed_interval), Known(time.per_example, time.per_example_interval), noise,
        min=allowed[0], max=allowed[-1],
    )  # fmt: skip


def _reached(study: Study) -> bool:
    """Whether the noise scale was measured at a place where the target was reached."""
    target, sign = study.settings.target, study.settings.sign
    return not study.noise or target is None or any(sign * n.value >= sign * target for n in study.noise)


def _for_time(study: Study) -> tuple[int, str]:
    assert study.throughput is not None
    time, noise = study.throughput.step_time, study.noise_at_target
    scale = _noise(study)
    best = _best(study, scale if noise is None else noise)
    size = _rounded(study, best.batch_size)
    optimum = number(best.optimum) if math.isfinite(best.optimum) else "without a limit"
    where = "at the target" if _reached(study) else "at the end of the first training, short of the target,"
    words = (
        f"An update takes {1e3 * time.fixed:.2f} ms and {number(1e6 * time.per_example)} µs for each example, and the "
        f"noise scale {where} is {number(scale)}; so the time to it is least at "
        f"√(fixed · noise scale / per example) = {optimum}. Of the batch sizes that were trained with, {best.near[0]} "
        f"to {best.near[1]} are predicted to be within {100 * (NEAR - 1):.0f} % of the shortest time."
    )
    found = {s: study.seconds_to_target(s) for s in trained(study)}
    # Where the untrained model is at the target, no time passes.
    measured = {s: spread for s, spread in found.items() if spread is not None and spread.median > 0}
    if not measured:
        return size, words + " No training came to the target, so the stopwatch could not confirm it."
    fastest = min(measured, key=lambda s: measured[s].median)
    nearest = min(measured, key=lambda s: abs(math.log(s / size)))
    ratio = measured[nearest].median / measured[fastest].median
    told_apart = measured[fastest].high < measured[nearest].low
    if ratio > _OVERRULE and told_apart and min(measured[s].reached for s in (fastest, nearest)) > 1:
        return fastest, (
            f"{words} But by the stopwatch {fastest} came to the target in {measured[fastest].median:.3g} s and "
            f"{nearest} in {measured[nearest].median:.3g} s, every seed of the one faster than any of the other."
        )
    return size, (
        f"{words} By the stopwatch {nearest} came to the target in {measured[nearest].median:.3g} s, {ratio:.2f} "
        f"times that of the fastest, {fastest}."
    )


def _for_examples(study: Study) -> tuple[int, str]:
    fit = study.tradeoff
    critical = fit.critical_batch_size if fit is not None else _noise(study)
    size = _rounded(study, (_SLACK - 1) * critical)
    source = "the fit to the updates to the target" if fit is not None else "the noise scale"
    return size, (
        f"The critical batch size is {number(critical)} by {source}; up to a tenth of it a training needs at most "
        f"{100 * (_SLACK - 1):.0f} % more examples than the smallest batch."
    )


def _for_memory(study: Study) -> tuple[int, str]:
    assert study.throughput is not None
    scale = _noise(study)
    allowed = trained(study)
    time = study.throughput.step_time
    times = {s: 1 / goodput(s, time.fixed, time.per_example, scale) for s in allowed}
    least = min(times.values())
    size = min(s for s in allowed if times[s] <= _MEMORY_SLACK * least)
    return size, (
        f"The smallest batch, and so the least memory, whose predicted time to the target is within "
        f"{_MEMORY_SLACK:g} times the best of those measured ({times[size] / least:.2f} times)."
    )


def _for_quality(study: Study) -> tuple[int, str]:
    sign, monitor = study.settings.sign, study.settings.monitor
    rows = {
        s: {run.seed: sign * run.validation for run in study.at(s) if not run.diverged}
        for s in trained(study)
    }
    best = max(rows, key=lambda s: float(np.mean(list(rows[s].values()))))
    good = [s for s in rows if not _worse(rows[best], rows[s])]
    size = max(good)
    mean = sign * float(np.mean(list(rows[best].values())))
    return size, (
        f"{monitor} at the end was best at {best}, {mean:.4g} over {len(rows[best])} seeds; {size} is the largest "
        f"batch that could not be told from it, seed by seed."
    )


def _worse(best: dict[int, float], other: dict[int, float]) -> bool:
    """Whether a batch size is worse than the best one by two standard errors of the differences of its seeds."""
    shared = sorted(best.keys() & other.keys())
    if not shared:
        return True
    differences = np.array([best[seed] - other[seed] for seed in shared])
    if len(differences) < 2:
        return bool(differences[0] > 0)
    return bool(differences.mean() > 2 * differences.std(ddof=1) / math.sqrt(len(differences)))


def _along_the_run(study: Study, last: int) -> tuple[list[tuple[int, int]], str]:
    """The batch sizes along the run: the same formula at the noise scale that was measured there, if that pays."""
    places = [place for place in study.noise if math.isfinite(place.scale.value)]
    found: list[tuple[int, int]] = []
    for place in places:
        size = min(last, _rounded(study, _best(study, place.scale).batch_size))
        if not found:
            found.append((0, size))
        elif size >= 2 * found[-1][1]:
            found.append((place.examples, size))
    if not found or found[0][1] * 2 > last:
        return [(0, last)], ""
    if found[-1][1] < last:
        found[-1] = (found[-1][0], last) if len(found) > 1 else found[-1]
    assert study.throughput is not None
    time, reference = study.throughput.step_time, study.settings.reference
    noise = [(place.examples, place.scale.value) for place in _until_target(study, places)]
    growing, alone = (
        predicted_seconds(noise, reference, steps, time.fixed, time.per_example)
        for steps in (found, [(0, last)])
    )
    scales = (
        f"{number(places[0].scale.value)} at the beginning and {number(max(scale for _, scale in noise))}"
    )
    begins, seconds = found[0][1], f"{growing:.3g} s to the target, and {last} throughout {alone:.3g} s"
    if growing * NEAR >= alone:
        return [(0, last)], (
            f"The noise scale was {scales} later on, but a batch that begins at {begins} and grows with it is "
            f"predicted to take {seconds}: a difference of less than {100 * (NEAR - 1):.0f} %, and so the batch stays."
        )
    return found, (
        f"The noise scale was {scales} later on, so the batch begins at {begins} and grows with it: it is predicted to "
        f"take {seconds}."
    )


def _until_target(study: Study, places: list[Noise]) -> list[Noise]:
    """The places up to the first where the target was reached."""
    target, sign = study.settings.target, study.settings.sign
    reached = [i for i, p in enumerate(places) if target is not None and sign * p.value >= sign * target]
    return places[: reached[0] + 1] if reached else places


def _sizes(steps: list[tuple[int, int]], total: int) -> int | Profile:
    first = steps[0][1]
    steps = [step for step in steps if step[0] < total]
    if len(steps) == 1:
        return first
    ends = [begin for begin, _ in steps[1:]]
    profile: Profile | None = None
    for (begin, size), end in zip(steps[:-1], ends, strict=True):
        part = hold(size / first, examples=end - begin)
        profile = part if profile is None else profile >> part
    assert profile is not None
    return first * (profile >> hold(steps[-1][1] / first))
