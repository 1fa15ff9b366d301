"""Does training really run what the plan says? Asked before the first update, answered with both numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import keras
from keras import ops

from kwarmup import applied
from kwarmup.clock import Clock
from kwarmup.distribute import replicas
from kwarmup.errors import Code, value_error
from kwarmup.optimizers.hyperparameter import Scheduling
from kwarmup.plan import Plan
from kwarmup.scaled import unscaled
from kwarmup.schedule import Schedule


def check_model(plan: Plan, model: keras.Model, begun: int = 0) -> None:
    """Compare a compiled model with the plan it is to be trained by.

    Args:
        plan: what should happen.
        model: a compiled model.
        begun: updates that are over already.

    Raises:
        ValueError: if the model is not compiled, if its optimizer follows another schedule or another clock,
            accumulates another number of micro-batches, or has done another number of updates; or if the
            model is distributed over another number of replicas.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise value_error(
            "model", model.name, "a compiled model", "model.compile(SGD(plan.learning_rate), loss=...)"
        )
    schedule = unscaled(optimizer)
    if isinstance(schedule, Schedule) and schedule != plan.learning_rate:
        raise value_error(
            "learning_rate",
            schedule,
            f"the plan's own, {plan.learning_rate!r}",
            "model.compile(SGD(plan.learning_rate), loss=...)",
        )
    inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
    for name, scheduled in inner.schedules.items() if isinstance(inner, Scheduling) else ():
        if scheduled.clock not in (None, plan.learning_rate.clock):
            raise value_error(
                name,
                Code(f"{scheduled!r} in the optimizer, {plan.clock!r} in the plan"),
                "the plan's clock in both",
                f"kw.{type(inner).__name__}(plan.learning_rate, {name}={scheduled.profile!r}), "
                "which takes the plan's",
            )
    parts = inner.gradient_accumulation_steps or 1
    compare(
        "gradient_accumulation_steps",
        "the optimizer",
        parts,
        plan.clock,
        plan.clock.gradient_accumulation_steps,
    )
    compare("replicas", "the model's strategy", replicas.count(model), plan.clock, plan.clock.replicas)
    done = applied.updates(optimizer)
    if done != begun and not (begun and _has_skipped(optimizer, done, begun)):
        where, write = "where the plan begins", "model.compile(SGD(plan.learning_rate), loss=...) once more"
        write += ", which makes a new optimizer"
        if begun:
            where, write = "which the plan has in front of initial_epoch", "keras.models.load_model(path)"
            write += ", which brings the optimizer as it was saved there"
        received = Code(f"an optimizer that has done {done} updates")
        raise value_error("iterations", received, f"{begun}, {where}", write)


def compare(name: str, who: str, real: Any, clock: Clock, planned: Any) -> None:
    """Raise a `ValueError` that says both numbers, where they differ."""
    if real != planned:
        raise value_error(
            name,
            Code(f"{real} in {who}, {planned} in {clock!r}"),
            "the same in both",
            f"plan.replace({name}={real!r})",
        )


def _has_skipped(optimizer: keras.optimizers.Optimizer, done: int, planned: int) -> bool:
    # Under a dynamic loss scale, steps whose gradients overflow are skipped and not counted.
    return hasattr(optimizer, "inner_optimizer") and done < planned


def check_fit(plan: Plan, epochs: int, steps: int | None) -> None:
    """Compare what Keras's `fit` has been told, or has worked out, with the plan.

    Args:
        plan: what should happen.
        epochs: the epoch that training ends behind.
        steps: batches in an epoch; `None` where Keras does not know.

    Raises:
        ValueError: if they differ.
    """
    clock, planned = plan.clock, plan.fit_arguments
    if epochs != planned["epochs"] and planned["epochs"] != clock.epochs:
        raise value_error(
            "epochs",
            Code(f"{epochs} in fit, for the passes of {clock!r}"),
            "1 for the whole run, since its passes differ in length, and Keras gives each that of the first",
            "model.fit(plan.batches(x, y), **plan.fit_arguments), or plan.fit(model, x, y)",
        )
    compare("epochs", "fit", epochs, clock, planned["epochs"])
    if steps is None or steps == planned["steps_per_epoch"]:
        return
    received = f"{steps} in fit"
    if steps == -(-clock.examples // 32):
        received += f", as {clock.examples} examples have with Keras's default, batch_size=32"
    data = "x, y" if "batch_size" in planned else "plan.batches(x, y)"
    raise value_error(
        "steps_per_epoch",
        Code(received),
        f"{planned['steps_per_epoch']} batches in an epoch, as in {clock!r}",
        f"model.fit({data}, **plan.fit_arguments)",
    )


def check_counted(plan: Plan, first: int, last: int, counted: int | None) -> None:
    """Compare the examples that Keras has counted in the batches [first, last) with the clock's.

    Raises:
        RuntimeError: if they differ.
    """
    clock = plan.clock
    begin, end = (int(clock.example_at_tick(Fraction(tick))) for tick in (first, last))
    # Keras counts in single precision.
    if counted is None or counted == end - begin or end - begin > 2**24:
        return
    batches = f"batch {first}" if last == first + 1 else f"the batches {first} to {last - 1}"
    raise RuntimeError(
        f"There were {counted} examples in {batches}, but the plan has {end - begin}: {clock!r}.\n"
        "Write: model.fit(x, y, **plan.fit_arguments), or a plan with the batch_size and examples that fit runs"
    )


def examples_counted(model: keras.Model) -> int | None:
    """Return how many examples the model's loss is a mean of so far, `None` where nobody can say."""
    # A training step of the user's own may count anything, or nothing.
    if type(model).train_step is not keras.Model.train_step or "train_step" in vars(model):
        return None
    losses = [metric for metric in model.metrics if metric.name == "loss" and hasattr(metric, "count")]
    return int(ops.convert_to_numpy(losses[0].count)) if losses else None


def check_updates(plan: Plan, optimizer: keras.optimizers.Optimizer, epoch: int) -> None:
    """Compare the updates done behind pass `epoch` with the clock's.

    Raises:
        RuntimeError: if they differ: the data held another number of examples.
    """
    planned = plan.clock.first_micro_batch(epoch + 1) // plan.clock.gradient_accumulation_steps
    check_done(plan, optimizer, planned, f"pass {epoch}")


def check_done(
    plan: Plan, optimizer: keras.optimizers.Optimizer, planned: int, behind: str, unknown_length: bool = False
) -> None:
    """Compare the updates done behind a pass or an epoch with the `planned` ones.

    Args:
        plan: what should happen.
        optimizer: what did it.
        planned: its updates, by the plan.
        behind: where this is, in words.
        unknown_length: whether Keras did not know how many batches there would be.

    Raises:
        RuntimeError: if they differ: the data held another number of examples.
    """
    clock, done = plan.clock, applied.updates(optimizer)
    if unknown_length and done == planned + 1 and keras.backend.backend() == "tensorflow":
        raise RuntimeError(
            f"After {behind} the optimizer has done {done} updates, but the plan has {planned}: Keras counts one "
            "too many on TensorFlow where it does not know the number of batches, and so does a schedule.\n"
            f"Write: model.fit(..., steps_per_epoch={plan.fit_arguments['steps_per_epoch']})"
        )
    if done != planned and not _has_skipped(optimizer, done, planned):
        raise RuntimeError(
            f"After {behind} the optimizer has done {done} updates, but the plan has {planned}: the data "
            f"does not hold the {clock.examples} examples a pass that {clock!r} counts.\n"
            "Write: plan.replace(examples=...) with the number that a pass really has"
        )
