"""How many devices share each batch of a model, and which of them this process has."""

from __future__ import annotations

import contextlib
from typing import Any

import keras

from kwarmup.distribute.shares import Shares


def count(thing: Any) -> int:
    """Return the number of replicas of a `tf.distribute` strategy, a `keras.distribution.DataParallel` or a model.

    A model has those of the strategy in whose scope it was made; on JAX, those of the distribution in force.
    """
    if isinstance(thing, keras.Model) or hasattr(thing, "distribute_strategy"):
        thing = getattr(thing, "distribute_strategy", None) or keras.distribution.distribution()
    if hasattr(thing, "num_replicas_in_sync"):
        return int(thing.num_replicas_in_sync)
    mesh = getattr(thing, "device_mesh", None)
    if mesh is None:
        return 1
    batches = getattr(thing, "batch_dim_name", None)
    shape = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    return int(shape.get(batches, 1))


def strategy_of(model: keras.Model) -> Any:
    """Return what a model is spread over several replicas by, for `Plan.on`; `None` where it has one device."""
    if count(model) == 1:
        return None
    return getattr(model, "distribute_strategy", None) or keras.distribution.distribution()


def spread(model: keras.Model) -> bool:
    """Return whether a model was made in the scope of a `tf.distribute` strategy with several replicas."""
    return getattr(getattr(model, "distribute_strategy", None), "num_replicas_in_sync", 1) > 1


def scope(model: keras.Model) -> contextlib.AbstractContextManager[object]:
    """Return the scope in which the variables of a model were made, and in which more of them are to be made."""
    strategy: Any = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def several_workers(model: keras.Model) -> bool:
    """Return whether other processes have replicas of a model too."""
    strategy: Any = getattr(model, "distribute_strategy", None)
    return spread(model) and len(strategy.extended.worker_devices) < strategy.num_replicas_in_sync


def shares(strategy: Any) -> Shares:
    """Return which of a strategy's replicas this process has."""
    local = len(strategy.extended.worker_devices)
    resolver = strategy.cluster_resolver
    worker = 0
    if local < strategy.num_replicas_in_sync:
        worker = worker_number(resolver)
    return Shares(strategy.num_replicas_in_sync, worker * local, local)


def worker_number(resolver: Any) -> int:
    """Return the number of this process among those that train, the chief first."""
    if resolver is None or not resolver.task_type:
        return 0
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", []))
    return int(resolver.task_id) + (chiefs if resolver.task_type != "chief" else 0)


def is_chief(strategy: Any = None) -> bool:
    """Return whether this process is the one that writes and speaks: of several workers the first.

    Args:
        strategy: a `tf.distribute` strategy; `None` for the one in whose scope this is called. On JAX the first
            process is the chief.

    Example:

    >>> from kwarmup import distribute
    >>> distribute.is_chief(distribute.strategy("one"))
    True
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.process_index() == 0
    if keras.backend.backend() != "tensorflow":
        return True
    if strategy is None:
        import tensorflow as tf

        strategy = tf.distribute.get_strategy()
    return worker_number(getattr(strategy, "cluster_resolver", None)) == 0
