"""Let a training go on by another plan from a pass on: what it has done stays as it is."""

from __future__ import annotations

import warnings
from typing import Any, Protocol, runtime_checkable

import keras

from kwarmup.errors import Code, value_error
from kwarmup.growth import in_examples
from kwarmup.optimizers.hyperparameter import Scheduling
from kwarmup.plan import Plan, PlanWarning
from kwarmup.profile import Profile
from kwarmup.scaled import replace, unscaled
from kwarmup.schedule import Schedule
from kwarmup.verbs import hold


@runtime_checkable
class Replans(Protocol):
    """A callback that may change the plan between passes; `Plan.fit` asks it before each."""

    def replan(self, plan: Plan, epoch: int) -> Plan:
        """Return the plan to go on by from pass `epoch` on: the one in force, or another with the same past."""
        ...


def with_batch_size(plan: Plan, batch_size: int, epoch: int) -> Plan:
    """Return the plan that has another batch size from pass `epoch` on, and the same past.

    The learning rate keeps its place in the data: lengths in updates become lengths in examples.

    Args:
        plan: with one batch size, or with one that changed between passes and holds now.
        batch_size: examples per update from there on.
        epoch: the pass, from 0.

    Raises:
        ValueError: if the batch size moves by itself behind that pass, or a phase of the learning rate counts
            its own updates.

    >>> from kwarmup import Plan
    >>> with_batch_size(Plan(learning_rate=0.1, batch_size=32, examples=640, epochs=9), 128, epoch=4).clock
    Clock(examples=640, epochs=9, batch_size=32 * (hold(epochs=4) >> hold(4)))
    """
    begins, sizes = _held(plan)
    if epoch < begins[-1]:
        raise _moves(plan)
    if epoch == begins[-1]:
        begins, sizes = begins[:-1], sizes[:-1]
    begins, sizes = [*begins, epoch], [*sizes, batch_size]
    lengths = [{"epochs": end - begin} for begin, end in zip(begins[:-1], begins[1:], strict=True)] + [{}]
    grown = [hold(size / sizes[0], **length) for size, length in zip(sizes[1:], lengths[1:], strict=True)]
    profile = Profile([hold(**lengths[0]), *grown], sizes[0])
    changes: dict[str, Any] = {}
    for limit, extreme in (("min_batch_size", min), ("max_batch_size", max)):
        if getattr(plan.clock, limit) is not None:
            changes[limit] = extreme(getattr(plan.clock, limit), batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)  # said where the plan was made
        return plan.replace(
            learning_rate=_in_examples(plan.profile, plan),
            batch_size=profile,
            **changes,
        )


def _held(plan: Plan) -> tuple[list[int], list[int]]:
    """Return before which passes the batch size changes, and what it is from there on."""
    batch_size = plan.clock.batch_size
    if isinstance(batch_size, int):
        return [0], [batch_size]
    begins = [0]
    for index, phase in enumerate(batch_size.phases):
        length, last = phase.length, index + 1 == len(batch_size.phases)
        whole = length.unit == "epochs" and length.exact.denominator == 1
        if phase.to is not None and phase.start != phase.to or not (last or whole):
            raise _moves(plan)
        if not last:
            begins.append(begins[-1] + int(length.exact))
    return begins, [plan.clock.batch_size_at(plan.clock.step_at(epochs=begin)) for begin in begins]


def _moves(plan: Plan) -> ValueError:
    return value_error(
        "batch_size",
        plan.clock.batch_size,
        "one that holds, since what grows it is measured in training",
        "plan.replace(batch_size=64)",
    )


def _in_examples(profile: Profile, plan: Plan) -> Profile:
    if any(phase.shape.per_step for phase in profile.phases):
        raise value_error(
            "learning_rate",
            profile,
            "phases along a shape of the progress, since another batch size changes the number of updates",
            "0.1 * (warmup(epochs=5) >> cosine())",
        )
    if all(phase.length.unit != "steps" for phase in profile.phases):
        return profile
    return in_examples(profile, plan.clock)


def place(plan: Plan, epoch: int, begun: int = 0) -> tuple[int, int]:
    """Return the micro-batches and the examples that are over `begun` micro-batches into pass `epoch`."""
    tick = plan.clock.first_micro_batch(epoch) + begun
    return tick, plan.clock.examples_at(tick // plan.clock.gradient_accumulation_steps)


def follow(model: keras.Model, before: Plan, plan: Plan, epoch: int) -> None:
    """Let a model that is trained by one plan go on by another from pass `epoch` on.

    Raises:
        ValueError: if the two plans differ in what is over already.
    """
    then, now = place(before, epoch), place(plan, epoch)
    if then != now:
        raise value_error(
            "replan",
            Code(f"a plan with {now[0]:,} batches and {now[1]:,} examples before pass {epoch}"),
            f"the same past as the plan in force, {then[0]:,} batches and {then[1]:,} examples",
            f"with_batch_size(plan, 128, epoch={epoch})",
        )
    put_in_place(model, before, plan)


def put_in_place(model: keras.Model, before: Plan, plan: Plan) -> None:
    """Put the schedules of a plan where those of another are: the learning rate, and all that is on its clock."""
    optimizer: Any = model.optimizer
    if isinstance(unscaled(optimizer), Schedule):
        replace(optimizer, plan.learning_rate)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, Scheduling):
        inner.rebind(
            {
                name: Schedule(_in_examples(schedule.profile, before), plan.clock)
                for name, schedule in inner.schedules.items()
                if schedule.clock is not None
            }
        )
    # A step that has been compiled would go on with the schedules that it knows.
    model.make_train_function(force=True)
