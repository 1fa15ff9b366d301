"""A command that is one of several workers: what they share, and what the first of them does alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kwarmup.cli import unfinished
from kwarmup.cli.errors import UserError, user_error
from kwarmup.cli.group import RESTARTS
from kwarmup.distribute import cluster as clusters

if TYPE_CHECKING:
    import keras

    from kwarmup.plan import Plan


def count(asked: int) -> int:
    """Return how many workers there are to be: as many as `TF_CONFIG` names, else as many as were asked for.

    Raises:
        UserError: if `TF_CONFIG` is malformed, or names another number than was asked for.
    """
    with user_error():
        found = clusters.read()
    if found is None:
        return asked
    if asked not in (1, len(found.workers)):
        raise UserError(
            f"--workers {asked}, and TF_CONFIG names {len(found.workers)}. Leave out --workers where TF_CONFIG is set."
        )
    return len(found.workers)


def is_one() -> bool:
    """Return whether this process is a worker already, and has none to start."""
    return clusters.read() is not None


def started_again() -> bool:
    """Return whether this process is a worker in the place of one that was lost."""
    return is_one() and int(os.environ.get(RESTARTS, "0")) > 0


def settled(output: Path, checkpoints: Path) -> Callable[[int], int | None]:
    """Return what `group.run` asks where a worker of a training has failed.

    Args:
        output: where the versions go, before the training.
        checkpoints: the folder of the training.
    """

    def versions() -> set[str]:
        return {entry.name for entry in output.glob("*") if entry.name.isdecimal()}

    before = versions()

    def code(failed: int) -> int | None:
        if failed == UserError.exit_code:
            return failed  # what is wrong with the options is so in each start
        # Kept already, and lost on the way out: another start would find no checkpoints and begin anew.
        return 0 if versions() > before and not unfinished.begun(checkpoints) else None

    return code


class Among:
    """The workers of a training, this process one of them; or a process alone, for which nothing changes.

    Waits until all of them have come.

    Args:
        workers: how many there are.

    Raises:
        UserError: if a port is taken or a worker does not come.
    """

    def __init__(self, workers: int):
        self._strategy: Any = None
        if workers > 1:
            import tensorflow as tf

            from kwarmup import distribute

            tf.get_logger().setLevel("ERROR")  # that saving outside of a step is slow is no news to a user
            with user_error("--workers: "):  # a worker that is missing is a TimeoutError, and so an OSError
                self._strategy = distribute.strategy("workers")

    @property
    def chief(self) -> bool:
        """Whether this process speaks and writes."""
        from kwarmup import distribute

        return self._strategy is None or distribute.is_chief(self._strategy)

    def scope(self) -> Any:
        """Return where a model is to be made."""
        return contextlib.nullcontext() if self._strategy is None else self._strategy.scope()

    def placed(self, plan: Plan) -> Plan:
        """Return the plan for all workers.

        Raises:
            UserError: if its batches do not divide.
        """
        if self._strategy is None:
            return plan
        with user_error("--workers: "):
            return plan.on(self._strategy)

    def on_one_device(self, model: keras.Model, make: Callable[[], keras.Model], batch: Any) -> keras.Model:
        """Return what was trained as a model of one device, so that nobody else is asked for what it holds.

        Args:
            model: trained by all workers.
            make: makes one like it.
            batch: a few inputs and targets.
        """
        if self._strategy is None:
            return model
        import keras

        from kwarmup import private

        alone = make()
        private.build(alone, batch)
        pairs = ((alone, model), (alone.optimizer, model.optimizer))
        for fresh, trained in pairs:
            for variable, value in zip(fresh.variables, trained.variables, strict=True):
                variable.assign(keras.ops.convert_to_numpy(value))
        return alone

    def wait(self, model: keras.Model) -> None:
        """Return when all workers have come here: the others do not end while the first one still writes."""
        if self._strategy is not None:
            from kwarmup.distribute import agreement
            from kwarmup.distribute.lost import lost_worker

            with lost_worker(model):
                agreement.everywhere(model, 0)
