"""Let Keras's `fit` and `evaluate` run over several replicas: put functions in place, and take them away."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from kwarmup import pipeline
from kwarmup.distribute import replicas, step
from kwarmup.distribute.executions import Executions
from kwarmup.distribute.lost import lost_worker
from kwarmup.distribute.over import known
from kwarmup.distribute.shares import Shares, endless
from kwarmup.errors import Code, type_error, value_error
from kwarmup.micro_batches.share import check_losses
from kwarmup.private import built_beforehand


class Spread:
    """A model whose `fit` and `evaluate` run over the replicas of the strategy that it was made in.

    Args:
        model: built and compiled in the strategy's scope.
        may_be_empty: whether some batch of the training has fewer examples than there are replicas.
    """

    def __init__(self, model: Any, may_be_empty: bool):
        self.model, self.strategy, self.may_be_empty = model, model.distribute_strategy, may_be_empty
        self.shares: Shares = replicas.shares(self.strategy)
        self._executions = Executions(self.strategy, model.steps_per_execution, model.run_eagerly)
        self.several_workers = self.shares.several_workers
        self.chief = replicas.is_chief(self.strategy)
        #: Asked before each update: whether this process is to end.
        self.asked: Callable[[], bool] = lambda: False
        #: Whether any worker was asked to, at the last update.
        self.asked_anywhere = False

    def take(self, arguments: dict[str, Any]) -> None:
        """Take the arguments for `fit` that are about data; `self.arguments` has what is to be given in their place."""
        arguments = dict(arguments)
        self._class_weight = arguments.pop("class_weight", None)
        data = arguments.get("validation_data")
        if data is not None:
            batch_size, steps = (
                arguments.pop(f"validation_{name}", None) for name in ("batch_size", "steps")
            )
            data, steps = self.validation(data, batch_size, steps)
            arguments |= {"validation_data": data, "validation_steps": steps}
        self.arguments = arguments

    def batches(self, between: Callable[..., Any], *where: int) -> Any:
        """Return what `fit` takes: the batches between two places, as `Batches.between` makes pieces of them."""
        dataset = between(*where, shares=self.shares)
        if self._class_weight is not None:
            weigh = by_class(self._class_weight)
            dataset = dataset.map(lambda piece: piece._replace(data=weigh(*piece.data)))
        return self._distributed(dataset)

    def end_together(self, keeper: Any) -> None:
        """Let all workers end behind the same update, where one of them is asked to."""
        if self.several_workers:
            self.asked, keeper.agreed = lambda: keeper.asked_to_end, lambda: self.asked_anywhere

    def train_function(self, measures: bool = False) -> Callable[[Any], dict[str, Any]]:
        """Return what `fit` calls with an iterator for each execution, as the model is compiled now."""
        return self._execution(step.train(self.model, self.may_be_empty, measures))

    def test_function(self) -> Callable[[Any], dict[str, Any]]:
        """Return what `evaluate` calls with an iterator for each execution."""
        return self._execution(step.test(self.model))

    def validation(self, data: Any, batch_size: int | None, steps: int | None) -> tuple[Any, int]:
        """Return validation data over the replicas, and how many batches it has.

        Args:
            data: as `fit` takes it: arrays `(x, y)` or `(x, y, sample_weight)`, or batches.
            batch_size: of arrays; `None` for 32.
            steps: batches to take; `None` for all.

        Raises:
            ValueError: if nobody knows how many batches there are, or there are none.
        """
        given = data
        if isinstance(data, tuple | list):
            examples = len(keras.tree.flatten(data)[0])
            size = batch_size or 32
            data = tf.data.Dataset.from_tensor_slices(tuple(data)).batch(size)
            steps = min(steps or examples, -(-examples // size))
        elif isinstance(data, keras.utils.PyDataset):
            made, steps = data, min(steps or len(data), len(data))
            data = pipeline.from_python(lambda: (made[index] for index in range(len(made))), len(made))
        elif not isinstance(data, tf.data.Dataset):
            raise type_error(
                "validation_data", Code(f"a {type(data).__name__}"), "arrays, a PyDataset or a tf.data.Dataset",
                "plan.fit(model, x, y, validation_data=(x_validation, y_validation))",
            )  # fmt: skip
        else:
            known = int(data.cardinality())
            if known < 0 and steps is None:
                raise value_error(
                    "validation_steps", None, "a number, since this dataset does not know its length",
                    "plan.fit(..., validation_steps=100)",
                )  # fmt: skip
            steps = min(steps or known, known) if known >= 0 else steps
        assert steps is not None
        if steps == 0:
            # Keras takes 0 for no number of steps, and behind the last batch there are always more.
            raise value_error(
                "validation_data", Code(f"a {type(given).__name__} without any examples"),
                "at least one example, or None",
                "plan.fit(model, x, y, validation_data=(x_validation, y_validation))",
            )  # fmt: skip
        return self.cut(data, counted=True), steps

    def cut(self, batches: Any, counted: bool) -> Any:
        """Return a dataset of batches over the replicas, which cut each of them among themselves.

        Args:
            batches: of all replicas together.
            counted: whether it is known elsewhere how many are asked for; else there must be an end.
        """
        pieces = self.shares.of_batches(batches)
        # An execution of several steps looks for the end by itself.
        counted = counted or self.model.steps_per_execution > 1
        return self._distributed(endless(pieces) if counted else pieces)

    def _distributed(self, dataset: Any) -> Any:
        return self.strategy.distribute_datasets_from_function(lambda _: dataset)

    def _execution(self, run: Callable[..., dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        _check_metrics(self.model)
        compiled: Any = self._executions.of(run)

        def among_workers(iterator: Any) -> dict[str, Any]:
            found = compiled(iterator, tf.constant(float(self.asked())))
            asked, apart = (found.pop(name).numpy() for name in (step.ASKED, step.APART))
            if apart:
                raise _different()
            self.asked_anywhere = self.asked_anywhere or bool(asked > 0)
            return found

        return among_workers if self.several_workers else compiled


@contextlib.contextmanager
def over_replicas(model: Any, may_be_empty: bool) -> Iterator[Spread]:
    """While inside, `fit` and `evaluate` of a model run over the replicas of its strategy.

    Args:
        model: built and compiled in the strategy's scope.
        may_be_empty: whether some batch of the training has fewer examples than there are replicas.

    Raises:
        ValueError: if the model's steps or losses cannot be taken apart; in `fit` and `evaluate`, if metrics were made
            outside of the scope.
        WorkerLost: from what is done inside, where another worker does not answer any more.
    """
    check_losses(model.loss)
    _check_model(model)
    spread = Spread(model, may_be_empty)
    before = model.train_function, model.test_function

    def make_train_function(force: bool = False) -> None:
        if force or model.train_function is None:
            model.train_function = spread.train_function()

    def make_test_function(force: bool = False) -> None:
        if force or model.test_function is None:
            model.test_function = spread.test_function()

    model.train_function = model.test_function = None
    vars(model)["make_train_function"], vars(model)["make_test_function"] = (
        make_train_function,
        make_test_function,
    )
    try:
        # A worker may be missed anywhere in here: where metrics are read behind a pass all of them are asked, too.
        with built_beforehand(model), known(spread), lost_worker(model):
            yield spread
    finally:
        del vars(model)["make_train_function"], vars(model)["make_test_function"]
        model.train_function, model.test_function = before


def by_class(weights: dict[int, float]) -> Callable[..., Any]:
    """Return a function that weighs examples by their classes, as `class_weight` of `fit` says.

    Raises:
        ValueError: from that function, if examples have weights already or targets are no classes.
    """
    table = tf.constant([weights.get(number, 1.0) for number in range(max(weights) + 1)], tf.float32)

    def weigh(*data: Any) -> Any:
        x, y, *others = data
        if others or tree.is_nested(y):
            raise value_error(
                "class_weight", weights, "None beside sample weights or several targets",
                "plan.fit(model, x, y, sample_weight)",
            )  # fmt: skip
        one_hot = y.shape.rank > 1 and y.shape[-1] != 1
        classes = tf.argmax(y, -1) if one_hot else tf.cast(tf.reshape(y, [-1]), tf.int64)
        return x, y, tf.gather(table, classes)

    return weigh


def _different() -> ValueError:
    return value_error(
        "x",
        Code("data in another order, or other data, in each worker"),
        "the same batches in all workers, which cut them among each other",
        "dataset.shuffle(10_000, seed=0), or tf.data.Options().deterministic = True; the same files and the same seed "
        "everywhere",
    )


def _check_model(model: Any) -> None:
    for name in ("train_step", "test_step", "make_train_function", "make_test_function"):
        if name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name):
            raise value_error(
                "model",
                Code(f"a {type(model).__name__} with a {name} of its own"),
                f"a model whose {name} is that of keras.Model, to be spread over replicas",
                "plan.fit(model, x, y) with a model that was made outside of strategy.scope()",
            )
    if model.jit_compile is True:
        raise value_error(
            "jit_compile", True, "False, since TensorFlow does not compile what replicas say to each other",
            'model.compile(..., jit_compile="auto")',
        )  # fmt: skip


def _check_metrics(model: Any) -> None:
    """Raise where all replicas would count in one variable, each what the others have counted too.

    Only a model that is built has all variables of its metrics.
    """
    strategy = model.distribute_strategy
    # Those given to `compile` are in one that has them as its own.
    for metric in (one for held in model.metrics for one in getattr(held, "metrics", None) or [held]):
        for variable in metric.variables:
            if not strategy.extended.variable_created_in_scope(variable.value):
                raise value_error(
                    "metrics",
                    Code(f"{metric.name}, a {type(metric).__name__} made outside of the scope"),
                    "metrics made within strategy.scope()",
                    "with strategy.scope(): model.compile(optimizer, loss, "
                    "metrics=[keras.metrics.BinaryAccuracy()])",
                )
