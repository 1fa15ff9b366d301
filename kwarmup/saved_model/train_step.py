"""Training that goes on from a SavedModel: model, optimizer and schedule as one endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kwarmup.private import saved_by


def add_train_step(archive: Any, model: keras.Model, signature: Sequence[Any]) -> None:
    """Add the endpoint `train_step(inputs, targets)`: one update of weights and optimizer.

    It is the model's own training step. It returns the loss and the metrics of its batch alone, and the
    learning rate that the update used. The optimizer's state is saved with it, so the step count goes on.

    Args:
        archive: a `keras.export.ExportArchive` that has the model's variables.
        model: a compiled model whose optimizer is built.
        signature: the specs of inputs and targets.
    """
    optimizer: Any = model.optimizer
    trainer: Any = model

    def train_step(inputs: Any, targets: Any) -> dict[str, Any]:
        for metric in model.metrics:
            metric.reset_state()
        used = optimizer.learning_rate
        logs = trainer.train_step((inputs, targets))
        return {"learning_rate": used, **logs}

    archive.add_endpoint("train_step", train_step, signature)
    # TensorFlow's variables, not Keras's around them: a variable that is reached both ways is saved twice, and
    # training would move only one of the two.
    saved = saved_by(archive)
    saved.optimizer_variables = [variable.value for variable in optimizer.variables]
    saved.iterations = optimizer.iterations.value
