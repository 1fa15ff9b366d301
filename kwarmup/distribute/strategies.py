"""The strategy for what is there: one device, several, or several workers."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import keras

from kwarmup.distribute import cluster as clusters
from kwarmup.distribute import slurm
from kwarmup.distribute.rendezvous import meet
from kwarmup.errors import value_error

_NAMES = ("auto", "one", "mirrored", "workers", "tpu")


def strategy(name: str = "auto", *, timeout: float = 300) -> Any:
    """Return the way to train on what is there: one device, all devices of this machine, or several workers.

    Models are made and compiled in its scope, as in any Keras guide, and trained by `plan.on(strategy)`. Where
    `TF_CONFIG` names several workers, or Slurm has started several tasks, all of them are waited for here.

    Args:
        name: `"auto"` takes the first that fits, from the last one of these: `"one"` is a single device;
            `"mirrored"` all GPUs, or all logical CPU devices where there is no GPU; `"workers"` is what
            `TF_CONFIG` or Slurm says; `"tpu"` a TPU.
        timeout: how many seconds to wait for the other workers.

    Returns:
        On TensorFlow a `tf.distribute` strategy. On JAX a `keras.distribution.DataParallel` over all devices, which
        is put in force; its processes are joined first, if `KERAS_DISTRIBUTION_JOB_ADDRESSES` is set, by
        `keras.distribution.initialize`.

    Raises:
        ValueError: if the name is unknown, there is no such thing here, `TF_CONFIG` is malformed or a port is taken.
        WorkerMissing: if a worker has not come in time.
        RuntimeError: on torch, where Keras trains on one device.

    Example:

    >>> from kwarmup import distribute
    >>> distribute.strategy("one").num_replicas_in_sync
    1
    """
    if name not in _NAMES:
        raise value_error(
            "name", name, f"one of {', '.join(map(repr, _NAMES))}", 'kw.distribute.strategy("auto")'
        )
    if keras.backend.backend() == "jax":
        return _on_jax(name)
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Keras trains on one device under {keras.backend.backend()}.\n"
            "Write: KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax, and kw.distribute.strategy()"
        )
    import tensorflow as tf

    if name in ("auto", "workers"):
        found = _workers(timeout)
        if found is not None:
            return found
        if name == "workers":
            raise value_error(
                "name", name, "TF_CONFIG to be set, or to be started by Slurm",
                "kwarmup launch --workers 2 -- python train.py",
            )  # fmt: skip
    if name in ("auto", "tpu"):
        found = _tpu(required=name == "tpu")
        if found is not None:
            return found
    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    devices = devices or [device.name for device in tf.config.list_logical_devices("CPU")]
    if name == "mirrored" or name == "auto" and len(devices) > 1:
        return tf.distribute.MirroredStrategy([_short(device) for device in devices])
    return tf.distribute.get_strategy()


def _short(device: str) -> str:
    return device.removeprefix("/device:")


def _workers(timeout: float) -> Any:
    import tensorflow as tf

    found = clusters.read()
    by_slurm = None if found is not None else slurm.read()
    cluster = found or by_slurm
    if cluster is None or len(cluster.workers) == 1:
        return None
    meet(cluster, timeout)
    if by_slurm is None:
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = slurm.gpus(tf.config.get_visible_devices("GPU"))
    tf.config.set_visible_devices(devices, "GPU")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(by_slurm.workers)}), task_type="worker", task_id=by_slurm.number,
        num_accelerators={"GPU": len(devices)}, rpc_layer="grpc",
    )  # fmt: skip
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def _tpu(required: bool) -> Any:
    import tensorflow as tf

    if not required and not os.environ.get("TPU_NAME") and not tf.config.list_physical_devices("TPU"):
        return None
    with contextlib.suppress(ValueError):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    if required:
        raise value_error("name", "tpu", "a machine with a TPU", 'kw.distribute.strategy("auto")')
    return None


def _on_jax(name: str) -> Any:
    if name in ("workers", "tpu"):
        raise value_error(
            "name", name, '"auto" on JAX, which takes all devices of all processes',
            'kw.distribute.strategy("auto")',
        )  # fmt: skip
    if os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"):
        keras.distribution.initialize()
    devices = keras.distribution.list_devices()
    found = keras.distribution.DataParallel(devices=devices[:1] if name == "one" else devices)
    keras.distribution.set_distribution(found)
    return found
