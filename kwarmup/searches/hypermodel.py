"""A model and its plan as keras-tuner takes them: built, and trained, by the values of hyperparameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import keras
import keras_tuner

from kwarmup import applied, guard
from kwarmup.distribute import replicas
from kwarmup.errors import Code, type_error, value_error
from kwarmup.fit import listed
from kwarmup.measure.noise_scale import NoiseScale
from kwarmup.plan import Plan
from kwarmup.private import optimizer_like
from kwarmup.profile import Profile
from kwarmup.searches import space
from kwarmup.searches.budget import Budget, equal_examples
from kwarmup.studies.lengths import scaling_rule
from kwarmup.sweep import Sweep

_WRITE = "search(build, plan, peak=(1e-3, 1.0), batch_size=[32, 64, 128, 256])"


@final
class PlanHyperModel(keras_tuner.HyperModel):
    """A model to be trained by a plan whose peak and batch size are searched: for tuners that you assemble.

    `search` makes one, and a tuner around it that treats failures as results. In `build`, the learning rate of
    your optimizer is replaced by the trial's plan; `fit` trains by that plan.

    The hyperparameters are `peak`, on a log scale and at the batch size of the plan, `batch_size`, and where
    there is something to choose, `warmup` and `decay`. At batch size B the learning rate is
    `peak · (B / plan's batch size) ** scaling`, so that the best peak lies nearly at the same place for all.

    Args:
        build: a function of nothing, or of `hp`, that returns a new compiled model.
        plan: the reference: data, passes, phases of the learning rate, and the batch size that peaks are told at.
        peak: the smallest and the largest learning rate at that batch size.
        batch_size: sizes to choose among.
        warmup: warmups to choose among; `None` for the plan's own.
        decay: what follows the warmup, to choose among; `None` for the plan's own.
        scaling: of the learning rate with the batch size; `None` for 1 (linear) with SGD and 0.5 (square root)
            with optimizers that normalise the gradient.
        budget: `equal_examples`, `equal_updates`, `equal_time(throughput)`, or a function like them.
        sweep: what `find_lr` has measured; the search begins at the peak that it suggests.
        noise: what `noise_scale` has measured; the search begins at the batch size next to it.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if it is out of range, or a plan cannot be made for a batch size.

    Papers: Goyal et al. 2017 (linear rule); Krizhevsky 2014, Malladi et al. 2022 (square-root rule).

    Example:

    >>> import keras, keras_tuner
    >>> import kwarmup as kw
    >>> def build(hp):
    ...     units = hp.Int("units", 8, 64, sampling="log")
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(), "mse")
    ...     return model
    >>> plan = kw.Plan(learning_rate=kw.warmup(epochs=1) >> kw.cosine(), batch_size=50, examples=1_000, epochs=5)
    >>> hypermodel = kw.PlanHyperModel(build, plan, peak=(1e-3, 1.0), batch_size=[50, 100])
    >>> hp = keras_tuner.HyperParameters()
    >>> model = hypermodel.build(hp)
    >>> sorted(hp.values)
    ['batch_size', 'peak', 'units']
    >>> hp.values.update(peak=0.1, batch_size=100)
    >>> hypermodel.plan(hp, model)
    Plan(learning_rate=0.2 * (warmup(epochs=1) >> cosine()), batch_size=100, examples=1000, epochs=5)
    """

    def __init__(
        self,
        build: Callable[..., keras.Model],
        plan: Plan,
        *,
        peak: tuple[float, float],
        batch_size: Sequence[int],
        warmup: Sequence[Profile] | None = None,
        decay: Sequence[Profile] | None = None,
        scaling: float | None = None,
        budget: Budget = equal_examples,
        sweep: Sweep | None = None,
        noise: NoiseScale | None = None,
    ):
        super().__init__()
        if not callable(build) or isinstance(build, keras.Model):
            raise type_error(
                "build", Code(f"a {type(build).__name__}"), "a function that returns a compiled model", _WRITE
            )
        self.space = space.make(plan, peak, batch_size, warmup, decay, scaling, budget)
        self._make, self._takes_hp = build, _takes_hp(build)
        self.sweep, self.noise = sweep, noise
        self._start: dict[str, Any] | None = None
        #: Of the model that was built last.
        self.planned: Plan | None = None
        #: What a tuner gives to each training beside what `fit` is given: by arguments it would have to go through
        #: `run_trial`, which users write too.
        self.given: dict[str, Any] = {}

    def build(self, hp: Any) -> keras.Model:
        """Return a new model whose optimizer follows the plan of these hyperparameters."""
        first = self._start is None
        if self._start is None:
            self._start = self._where_to_begin(hp)
        self.space.declare(hp, self._start)
        model = self._compiled(hp)
        if first and (strategy := replicas.strategy_of(model)) is not None:
            self.space.check_on(strategy)
        self.planned = self.plan(hp, model)
        _follow(model, self.planned)
        if first:
            # What every trial would fail at.
            guard.check_model(_on_its_devices(self.planned, model), model)
        return model

    def plan(self, hp: Any, model: keras.Model) -> Plan:
        """Return the plan of these hyperparameters, for the optimizer of a model and any number of devices."""
        return self.space.plan_of(hp.values, scaling_rule(model.optimizer))

    @property
    def start(self) -> dict[str, Any]:
        """Where the search begins, by what was measured before it; empty where nothing was."""
        return dict(self._start or {})

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train a model by its plan, on the devices that it was made for; takes what `Plan.fit` takes.

        Hyperband's rounds, which tell `epochs` of the plan's, go on where the last one stood if they are given
        its `checkpoint_dir`: the learning rate is that of the whole plan.
        """
        plan = self.plan(hp, model)
        kwargs = {**self.given, **kwargs}
        epochs, reference = kwargs.pop("epochs", None), self.space.plan.clock.epochs
        kwargs.pop("initial_epoch", None)  # the checkpoint knows
        ends = plan.clock.epochs if epochs is None else math.ceil(plan.clock.epochs * epochs / reference)
        folder = kwargs.pop("checkpoint_dir", None)
        if isinstance(folder, Iterator):
            folder = next(folder)
        if ends < plan.clock.epochs and folder is None:
            raise value_error(
                "checkpoint_dir", None, "a folder, to go on from in the next round",
                'hypermodel.fit(hp, model, x, y, epochs=3, checkpoint_dir="runs/a")',
            )  # fmt: skip
        if applied.updates(model.optimizer):
            # keras-tuner's Hyperband has loaded the weights of the last round, and with them a part of the optimizer;
            # the checkpoint has all of it.
            _follow(model, plan)
        callbacks = [*listed(kwargs.pop("callbacks", None)), _Round(ends)]
        kwargs["verbose"] = kwargs.get("verbose") if kwargs.get("verbose") in (1, 2) else 0
        try:
            return _on_its_devices(plan, model).fit(
                model, *args, callbacks=callbacks, checkpoint_dir=folder, **kwargs
            )
        except _EndOfRound:
            return model.history

    def _compiled(self, hp: Any) -> keras.Model:
        model = self._make(hp) if self._takes_hp else self._make()
        if not isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer):
            raise value_error(
                "build", Code(f"a function that returned {getattr(model, 'name', type(model).__name__)}"),
                "one that returns a compiled model", 'model.compile("sgd", "mse") before return model',
            )  # fmt: skip
        return model

    def _where_to_begin(self, hp: Any) -> dict[str, Any]:
        if self.sweep is None and self.noise is None:
            return {}
        # The rule that carries the suggestion is that of the optimizer.
        rule = scaling_rule(self._compiled(hp.copy()).optimizer)
        return self.space.start(self.sweep, self.noise, rule)


def _follow(model: keras.Model, plan: Plan) -> None:
    """Give a model a fresh optimizer that follows a plan, where the model's own variables are."""
    with replicas.scope(model):
        model.optimizer = optimizer_like(model.optimizer, plan.learning_rate)


def _takes_hp(build: Callable[..., Any]) -> bool:
    """Whether a function wants `hp`: it cannot be called without an argument, or has one of that name."""
    parameters = inspect.signature(build).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.name == "hp" or (p.kind in positional and p.default is p.empty) for p in parameters)


def _on_its_devices(plan: Plan, model: keras.Model) -> Plan:
    """Return the plan for the devices that a model was made on: a trial on several is the one on one device."""
    strategy = replicas.strategy_of(model)
    return plan if strategy is None else plan.on(strategy)


class _EndOfRound(Exception):
    """A round of Hyperband is over: not the end of the training, which may go on behind its checkpoint."""


class _Round(keras.callbacks.Callback):
    """Ends a round in front of pass `ends`, behind the checkpoint of the pass before it."""

    def __init__(self, ends: int):
        super().__init__()
        self.ends = ends

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch >= self.ends:
            raise _EndOfRound
