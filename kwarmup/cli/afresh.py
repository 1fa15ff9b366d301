"""A network that is trained many times: a new one for each, and the data as it takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from kwarmup.cli import models, training
from kwarmup.cli.data import Data


def afresh(
    network: str | None, optimizer_name: str | None, data: Data, hp: Any = None
) -> tuple[Callable[..., keras.Model], keras.Model, Data]:
    """Return a function that makes a new compiled model, the first of them, and the data as they take them.

    Args:
        network: what `--model` says.
        optimizer_name: what `--optimizer` says.
        data: what `--data` says.
        hp: the hyperparameters of keras-tuner that the first is made by; `None` where nothing is searched.

    Raises:
        UserError: if there is no such model or optimizer, or it does not go together with the data.
    """

    def build(hp: Any = None) -> keras.Model:
        model = models.load(network, data, hp)
        base = models.optimizer(optimizer_name, model)
        return models.compiled(model, base, 0.01, data)

    first = build(hp)
    data = models.shaped(data, first)
    training.try_out(first, data)
    return build, first, data
