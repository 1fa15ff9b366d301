"""Several updates by replicas as one call: a loop within the graph, which ends where the data does."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kwarmup.distribute.shares import Piece
from kwarmup.distribute.step import APART

Step = Callable[..., dict[str, Any]]


class Executions:
    """Makes of training steps what Keras calls executions: `steps_per_execution` of them in one call.

    A loop over replicas must know beforehand whether it goes on: TensorFlow runs replicas within a loop, but not
    within a branch of it. So there is always one batch read ahead, which the next execution begins with.

    Args:
        strategy: whose replicas run them.
        count: steps in one call.
        eagerly: whether Python runs each of them.
    """

    def __init__(self, strategy: Any, count: int, eagerly: bool):
        self._strategy, self._count, self._eagerly = strategy, count, eagerly
        self._ahead: weakref.WeakKeyDictionary[Any, list[tf.Tensor]] = weakref.WeakKeyDictionary()

    def of(self, step: Step) -> Step:
        """Return a function that takes an iterator, and returns what the last step has found.

        Args:
            step: takes what the iterator yields, and more; returns what there is to log.

        With several steps the iterator must not end: behind its last batch come batches without examples, which
        `endless` makes. The function raises `StopIteration` where there are only those.
        """
        if self._count == 1:

            @tf.autograph.experimental.do_not_convert
            def one(iterator: Any, *more: Any) -> dict[str, Any]:
                return step(iterator.get_next(), *more)

            return self._compiled(one)

        @tf.autograph.experimental.do_not_convert
        def several(
            iterator: Any, first: list[tf.Tensor], *more: Any
        ) -> tuple[dict[str, Any], list[tf.Tensor]]:
            spec = iterator.element_spec
            found = step(_piece(spec, first), *more)  # outside of the loop, which wants to know what is found

            def body(done: Any, leaves: list[tf.Tensor], found: dict[str, Any]) -> Any:
                found = _joined(found, step(_piece(spec, leaves), *more))
                return done + 1, _leaves(iterator.get_next()), found

            _, ahead, found = tf.while_loop(
                lambda done, leaves, found: tf.logical_and(
                    done < self._count, self._rows(_piece(spec, leaves)) > 0
                ),
                body,
                (tf.constant(1), _leaves(iterator.get_next()), found),
                shape_invariants=(
                    tf.TensorShape([]),
                    [leaf.shape for leaf in _leaves(spec)],
                    tf.nest.map_structure(lambda one: one.shape, found),
                ),
                parallel_iterations=1,
            )
            return found, ahead

        compiled: dict[Any, Callable[..., Any]] = {}

        def execution(iterator: Any, *more: Any) -> dict[str, Any]:
            spec = tf.type_spec_from_value(iterator)
            if spec not in compiled:
                # With the shapes said beforehand: what replicas have is traced anew for each size of a batch.
                known = [spec, _leaves(iterator.element_spec), *map(tf.type_spec_from_value, more)]
                compiled[spec] = self._compiled(several, input_signature=known)
            first = self._ahead.pop(iterator, None)
            first = _leaves(next(iterator)) if first is None else first
            if not self._rows(_piece(iterator.element_spec, first)):
                raise StopIteration
            found, self._ahead[iterator] = compiled[spec](iterator, first, *more)
            return dict(found)

        return execution

    def _compiled(self, function: Callable[..., Any], **named: Any) -> Callable[..., Any]:
        compiled: Callable[..., Any] = tf.function(function, reduce_retracing=True, **named)
        return function if self._eagerly else compiled

    def _rows(self, piece: Piece) -> Any:
        """Return how many examples a batch has, all replicas together."""
        return self._strategy.experimental_local_results(piece.whole)[0]


def _leaves(piece: Any) -> list[Any]:
    """Return the tensors of all replicas, of which a loop says how their shapes may change."""
    leaves: list[Any] = tf.nest.flatten(piece, expand_composites=True)
    return leaves


def _piece(spec: Any, leaves: list[tf.Tensor]) -> Piece:
    piece: Piece = tf.nest.pack_sequence_as(spec, leaves, expand_composites=True)
    return piece


def _joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what the last step has found; if workers had other batches than each other in any step, that too."""
    if APART not in now:
        return now
    return now | {APART: tf.maximum(tf.abs(before[APART]), tf.abs(now[APART]))}
