"""The learning rate that a study speaks for: its peak, its warmup, and how long the run is in which it falls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kwarmup.errors import Code, value_error
from kwarmup.profile import Profile
from kwarmup.studies.lengths import SHARE, warmup_updates
from kwarmup.verbs import warmup

if TYPE_CHECKING:
    from kwarmup.studies.result import Study

#: The longest warmup where the optimizer has no rule, in passes.
_WARMUP_EPOCHS = 5


def trained(study: Study) -> tuple[int, ...]:
    """The batch sizes that the study has trained with, without those where every seed diverged."""
    found = tuple(s for s in study.batch_sizes if not all(run.diverged for run in study.at(s)))
    if not found:
        raise value_error(
            "study", Code("a study in which every training diverged"), "a training that does not",
            "study(...) with a build() whose gradient is clipped: SGD(clipnorm=1.0)",
        )  # fmt: skip
    return found


def nearest(study: Study, size: int) -> int:
    """The batch size that was trained with which is nearest to another, as a ratio."""
    return min(trained(study), key=lambda other: abs(math.log(other / size)))


def length(study: Study, goal: str, size: int, epochs: int | None) -> tuple[int, str]:
    """The passes of the run: those asked for, or what the study's own trainings speak for; and a sentence on that."""
    settings = study.settings
    own, near = settings.run_examples, nearest(study, size)
    spread = study.updates_to_target(near) if goal == "time" else None
    if epochs is None:
        needed = 0 if spread is None else round(spread.median * near)
        epochs = math.ceil(max(own, 2 * needed) / settings.examples)
        why = f" The run has as many whole passes as hold their {own:,} examples"
        if 2 * needed > own:
            # Where the rate and not noise decides how far an update goes, so many are needed as at half the peak.
            why += (
                f", and twice the {needed:,} that batch size {near} needed to the target at nearly the peak"
            )
        return epochs, f"{why}: {epochs:,}."
    longer = epochs * settings.examples / own
    if spread is not None and longer > 2:
        return epochs, (
            f" These came to the target within {own:,} examples. In a run {longer:.2g} times as long the rate falls "
            "later; where noise is what keeps a training from the target, it comes there later too."
        )
    return epochs, ""


def peak_at(study: Study, first: int, last: int) -> tuple[float, str]:
    """The peak at the first batch size; the plan's scaling carries it to the others."""
    settings = study.settings
    assert study.sweep is not None
    try:
        suggestion = study.sweep.suggest()
        words = (
            f"The range test at batch size {settings.reference} suggests {suggestion.learning_rate:.2g} "
            f"[{suggestion.low:.2g}, {suggestion.high:.2g}], and of"
        )
    except ValueError:
        words = "The range test suggests nothing; of"
    rule = {1.0: "linear", 0.5: "square-root"}.get(settings.scaling, f"{settings.scaling:g}-power")
    words += (
        f" {len(study.pilots)} short trainings {settings.peak:.2g} came to the lowest loss; the {rule} rule carries "
        f"it to {first}."
    )
    near = nearest(study, last)
    factor = study.at(near)[0].peak / study.peak(near)
    if factor != 1:
        words += f" Of half, once and twice that, {factor:g} times was best at batch size {near}."
    broken = [run for run in study.runs if run.batch_size == near and run.diverged]
    if broken:
        words += f" {len(broken)} of the trainings at batch size {near} diverged: watch the first updates."
    return float(f"{study.peak(first) * factor:.3g}"), words


def warmup_of(study: Study, goal: str, peak: float, first: int, epochs: int) -> tuple[Profile, str, str]:
    """The warmup from the first batch size on: its phase, its length in words, and why."""
    settings, beta_2 = study.settings, study.facts.get("beta_2")
    updates = epochs * settings.examples // first
    start, begins = 0.0, "It begins at 0."
    if study.stable is not None:
        stable = study.stable.learning_rate
        start = float(f"{min(0.5, 0.5 * stable / peak):.2g}")
        begins = (
            f"It begins at {start:g} of the peak: the largest learning rate that is stable at the first update is "
            f"{stable:.2g} (Kalra and Barkeshli 2024)."
        )
    if beta_2 is not None:
        count = max(1, warmup_updates(beta_2, updates))
        why = f"round(2 / (1 - {beta_2:g})) updates, at most a quarter of the run (Ma and Yarats 2021)."
        return warmup(steps=count, start=start), f"{count:,} updates", f"{why} {begins}"
    share = min(SHARE, _WARMUP_EPOCHS / epochs)
    enough = round(SHARE * settings.run_examples)
    runs = study.at(nearest(study, first))
    # What comes before the target counts: a longer warmup than the one that was seen to do is time lost.
    count, usual = max(1, round(enough / first)), round(share * updates)
    if goal == "time" and count < usual and not any(run.diverged for run in runs):
        why = (
            f"As long as that of the study's own trainings, {enough:,} examples: of the {len(runs)} at batch size "
            f"{runs[0].batch_size} none diverged with it. {100 * share:.2g} % of the run would be "
            f"{usual:,} updates."
        )
        return warmup(steps=count, start=start), f"{count:,} updates", f"{why} {begins}"
    why = f"{100 * share:.2g} % of the run, at most {_WARMUP_EPOCHS} passes (Goyal et al. 2017)."
    return warmup(fraction=share, start=start), f"{share * epochs:.2g} passes", f"{why} {begins}"
