"""What stands on the page of a study, as words, rows and pictures."""

from __future__ import annotations

from typing import Any, NamedTuple

from kwarmup.studies import rows
from kwarmup.studies.advice import GOALS, Advice
from kwarmup.studies.effects import EFFECTS, Effect
from kwarmup.studies.effects.learning_rate import first_line
from kwarmup.studies.report.code import code
from kwarmup.studies.report.picture import look, svg
from kwarmup.studies.result import Study


class Section(NamedTuple):
    """An effect as it stands on the page."""

    name: str
    title: str
    finding: str
    notes: list[str]
    picture: str | None


def content(study: Study) -> dict[str, Any]:
    """Return all that the template asks for.

    Args:
        study: what to show.
    """
    advices = {goal: _advice(study, goal) for goal in GOALS}
    first = advices["time"]
    return {
        "title": f"What batch size does to {study.facts.get('model', 'this model')}",
        "study": study,
        "advice": first if isinstance(first, Advice) else None,
        "refused": first if isinstance(first, str) else "",
        "code": code(study, first.plan) if isinstance(first, Advice) else "",
        "goals": [("goal", *_PARTS), *(_goal(goal, advice) for goal, advice in advices.items())],
        "sections": [_section(study, effect) for effect in EFFECTS],
        "batch_sizes": rows.batch_sizes(study),
        "trainings": rows.trainings(study),
        "facts": rows.facts(study),
    }


_PARTS = ("batch size", "learning rate", "warmup")


def _advice(study: Study, goal: str) -> Advice | str:
    """The advice for a goal, or why there is none."""
    try:
        return study.advise(goal)
    except ValueError as error:
        return first_line(error)


def _goal(goal: str, advice: Advice | str) -> tuple[str, ...]:
    if isinstance(advice, str):
        return goal, f"none: {advice}", *[""] * (len(_PARTS) - 1)
    choices = {reason.part: reason.choice for reason in advice.reasons}
    return goal, *(choices.get(part, "") for part in _PARTS)


def _section(study: Study, effect: Effect) -> Section:
    with look():
        figure = effect.draw(study)
        picture = None if figure is None else svg(figure, effect.name, effect.picture)
    return Section(effect.name, effect.title, effect.finding(study), effect.notes(study), picture)
