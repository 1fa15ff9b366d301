"""The training step in micro-batches on TensorFlow: a loop within the graph, for batches of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from kwarmup.micro_batches import logs
from kwarmup.micro_batches.share import Share, losses_of
from kwarmup.private import build


def train_step(model: Any, most: int) -> Callable[[Any], Any]:
    """Return a step of `model` that has the activations of at most so many examples in memory."""

    def step(data: Any) -> Any:
        build(model, data)  # a loop must not make what is made once
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        leaf = next(one for one in tree.flatten(inputs) if one is not None)
        whole, known = tf.shape(leaf)[0], leaf.shape[0]
        begun = logs.begun(model)
        fits = known is not None and known <= most
        more = 0 if fits else (whole - 1) // most
        # What is left over comes first, and gives the sums to add to.
        first = whole - more * most
        share = micro_batch(data if fits else _rows(data, 0, first), first / whole)
        if not fits:
            size = tf.minimum(most, whole)  # XLA wants a slice that fits, even where it is never taken
            share = _sum_over(
                more,
                lambda i: micro_batch(_rows(data, first + i * most, size), most / whole),
                share,
                # XLA wants shapes that stay as they are, and sparse gradients grow with each sum. Where a norm
                # is clipped there, it is that of the dense gradient, and not one taken row by row.
                dense=model.jit_compile,
            )
        weights = model.trainable_weights
        loss, gradients = share.of_all(weights)
        model.optimizer.apply(gradients, weights)
        return logs.ended(model, begun, share.logged, loss, whole, known)

    def micro_batch(data: Any, part: tf.Tensor) -> Share:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            share, y_pred = losses_of(model, x, y, sample_weight, part)
            scaled = [model.optimizer.scale_loss(loss) for loss in share.losses]
        gradients = [tape.gradient(loss, model.trainable_weights) for loss in scaled]
        logs.count(model, x, y, y_pred, sample_weight)
        return share._replace(gradients=gradients)

    return step


def _rows(data: Any, begin: Any, size: Any) -> Any:
    def cut(tensor: Any) -> Any:
        if tensor is None:
            return None
        rank = len(tensor.shape)
        shape = tf.concat([[size], tf.shape(tensor)[1:]], 0)
        return tf.ensure_shape(tf.slice(tensor, [begin, *[0] * (rank - 1)], shape), [None, *tensor.shape[1:]])

    return tree.map_structure(cut, data)


def _sum_over(count: tf.Tensor, share_of: Callable[[Any], Share], first: Share, dense: bool) -> Share:
    """Return the sum of `first` and `count` shares, of which one at a time is in memory."""

    def ready(share: Share) -> Share:
        gradients = tree.map_structure(_dense, share.gradients) if dense else share.gradients
        return share._replace(gradients=gradients).wide()

    def body(i: tf.Tensor, sums: list[tf.Tensor]) -> Any:
        return i + 1, tensors_in(as_in(first, sums).plus(ready(share_of(i))))

    first = ready(first)
    tensors = tensors_in(first)
    growing = {
        id(one) for slices in _leaves(first) if _sparse(slices) for one in (slices.values, slices.indices)
    }
    shapes = [tf.TensorShape([None, *one.shape[1:]]) if id(one) in growing else one.shape for one in tensors]
    _, sums = tf.while_loop(
        lambda i, sums: i < count,
        body,
        [tf.constant(0), tensors],
        shape_invariants=[tf.TensorShape([]), shapes],
        parallel_iterations=1,
    )
    return as_in(first, sums)


def _sparse(gradient: Any) -> bool:
    return isinstance(gradient, tf.IndexedSlices)


def _dense(gradient: Any) -> Any:
    return tf.convert_to_tensor(gradient) if _sparse(gradient) else gradient


def _leaves(share: Share) -> list[Any]:
    return tree.flatten(tuple(share))


def tensors_in(share: Share) -> list[tf.Tensor]:
    """Return the tensors in a share: a loop of TensorFlow carries neither `None` nor sparse gradients."""
    found = []
    for one in _leaves(share):
        found += [one.values, one.indices] if _sparse(one) else [] if one is None else [one]
    return found


def as_in(share: Share, tensors: list[tf.Tensor]) -> Share:
    """Return the tensors as the share that `tensors_in` took apart."""
    left = iter(tensors)

    def back(one: Any) -> Any:
        if _sparse(one):
            return tf.IndexedSlices(next(left), next(left), one.dense_shape)
        return None if one is None else next(left)

    return Share(*tree.map_structure(back, tuple(share)))
