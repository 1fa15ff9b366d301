"""The training step in micro-batches on JAX: variables are values that each micro-batch hands to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from kwarmup.micro_batches import logs
from kwarmup.micro_batches.share import losses_of


def train_step(model: Any, most: int) -> Callable[[Any, Any], Any]:
    """Return a step of `model` that has the activations of at most so many examples in memory."""
    import jax  # only there where it is the backend

    def step(state: Any, data: Any) -> Any:
        trainable, others, optimizer, metrics = state
        leaf = next(
            one for one in tree.flatten(keras.utils.unpack_x_y_sample_weight(data)[0]) if one is not None
        )
        whole = leaf.shape[0]
        more = (whole - 1) // most
        first = whole - more * most  # what is left over

        def micro_batch(begin: Any, size: int, others: Any, metrics: Any) -> Any:
            part = data if size == whole else rows(data, begin, size)
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)

            def forward(trainable: Any) -> Any:
                known = [
                    *zip(model.trainable_variables, trainable, strict=True),
                    *zip(model.non_trainable_variables, others, strict=True),
                    *zip(model.metrics_variables, metrics, strict=True),
                    *zip(model.optimizer.variables, optimizer, strict=True),
                ]
                with keras.StatelessScope(known, collect_losses=True) as scope:
                    share, y_pred = losses_of(model, x, y, sample_weight, size / whole)
                    scaled = [model.optimizer.scale_loss(loss) for loss in share.losses]
                new = values(scope, model.non_trainable_variables), values(scope, model.metrics_variables)
                return scaled, (share, y_pred, *new)

            scaled, pull, (share, y_pred, others, metrics) = jax.vjp(forward, trainable, has_aux=True)
            ones = [
                [jax.numpy.asarray(i == j, loss.dtype) for j, loss in enumerate(scaled)]
                for i in range(len(scaled))
            ]
            share = share._replace(gradients=[list(pull(one)[0]) for one in ones])
            with keras.StatelessScope([*zip(model.metrics_variables, metrics, strict=True)]) as scope:
                logs.count(model, x, y, y_pred, sample_weight)
            return share, others, values(scope, model.metrics_variables)

        with keras.StatelessScope([*zip(model.metrics_variables, metrics, strict=True)]):
            begun = logs.begun(model)
        share, others, metrics = micro_batch(0, first, others, metrics)
        if more:

            def body(i: Any, carried: Any) -> Any:
                share, others, metrics = carried
                another, others, metrics = micro_batch(first + i * most, most, others, metrics)
                return share.plus(another.wide()), others, metrics

            carried = share.wide(), others, metrics
            if model.jit_compile and not model.run_eagerly:
                carried = jax.lax.fori_loop(0, more, body, carried)
            else:
                for i in range(more):
                    carried = body(i, carried)
            share, others, metrics = carried
        loss, gradients = share.of_all(model.trainable_variables)
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
        with keras.StatelessScope([*zip(model.metrics_variables, metrics, strict=True)]) as scope:
            logged = logs.ended(model, begun, share.logged, loss, whole, whole)
        return logged, (trainable, others, optimizer, values(scope, model.metrics_variables))

    def rows(data: Any, begin: Any, size: int) -> Any:
        return tree.map_structure(
            lambda one: None if one is None else jax.lax.dynamic_slice_in_dim(one, begin, size), data
        )

    def values(scope: keras.StatelessScope, variables: list[Any]) -> list[Any]:
        return [scope.get_current_value(variable) for variable in variables]

    return step
