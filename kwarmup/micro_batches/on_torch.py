"""The training step in micro-batches on torch: a loop in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from kwarmup.micro_batches import logs
from kwarmup.micro_batches.share import Share, losses_of


def train_step(model: Any, most: int) -> Callable[[Any], Any]:
    """Return a step of `model` that has the activations of at most so many examples in memory."""
    import torch  # only there where it is the backend

    def step(data: Any) -> Any:
        leaf = next(
            one for one in tree.flatten(keras.utils.unpack_x_y_sample_weight(data)[0]) if one is not None
        )
        whole = leaf.shape[0]
        more = (whole - 1) // most
        first = whole - more * most  # what is left over
        begun = logs.begun(model)
        share = micro_batch(data, 0, first, whole)
        share = share.wide() if more else share
        for i in range(more):
            share = share.plus(micro_batch(data, first + i * most, most, whole).wide())
        weights = model.trainable_weights
        with torch.no_grad():
            loss, gradients = share.of_all(weights)
            model.optimizer.apply(gradients, weights)
            return logs.ended(model, begun, share.logged, loss, whole, whole)

    def micro_batch(data: Any, begin: int, size: int, whole: int) -> Share:
        part = tree.map_structure(lambda one: None if one is None else one[begin : begin + size], data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)
        share, y_pred = losses_of(model, x, y, sample_weight, size / whole)
        gradients = [
            gradients_of(model.optimizer.scale_loss(loss), last=i == len(share.losses) - 1)
            for i, loss in enumerate(share.losses)
        ]
        logs.count(model, x, y, y_pred, sample_weight)
        return share._replace(losses=[loss.detach() for loss in share.losses], gradients=gradients)

    def gradients_of(loss: Any, last: bool) -> list[Any]:
        weights = [weight.value for weight in model.trainable_weights]
        if not loss.requires_grad:
            return [None] * len(weights)
        return list(torch.autograd.grad(loss, weights, retain_graph=not last, allow_unused=True))

    return step
