"""A door to Keras's own `fit` and `evaluate` over several devices and workers, without a plan."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from kwarmup.distribute import replicas
from kwarmup.errors import Code, value_error
from kwarmup.private import build


@contextlib.contextmanager
def plain_fit(model: keras.Model) -> Iterator[None]:
    """While inside, `model.fit` and `model.evaluate` run over the devices of the strategy that the model was made in.

    Under `MultiWorkerMirroredStrategy` Keras's own raise (keras#20585), and under `MirroredStrategy` they take the mean
    of the devices' means, which is another update wherever a batch does not divide. Here both do the update of
    one device, as `Plan.fit` does. All arguments of `fit` mean what they mean on one device: batches are those of the
    update, and devices cut each of them among themselves. With several workers all of them are to be given the
    same data in the same order, which is looked at in each update: `keras.utils.set_random_seed(0)` seeds the shuffling
    of arrays, `seed=` that of a dataset. Callbacks are called in each worker; what they write needs a place of its
    own, or `if kw.distribute.is_chief(strategy)` around it.

    On one device nothing is changed.

    Args:
        model: compiled in the scope of a strategy.

    Raises:
        ValueError: if the model's steps or losses cannot be taken apart; in `fit`, if workers have other batches,
            there are no examples, or metrics were made outside of the scope.
        RuntimeError: if this version of Keras builds a model in another way than is known here.

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import distribute
    >>> with distribute.strategy("one").scope():
    ...     model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    >>> with distribute.plain_fit(model):
    ...     history = model.fit(np.ones((5, 1)), np.ones((5, 1)), batch_size=2, epochs=3, verbose=0)
    >>> len(history.history["loss"])
    3
    """
    if not replicas.spread(model):
        yield
        return
    import tensorflow as tf

    from kwarmup.distribute.spread import over_replicas

    strategy: Any = model.distribute_strategy
    predict = model.predict
    with over_replicas(model, may_be_empty=True) as spread:

        def cut(dataset: Any, options: Any = None) -> Any:
            if int(dataset.cardinality()) == 0:  # there would be no end to the batches without examples
                raise value_error(
                    "x", Code("data without any examples"), "at least one example, in validation_data too",
                    "model.fit(x, y, validation_data=(x_validation, y_validation))",
                )  # fmt: skip
            build(model, dataset.element_spec)
            # Where the dataset does not know, Keras may not know either, and asks for more until there is an end.
            return spread.cut(dataset, counted=int(dataset.cardinality()) != tf.data.UNKNOWN_CARDINALITY)

        def predict_as_before(*arguments: Any, **named: Any) -> Any:
            with _put(strategy, "experimental_distribute_dataset", None):
                return predict(*arguments, **named)

        # Whatever `fit` is given, Keras makes a dataset of batches of it and hands it to the strategy: the one place
        # where a batch is whole.
        with (
            _put(strategy, "experimental_distribute_dataset", cut),
            _put(model, "predict", predict_as_before),
        ):
            yield


@contextlib.contextmanager
def _put(thing: Any, name: str, value: Any) -> Iterator[None]:
    """While inside, a thing has an attribute of its own; with `None` only that of its class."""
    # Not by setattr, which Keras would take for a part of what is saved of a model.
    own = vars(thing)
    before = own.pop(name, None)
    if value is not None:
        own[name] = value
    try:
        yield
    finally:
        own.pop(name, None)
        if before is not None:
            own[name] = before
