"""The one place that touches private names of Keras, each with its reason; a test tells when a door moves."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state

from kwarmup.distribute import replicas


def schedule_of(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.schedules.LearningRateSchedule | None:
    """Return the schedule inside an optimizer, `None` where its learning rate is a plain number.

    `optimizer.learning_rate` is the schedule's value for the *next* update, and `get_config` a copy that
    fails for schedules that cannot be serialised. The object itself has no public door.
    """
    rate = rate_of(optimizer)
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return what an optimizer holds as its learning rate: a variable, a schedule or a function.

    `optimizer.learning_rate` is a schedule's or a function's value for the next update, and so cannot tell
    which of them it came from.
    """
    # Under mixed precision the learning rate lives on the optimizer that is wrapped.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer._learning_rate


def direction_of(metric: keras.metrics.Metric) -> str | None:
    """Return `"up"` or `"down"`, the way in which a metric gets better; `None` where it does not say.

    Keras's own callbacks ask for it where the mode is "auto". A list of names would be the only public way.
    """
    return getattr(metric, "_direction", None)


def index_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Return the number of a variable among those that an optimizer moves, the index of its slots.

    An `update_step` of one's own needs it, since each backend tells variables apart in its own way. The
    example in the docstring of Keras's `Optimizer` uses the same method.
    """
    return optimizer._get_variable_index(variable)


def loss_tracker(model: keras.Model) -> Any:
    """Return the metric that Keras logs as the loss.

    It is the first of `model.metrics`, unless a model says itself what its metrics are: then it is not there,
    and is logged no less.
    """
    return model._loss_tracker


def output_loss_trackers(model: keras.Model) -> list[Any]:
    """Return the metrics in which Keras logs the losses of several outputs; empty for a single loss.

    Among `model.metrics` they cannot be told from a user's own.
    """
    trainer: Any = model
    return [] if trainer._compile_loss is None else trainer._compile_loss.metrics


def mask_of(tensor: Any) -> Any:
    """Return the mask that layers have handed on with a tensor, by which Keras takes the mean of a loss."""
    # How a tensor carries it differs between backends.
    from keras.src.backend import get_keras_mask

    return get_keras_mask(tensor)


def build(model: keras.Model, batch: Any) -> None:
    """Make every variable of a compiled model, of its metrics and its optimizer, without running any of them.

    On JAX and torch Keras does so itself when `fit` begins; on TensorFlow only within the first step, which
    is too late to give variables the values they had. Calling the model and its loss would build too, but it
    draws from random generators and fails where a model brings a training step of its own.
    """
    trainer: Any = model
    with replicas.scope(model):
        trainer._symbolic_build(data_batch=batch)


def shared_seed_generator() -> keras.random.SeedGenerator | None:
    """Return the generator behind random operations that were given no seed; `None` before its first use.

    It belongs to no model, so no list of variables holds it.
    """
    return global_state.get_global_attribute("global_seed_generator")


def tensorflow_seeds() -> random.Random | None:
    """Return what TensorFlow draws seeds from for operations that were given none; `None` if they are random.

    `tf.random.set_seed` begins it anew; nothing public tells where it stands.
    """
    from tensorflow.python.eager import context

    return getattr(context.context(), "_rng", None)


def tensorflow_memory_limit(device: str) -> int | None:
    """Return the bytes that TensorFlow may use of a device; `None` for a device that it does not know.

    `tf.config` tells what is in use, and what a user has set as a limit, but not how much there is.
    """
    import tensorflow as tf
    from tensorflow.python.client import device_lib

    number = tf.DeviceSpec.from_string(device)
    for found in device_lib.list_local_devices():
        spec = tf.DeviceSpec.from_string(found.name)
        if (spec.device_type, spec.device_index) == (number.device_type, number.device_index):
            return found.memory_limit
    return None


def slurm_nodes(hosts: str, tasks: str) -> tuple[list[str], list[int]]:
    """Return the hosts that Slurm's notation names, in its order, and how many tasks each of them has.

    TensorFlow's `SlurmClusterResolver`, the public door, wants a GPU for each task: it fails without `nvidia-smi`, and
    where there are fewer GPUs than tasks. And it orders hosts by their letters, `n10` before `n9`, as Slurm does not.
    """
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

    return slurm.expand_hostlist(hosts), slurm.expand_tasks_per_node(tasks)


def layers_of(model: keras.Model) -> list[Any]:
    """Return all layers of a model, those within other layers and models too.

    `model.layers` has the outermost ones, and a layer of one's own does not say what it is made of.
    """
    return list(model._flatten_layers(include_self=False))


def tracked(thing: keras.Model | keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return what a model or an optimizer knows about its own: the lists that its variables and metrics are in.

    Setting `optimizer.learning_rate` changes these lists, and no public door changes them back.
    """
    return vars(thing._tracker)


