"""One update by several replicas that is the update of one device: sums over all examples, divided once.

Each replica runs the model over its piece of the batch; losses and gradients count by the part of the batch
they are of, and are summed. The optimizer then runs once, on the gradient of the whole batch: clipping,
accumulation and a loss scale see what they would see on one device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from kwarmup.micro_batches import logs
from kwarmup.micro_batches.on_tensorflow import as_in, tensors_in
from kwarmup.micro_batches.share import Share, losses_of
from kwarmup.parts import FIGURES
from kwarmup.private import losses_of_one_device

#: Where a step puts, for the process that runs it, how many workers have been asked to end.
ASKED = "kwarmup_asked_to_end"


def train(model: Any, may_be_empty: bool, measures: bool = False) -> Callable[[Any, Any], dict[str, Any]]:
    """Return a function that does one update with what a distributed iterator yields.

    Args:
        model: built and compiled in the strategy's scope.
        may_be_empty: whether a batch may have fewer examples than there are replicas.
        measures: add the figures of the noise scale to the logs, from the replicas' own gradients.
    """
    strategy = model.distribute_strategy

    def replica(data: Any, asked: tf.Tensor) -> tuple[list[Any], Any]:
        context = tf.distribute.get_replica_context()
        mine = _examples(data)
        whole = context.all_reduce("SUM", tf.identity(mine))
        begun = logs.begun(model)
        share = _share_of(lambda: _share(model, data, mine / whole), mine, may_be_empty)
        own = tf.math.divide_no_nan(_square(share.gradients) * whole, mine) if measures else None
        share, own = _summed((share, own), context)
        loss, gradients = share.of_all(model.trainable_weights)
        # Each replica counts its own examples, so that all of them together count each once.
        logs.ended(model, begun, share.logged, loss, mine, None)
        found = _logs(model, context)
        found[ASKED] = context.all_reduce("SUM", tf.identity(asked))
        if measures:
            found[FIGURES] = tf.stack([own, _square([gradients]), whole, 0.0])
        return gradients, found

    def update(data: Any, asked: Any) -> dict[str, Any]:
        with losses_of_one_device():
            gradients, found = strategy.run(_on_its_device(strategy, replica), args=(data, asked))
        model.optimizer.apply(_first(strategy, gradients), model.trainable_weights)
        return _first(strategy, found)

    return update


def test(model: Any, may_be_empty: bool) -> Callable[[Any], dict[str, Any]]:
    """Return a function that evaluates what a distributed iterator yields."""
    strategy = model.distribute_strategy

    def replica(data: Any) -> Any:
        context = tf.distribute.get_replica_context()
        mine = _examples(data)
        whole = context.all_reduce("SUM", tf.identity(mine))
        begun = logs.begun(model)
        share = _share_of(lambda: _evaluated(model, data, mine / whole), mine, may_be_empty)
        share = _summed(share, context)
        loss, _ = share.of_all([])
        logs.ended(model, begun, share.logged, loss, mine, None)
        return _logs(model, context)

    def evaluate(data: Any) -> dict[str, Any]:
        with losses_of_one_device():
            found = strategy.run(_on_its_device(strategy, replica), args=(data,))
        return _first(strategy, found)

    return evaluate


def _on_its_device(strategy: Any, replica: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a replica runs, within its device: a lone one of a worker has none, and could not be summed."""
    devices = strategy.extended.worker_devices
    if len(devices) > 1:
        return replica  # there TensorFlow does so

    def run(*arguments: Any) -> Any:
        with tf.device(devices[0]):
            return replica(*arguments)

    return run


def _examples(data: Any) -> tf.Tensor:
    inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
    leaf = next(one for one in tree.flatten(inputs) if one is not None)
    return tf.cast(tf.shape(leaf)[0], tf.float32)


def _share(model: Any, data: Any, part: tf.Tensor) -> Share:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape(persistent=True) as tape:
        share, y_pred = losses_of(model, x, y, sample_weight, part)
        scaled = [model.optimizer.scale_loss(loss) for loss in share.losses]
    weights = model.trainable_weights
    gradients = [
        [_dense(one, weight) for one, weight in zip(tape.gradient(loss, weights), weights, strict=True)]
        for loss in scaled
    ]
    logs.count(model, x, y, y_pred, sample_weight)
    return share._replace(gradients=gradients).wide()


def _evaluated(model: Any, data: Any, part: tf.Tensor) -> Share:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    share, y_pred = losses_of(model, x, y, sample_weight, part, training=False)
    logs.count(model, x, y, y_pred, sample_weight)
    return share._replace(gradients=[[] for _ in share.losses])


def _dense(gradient: Any, weight: Any) -> Any:
    # TensorFlow sums what replicas have of an embedding only where they have as many rows of it; and it does not
    # always know the shape of a gradient.
    return gradient if gradient is None else tf.ensure_shape(tf.convert_to_tensor(gradient), weight.shape)


def _share_of(make: Callable[[], Share], examples: tf.Tensor, may_be_empty: bool) -> Share:
    """Return what a replica contributes; nothing, in the same shapes, where it has no examples."""
    if not may_be_empty:
        return make()
    made: list[Share] = []

    def some() -> list[tf.Tensor]:
        made.append(make())
        return tensors_in(made[0])

    def none() -> list[tf.Tensor]:
        return [tf.zeros(one.shape, one.dtype) for one in tensors_in(made[0])]

    tensors = tf.cond(examples > 0, some, none)
    return as_in(made[0], tensors)


def _summed(values: Any, context: Any) -> Any:
    """Return a structure of tensors summed over all replicas, in one go."""
    leaves = tree.flatten(values)
    summed = iter(context.all_reduce("SUM", [tf.identity(one) for one in leaves if one is not None]))
    return tree.pack_sequence_as(values, [None if one is None else next(summed) for one in leaves])


def _logs(model: Any, context: Any) -> dict[str, Any]:
    """Return what the model logs, over the examples of all replicas."""
    variables = model.metrics_variables
    by_rule: dict[str, list[Any]] = {}
    for variable in variables:
        by_rule.setdefault(variable.aggregation, []).append(variable)
    known: list[tuple[Any, Any]] = []
    for rule, group in by_rule.items():
        values = [tf.identity(tf.convert_to_tensor(variable.value)) for variable in group]
        if rule in ("sum", "mean"):
            values = context.all_reduce(rule.upper(), values)
        known += zip(group, values, strict=True)
    with keras.StatelessScope(state_mapping=known):
        return dict(model.get_metrics_result())


def _square(gradients: list[list[Any]]) -> tf.Tensor:
    """The squared length of a gradient, of which there may be several parts to be summed."""
    total = tf.zeros(())
    for several in zip(*gradients, strict=True):
        there = [tf.cast(tf.convert_to_tensor(one), tf.float32) for one in several if one is not None]
        if there:
            total += tf.reduce_sum(tf.square(tf.add_n(there)))
    return total


def _first(strategy: Any, values: Any) -> Any:
    """Return what is the same on all replicas."""
    return tree.map_structure(
        lambda one: None if one is None else strategy.experimental_local_results(one)[0], values
    )
