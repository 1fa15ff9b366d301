"""What a micro-batch contributes to the loss of its batch, so that the contributions add up to it exactly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from kwarmup.errors import Code, value_error
from kwarmup.micro_batches import logs
from kwarmup.private import mask_of

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
_WITHOUT = "plan.fit(model, x, y) without max_device_batch"


class Share(NamedTuple):
    """A micro-batch's part of a batch, or the sum of several.

    Attributes:
        losses: one, or two of which only the first is to be divided.
        divisor: what the first loss is divided by once all are summed; `None` for nothing.
        logged: the losses of several outputs, which Keras logs.
        gradients: those of each loss, `None` for weights without.
    """

    losses: list[Any]
    divisor: Any
    logged: list[Any]
    gradients: list[list[Any]]

    def plus(self, other: Share) -> Share:
        """Return the sum of both."""
        pairs = zip(self.gradients, other.gradients, strict=True)
        return Share(
            _sums(self.losses, other.losses),
            _sum(self.divisor, other.divisor),
            _sums(self.logged, other.logged),
            [_sums(*pair) for pair in pairs],
        )

    def wide(self) -> Share:
        """Return gradients of half types as float32: summed in their own type, they would lose bits."""
        return self._replace(gradients=[[_wide(one) for one in many] for many in self.gradients])

    def of_all(self, weights: list[Any]) -> tuple[Any, list[Any]]:
        """Return the loss of the batch and the gradients of `weights`, once all shares are summed."""
        losses, gradients = self.losses, self.gradients
        if self.divisor is not None:
            losses = [_divided(losses[0], self.divisor), *losses[1:]]
            gradients = [[_divided(one, self.divisor) for one in gradients[0]], *gradients[1:]]
        loss, found = losses[0], gradients[0]
        if len(losses) == 2:
            loss, found = loss + losses[1], _sums(*gradients)
        return loss, [
            one if one is None or _dtype(one) == weight.dtype else _each(ops.cast, one, weight.dtype)
            for one, weight in zip(found, weights, strict=True)
        ]


def _sums(ours: list[Any], theirs: list[Any]) -> list[Any]:
    return [_sum(one, other) for one, other in zip(ours, theirs, strict=True)]


def _sum(ours: Any, theirs: Any) -> Any:
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    if _sparse(ours) and _sparse(theirs):
        # Gradients of embeddings on TensorFlow. One behind the other they are those of the large batch, which
        # matters to an optimizer: it takes their norm row by row.
        rows = ops.concatenate([ours.values, theirs.values])
        return type(ours)(rows, ops.concatenate([ours.indices, theirs.indices]), ours.dense_shape)
    return ops.convert_to_tensor(ours) + ops.convert_to_tensor(theirs)


def _sparse(gradient: Any) -> bool:
    # tf.IndexedSlices, which cannot be named here; tensors of torch have indices too.
    return hasattr(gradient, "dense_shape")


def _each(function: Callable[..., Any], gradient: Any, *arguments: Any) -> Any:
    if _sparse(gradient):
        return type(gradient)(function(gradient.values, *arguments), gradient.indices, gradient.dense_shape)
    return function(gradient, *arguments)


def _wide(gradient: Any) -> Any:
    half = gradient is not None and _dtype(gradient) in ("float16", "bfloat16")
    return _each(ops.cast, gradient, "float32") if half else gradient


def _dtype(tensor: Any) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


def _divided(value: Any, divisor: Any) -> Any:
    return None if value is None else _each(ops.divide_no_nan, value, ops.cast(divisor, _dtype(value)))


def losses_of(
    model: keras.Model, x: Any, y: Any, sample_weight: Any, part: Any, training: bool = True
) -> tuple[Share, Any]:
    """Run a model forward over a micro-batch; return its share, still without gradients, and the predictions.

    A mean over the examples counts by the part of the examples that are here, and so does what layers add:
    penalties on weights, the same in each micro-batch, come out once. A sum counts as it is. A mean
    over what a mask leaves, or over the sum of sample weights, has a divisor that is known only behind the
    last micro-batch.

    Args:
        model: built or not.
        x: inputs.
        y: targets.
        sample_weight: weights, or `None`.
        part: how much of the batch is here, 1 for all of it.
        training: or evaluating.

    Raises:
        ValueError: if several losses do not all count by the number of examples.
    """
    y_pred = model(x, training=training)
    named = {"training": training} if "training" in inspect.signature(model.compute_loss).parameters else {}
    with logs.apart(model) as outputs:
        loss = model.compute_loss(x, y, y_pred, sample_weight, **named)
    part = ops.cast(part, loss.dtype)
    logged = [value * part for value in outputs]
    own = _own_weight(model.loss, y, y_pred, sample_weight)
    summed = any(_reduction(one) == "sum" for one in _losses(model.loss))
    if own is None and not summed:
        return Share([loss * part], None, logged, []), y_pred
    added = [ops.cast(ops.sum(one), loss.dtype) for one in model.losses]
    if summed:
        # Of what layers add only this part is meant, and the rest is taken off again.
        share = loss - sum(added) * (1 - part) if added else loss
        return Share([share], None, logged, []), y_pred
    own = ops.cast(own, loss.dtype) * part
    if not added:
        return Share([loss * own], own, logged, []), y_pred
    return Share([(loss - sum(added)) * own, sum(added) * part], own, logged, []), y_pred


def _own_weight(loss: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """Return the weight of a micro-batch's examples in a mean, on average; `None` where it is 1."""
    outputs, losses = tree.flatten(y_pred), _losses(loss)
    weighted = (
        any(_reduction(one) == "mean_with_sample_weight" for one in losses) and sample_weight is not None
    )
    ignoring = any(getattr(one, "ignore_class", None) is not None for one in losses)
    masks = [mask_of(output) for output in outputs] if losses else []
    summed = any(_reduction(one) == "sum" for one in losses)
    if len(outputs) > 1 and (weighted or ignoring or summed or any(mask is not None for mask in masks)):
        raise value_error(
            "max_device_batch",
            Code(
                f"a model of {len(outputs)} outputs with "
                + ("a sum" if summed else "a mean over sample weights" if weighted else "a masked mean")
            ),
            "losses that are means over the examples, where there are several",
            'loss=MeanSquaredError(reduction="mean_with_sample_weight") for one output; ' + _WITHOUT,
        )
    if summed or not losses:
        return None
    mask = masks[0]
    if ignoring:
        kept = ops.not_equal(tree.flatten(y)[0], losses[0].ignore_class)
        mask = kept if mask is None else ops.logical_and(ops.reshape(kept, ops.shape(mask)), mask)
    if weighted:
        weight = ops.cast(tree.flatten(sample_weight)[0], "float32")
        return ops.mean(weight if mask is None else weight * ops.cast(mask, weight.dtype))
    return None if mask is None else ops.mean(ops.cast(mask, "float32"))


def check_losses(loss: Any) -> None:
    """Can the losses that a model was compiled with be taken in micro-batches?

    Raises:
        ValueError: if one gives a number for each example.
    """
    for one in _losses(loss):
        if _reduction(one) not in (*_MEANS, "sum"):
            raise value_error(
                "max_device_batch",
                Code(f"{type(one).__name__}(reduction={_reduction(one)!r})"),
                "losses with a mean or a sum over the examples",
                f"{type(one).__name__}(); {_WITHOUT}",
            )


def _losses(loss: Any) -> list[Any]:
    return [one for one in tree.flatten(loss) if one is not None]


def _reduction(loss: Any) -> str:
    # Names and functions become losses that take the mean.
    return loss.reduction if isinstance(loss, keras.losses.Loss) else _MEANS[0]