def second_moments(optimizer: keras.optimizers.Adam) -> list[Any]:
    """Return Adam's running averages of squared gradients, in the order of the model's trainable variables.

    The public list of an optimizer's variables tells them from first moments by their names alone.
    """
    return optimizer._velocity_hats if optimizer.amsgrad else optimizer._velocities


def optimizer_like(optimizer: keras.optimizers.Optimizer, learning_rate: Any) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the settings of another and a learning rate of its own.

    A config holds all but two of the settings: which variables are exempt from weight decay. And to make
    one fails where the learning rate cannot be serialised, so that is left out of it.
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        kept: Any = optimizer
        return type(kept)(
            optimizer_like(inner, learning_rate),
            initial_scale=kept.initial_scale,
            dynamic_growth_steps=kept.dynamic_growth_steps,
        )
    # Not by `copy`, which Keras answers by writing a file and reading it again.
    described: Any = object.__new__(type(optimizer))
    vars(described).update(vars(optimizer), _learning_rate=0.0)
    fresh = type(optimizer).from_config({**described.get_config(), "learning_rate": learning_rate})
    exempt = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
    vars(fresh).update({name: vars(optimizer)[name] for name in exempt if name in vars(optimizer)})
    return fresh


def input_signature(model: keras.Model) -> Any:
    """Return the specs of a model's inputs, as `model.export` works them out.

    `ExportArchive`, the public door to endpoints of one's own, wants to be told them.
    """
    from keras.src.export.export_utils import get_input_signature

    return get_input_signature(model)


def saved_by(archive: keras.export.ExportArchive) -> Any:
    """Return the object that an `ExportArchive` saves, which `tf.saved_model.load` gives back.

    The archive has methods for endpoints and variables; for assets it has none.
    """
    return archive._tf_trackable


@contextlib.contextmanager
def losses_of_one_device() -> Iterator[None]:
    """While inside, Keras does not divide losses by the number of replicas.

    It divides means, but not sums and not the losses that functions return as one number: whether a loss is
    divided cannot be told from outside. Without it each replica's loss is what one device would have.
    """
    from keras.src.losses import loss

    doors = ("scale_loss_for_distribution", "unscale_loss_for_distribution")
    before = {name: getattr(loss, name) for name in doors}
    for name in doors:
        setattr(loss, name, lambda value: value)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(loss, name, function)


@contextlib.contextmanager
def summed_beforehand(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """While inside, an optimizer takes gradients as they are, that of each device in its place.

    Outside of a replica it would sum them over a single device, which changes nothing, but which a value with
    something for each device does not go through. On several GPUs it would be sent from the first to all others.
    """
    if not callable(getattr(optimizer, "_all_reduce_sum_gradients", None)):
        yield
        return
    vars(optimizer)["_all_reduce_sum_gradients"] = lambda pairs: pairs
    try:
        yield
    finally:
        del vars(optimizer)["_all_reduce_sum_gradients"]


@contextlib.contextmanager
def built_beforehand(model: keras.Model) -> Iterator[None]:
    """While inside, `fit` and `evaluate` do not build the model, which is built already, within a strategy.

    To do so they would read a batch and take the mean of what the replicas hold, which fails where they hold
    different numbers of examples, and under several workers always (keras#20585).
    """
    trainer: Any = model
    if not callable(getattr(trainer, "_maybe_symbolic_build", None)):
        raise RuntimeError(
            f"Keras {keras.__version__} builds a model in another way than this kwarmup knows, which several "
            "devices need.\nWrite: pip install --upgrade kwarmup, or train on one device"
        )
    vars(trainer)["_maybe_symbolic_build"] = lambda *arguments, **named: None
    try:
        yield
    finally:
        del vars(trainer)["_maybe_symbolic_build"]
