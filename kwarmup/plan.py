"""A plan: learning rate, batch size and clock as one frozen value."""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from kwarmup.clock import Clock
from kwarmup.curve import Curve, as_profile
from kwarmup.errors import Code, type_error, value_error
from kwarmup.following import FollowNoise, batch_size_from_dict, refuse
from kwarmup.growth import growing_batch, in_examples, unit_of
from kwarmup.length import number
from kwarmup.places import places
from kwarmup.profile import Profile

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from kwarmup.schedule import Schedule

_EXAMPLE = (
    "Plan(learning_rate=0.1 * (warmup(epochs=5) >> cosine()), batch_size=64, examples=50_000, epochs=30)"
)
_CLOCK_KEYS = (
    "examples",
    "epochs",
    "batch_size",
    "drop_remainder",
    "gradient_accumulation_steps",
    "replicas",
    "multiple_of",
    "min_batch_size",
    "max_batch_size",
)


class Row(NamedTuple):
    """A phase in numbers: its first and last update, and what holds at both."""

    phase: str
    first: int
    last: int
    epochs: tuple[float, float]
    batch_sizes: tuple[int, int]
    learning_rates: tuple[float, float]


class PlanWarning(UserWarning):
    """A plan that can be carried out, but is probably not what its author wants.

    Example:

    >>> import warnings
    >>> from kwarmup import Plan, PlanWarning, warmup
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", PlanWarning)  # where it is meant so
    ...     plan = Plan(learning_rate=0.1 * warmup(epochs=3), batch_size=10, examples=100, epochs=3)
    >>> plan.warnings[0][:32]
    'The peak of 0.1 is never reached'
    """


@final
@dataclass(frozen=True, init=False, repr=False)
class Plan:
    """How a model is to be trained: learning rate and batch size over a run of known length.

    `learning rate = peak · profile · (batch / first batch) ** scaling`. A plan is immutable, hashable and
    comparable; its `repr` is the code that makes it. Making one gives a `PlanWarning` where the peak
    is never reached, the first updates have a learning rate of 0, or the decay ends before training does.

    Args:
        learning_rate: a profile with its peak in front, or a number.
        batch_size: examples per update, over all replicas and accumulated micro-batches; a whole
            number, a profile such as `64 * (hold(epochs=10) >> hold(4))`, or `follow_noise(start=32, max=1024)`.
        examples: training examples in one pass over the data.
        epochs: passes over the data.
        scaling: 0, or 0.5 (square-root rule) or 1 (linear rule) to move the learning rate with the
            batch size.
        **clock: `drop_remainder`, `gradient_accumulation_steps`, `replicas`, `multiple_of`,
            `min_batch_size` and `max_batch_size`, as `Clock` takes them.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if the phases do not fit into the run, or a size does not divide; see `Clock`.

    Papers: Goyal et al. 2017 (linear rule and warmup); Krizhevsky 2014 (square-root rule).

    Example:

    >>> from kwarmup import Plan, cosine, warmup
    >>> plan = Plan(
    ...     learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=250, examples=1_000, epochs=3
    ... )
    >>> plan.clock.steps, plan.fit_arguments
    (12, {'epochs': 3, 'steps_per_epoch': 4, 'batch_size': 250})
    """

    profile: Profile
    clock: Clock
    scaling: float
    #: The rule that the batch size follows between passes; the clock has what it begins with.
    follows: FollowNoise | None

    def __init__(
        self,
        *,
        learning_rate: Profile | float,
        batch_size: int | Profile | FollowNoise,
        examples: int,
        epochs: int,
        scaling: float = 0,
        **clock: Any,
    ):
        unknown = set(clock) - set(_CLOCK_KEYS)
        if unknown:
            raise type_error(sorted(unknown)[0], clock, f"one of {', '.join(_CLOCK_KEYS[3:])}", _EXAMPLE)
        follows = None
        if isinstance(batch_size, FollowNoise):
            follows, batch_size = batch_size, batch_size.start
        bound = Clock(examples=examples, epochs=epochs, batch_size=batch_size, **clock)
        if follows is not None:
            _check_sizes(follows, bound)
        profile = as_profile(learning_rate, "learning_rate")
        if profile.peak < 0:
            expected, write = "a peak of 0 or more", f"Plan(learning_rate={-profile.peak:g} * (...), ...)"
            raise value_error("learning_rate", learning_rate, expected, write)
        object.__setattr__(self, "profile", profile)
        object.__setattr__(self, "clock", bound)
        object.__setattr__(self, "scaling", scaling)
        object.__setattr__(self, "follows", follows)
        for text in self.warnings:
            warnings.warn(text, PlanWarning, stacklevel=2)

    @cached_property
    def curve(self) -> Curve:
        """The learning rate in numbers: `plan.curve(step)`, in float64."""
        return Curve(self.profile, self.clock, scaling=self.scaling)

    @cached_property
    def learning_rate(self) -> Schedule:
        """The learning rate as Keras takes it: `SGD(plan.learning_rate)`."""
        # Keras is not needed to write, show and store a plan.
        from kwarmup.schedule import Schedule

        # It is the same function on any number of devices, and equal to the one that a model was compiled with.
        return Schedule(self.profile, replace(self.clock, replicas=1), scaling=self.scaling)

    def fit(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        seed: int | None = 0,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        save_every: int = 1000,
        on_change: str = "raise",
        roll_back: float | None = None,
        max_device_batch: int | None = None,
        **arguments: Any,
    ) -> keras.callbacks.History:
        """Train a compiled model by this plan, with true epochs: each is one pass over the data.

        Before the first update the model is compared with the plan, and behind each pass the number of
        updates with the clock's. Callbacks and validation see one training. A loss that is not finite stops it.

        Args:
            model: compiled with `plan.learning_rate`, or with a learning rate of its own.
            x: arrays in any nesting, a `tf.data.Dataset` of single examples, a `PyDataset`, a generator
                of batches of any size, or a function that makes one for each pass.
            y: targets, beside arrays.
            sample_weight: weights, beside arrays.
            seed: the order of arrays in each pass follows from it; `None` leaves them in order.
            checkpoint_dir: a folder in which the training is kept while it runs: weights, optimizer, metrics,
                random generators, the callbacks' state and the place in the data. Where it holds a
                checkpoint, training goes on from there, bit for bit. The last two are kept.
            save_every: updates between two checkpoints; each pass ends with one too.
            on_change: what to do where plan, model, data or callbacks are not those of the checkpoint: `"raise"`,
                `"override"` (go on with what is given now) or `"checkpoint"` (by the plan in the checkpoint).
            roll_back: where the loss is not finite, go back to the last checkpoint and multiply the learning
                rate by this from there on, above 0 and below 1; `None` stops with the error.
            max_device_batch: the most examples that the device holds; a larger batch is taken in micro-batches
                within the training step, for one update.
            **arguments: what Keras's `fit` takes: `validation_data`, `callbacks`, `verbose`, `class_weight` and
                so on.

        Micro-batches give what the large batch gives, to float accuracy, for losses that are means or sums over
        the examples: weights, losses and metrics. Three things see each micro-batch by itself: BatchNorm, which
        normalises over the examples of one; losses that compare the examples of a batch with each other; and
        `compute_loss`, `add_loss` and loss functions of your own, of which the mean over the batch is taken.

        Returns:
            The `History` of the training; of one whose batch follows the noise, with `growth`, as `follow_noise` says.

        Raises:
            ValueError: if the model or the data do not fit the plan, both numbers are said; if the folder cannot be
                written or holds another training, the difference is said; or an argument is out of range.
            TypeError: if an argument is given that the plan decides, such as `batch_size`.
            LossNotFinite: if the loss is not finite, and `roll_back` does not help.

        Example:

        >>> import keras, numpy as np
        >>> from kwarmup import Plan, hold, warmup
        >>> plan = Plan(
        ...     learning_rate=0.1 * (warmup(epochs=1) >> hold()),
        ...     batch_size=10 * (hold(epochs=2) >> hold(5)),
        ...     examples=100,
        ...     epochs=4,
        ... )
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
        >>> history = plan.fit(model, np.ones((100, 3)), np.ones((100, 1)), verbose=0)
        >>> len(history.history["loss"]), int(model.optimizer.iterations), plan.clock.steps
        (4, 24, 24)
        """
        from kwarmup.fit import fit

        return fit(
            self,
            model,
            x,
            y,
            sample_weight,
            seed=seed,
            checkpoint_dir=checkpoint_dir,
            save_every=save_every,
            on_change=on_change,
            roll_back=roll_back,
            max_device_batch=max_device_batch,
            **arguments,
        )

    def batches(self, x: Any, y: Any = None, sample_weight: Any = None, seed: int | None = 0) -> Any:
        """Return the batches of the whole run, for `model.fit(plan.batches(x, y), **plan.fit_arguments)`.

        They are those that `plan.fit` trains on, in the same order.

        Args:
            x: as for `fit`.
            y: as for `fit`.
            sample_weight: as for `fit`.
            seed: as for `fit`.

        Returns:
            A `tf.data.Dataset` on TensorFlow, a generator on other backends.

        Raises:
            ValueError: if the data has another number of examples than the plan, or the batch size is measured
                in training.
        """
        refuse(self.follows)
        from kwarmup.batches import Batches

        return Batches(self.clock, x, y, sample_weight, seed).between(0, self.clock.epochs)

    @property
    def fit_arguments(self) -> dict[str, Any]:
        """The arguments for `model.fit`: `epochs`, `steps_per_epoch`, and `batch_size` where it is constant.

        With `plan.batches` as the data, or, for a constant batch size, with arrays. Keras keeps the length
        of the first epoch for all others; so where passes differ in their number of updates, the whole
        run is one Keras epoch here (`plan.fit` has true epochs). Under gradient accumulation all
        numbers count micro-batches.

        Raises:
            ValueError: if the batch size is measured in training: only `plan.fit` can change it there.
        """
        refuse(self.follows)
        clock = self.clock
        begins = {clock.first_micro_batch(e + 1) - clock.first_micro_batch(e) for e in range(clock.epochs)}
        if len(begins) > 1:
            return {"epochs": 1, "steps_per_epoch": clock.first_micro_batch(clock.epochs)}
        arguments = {"epochs": clock.epochs, "steps_per_epoch": begins.pop()}
        if isinstance(clock.batch_size, int):
            arguments["batch_size"] = clock.batch_size // clock.gradient_accumulation_steps
        return arguments

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What is probably not meant, a sentence each; empty for a plan without faults."""
        steps = self.clock.steps
        ticks = np.array([piece.tick for piece in self.curve.pieces]) // self.curve.parts
        looked_at = np.concatenate(
            [ticks - 1, ticks, ticks + 1, np.linspace(0, steps - 1, 1000).astype("int64")]
        )
        looked_at = np.unique(looked_at.clip(0, max(0, steps - 1)))
        rates = self.curve(looked_at)
        found = []
        if self.scaling == 0 and rates.max() < 0.999 * self.profile.peak:
            found.append(
                f"The peak of {self.profile.peak:g} is never reached: the largest learning rate in "
                f"{steps:,} updates is {rates.max():g}. Shorten the warmup, or train longer."
            )
        still = looked_at[np.argmax(rates != 0)] if rates.any() else steps
        if still > max(1, steps // 100):
            found.append(
                f"The first {still:,} of {steps:,} updates have a learning rate of 0 and change nothing. "
                "Start above 0: warmup(start=0.01, ...)."
            )
        last = self.profile.phases[-1]
        if last.to is not None and not last.shape.per_step and self.curve.end < steps - max(1, steps // 100):
            found.append(
                f"The last phase ends at update {self.curve.end:,} of {steps:,}; from there on the learning rate "
                f"stays at {self.curve(steps):g}. Leave out the last phase's length, and it takes the rest."
            )
        return tuple(found)

    def replace(self, **changes: Any) -> Plan:
        """Return a plan with some arguments changed: `plan.replace(epochs=60)`.

        Raises:
            TypeError: if there is no argument of that name.
        """
        return Plan(**{**self._arguments, **changes})

    def on(self, strategy: Any, *, scale_batch: bool = False) -> Plan:
        """Return the plan for several devices that share each batch; the batch size stays as it is.

        Each update is the one that a single device would do, the last batch of a pass included, which need not
        divide by the devices. Only where layers look at a batch as a whole (BatchNorm), or draw random numbers
        (dropout), it matters that each device sees its own part.

        Args:
            strategy: as `kw.distribute.strategy()` returns it: a `tf.distribute` strategy, or on JAX a
                `keras.distribution.DataParallel`. The model is to be made in its scope.
            scale_batch: multiply the batch size with the number of devices, and the learning rate by the plan's
                rule, `devices ** scaling`. Lengths in steps stay as many steps.

        Raises:
            ValueError: if a batch size does not divide by the devices, the nearest plan that does is said; or
                if `scale_batch` is asked of a plan without a rule, `scaling=0`.

        Paper: Goyal et al. 2017, section 2.1 (the linear rule for more workers).

        Example:

        >>> from kwarmup import Plan, distribute
        >>> plan = Plan(learning_rate=0.1, batch_size=64, examples=6_400, epochs=3)
        >>> with distribute.strategy("one").scope():
        ...     pass  # model = build(); model.compile(SGD(plan.learning_rate), ...)
        >>> plan.on(distribute.strategy("one")) == plan
        True
        """
        from kwarmup.distribute.planned import on

        return on(self, strategy, scale_batch)

    def grow_batch(self, *, max: int) -> Plan:
        """Return the plan that grows the batch where this one decays the learning rate.

        Where the learning rate is a factor f of its peak, the batch becomes batch / f, up to `max`,
        and the learning rate decays only beyond that: the ratio of both, and with it the noise of the
        gradient, is the same at every point of the data, in fewer updates. The warmup stays as it is.

        Args:
            max: the largest batch size.

        Raises:
            ValueError: if the batch size changes already, if `max` is below it, or if a phase counts its
                own steps.

        Paper: Smith et al. 2018, "Don't Decay the Learning Rate, Increase the Batch Size".

        Example:

        >>> from kwarmup import Plan, hold
        >>> decay = 0.1 * (hold(epochs=3) >> hold(0.2, epochs=2) >> hold(0.04, epochs=1))
        >>> plan = Plan(learning_rate=decay, batch_size=64, examples=60_000, epochs=6)
        >>> grown = plan.grow_batch(max=320)
        >>> [(row.batch_sizes[0], round(row.learning_rates[0], 3)) for row in grown.rows]
        [(64, 0.1), (320, 0.1), (320, 0.02)]
        >>> plan.clock.steps, grown.clock.steps
        (5628, 3378)
        """
        batch_size = self._arguments["batch_size"]
        if not isinstance(batch_size, int):
            raise value_error(
                "batch_size",
                batch_size,
                "one whole number, to grow from",
                "plan.replace(batch_size=64, scaling=0)",
            )
        largest = number("max", max, "plan.grow_batch(max=1024)")
        if not isinstance(largest, int) or largest < batch_size:
            raise value_error(
                "max", max, f"a whole number, {batch_size} or more", f"plan.grow_batch(max={batch_size * 16})"
            )
        profile = in_examples(self.profile, self.clock)
        return self.replace(
            learning_rate=profile,
            batch_size=growing_batch(profile, batch_size, largest),
            scaling=1,
            min_batch_size=batch_size,
            max_batch_size=largest,
        )

    @property
    def rows(self) -> list[Row]:
        """The plan in numbers: one row for each phase of the learning rate that has an update."""
        bounds = places(self.profile, self.clock)
        names = [repr(phase) for phase in self.profile.phases]
        if bounds[-1] is not None and bounds[-1].tick < self.clock.end.tick:
            bounds, names = [*bounds, self.clock.end], [*names, "(held)"]
        found = []
        for name, begin, end in zip(names, bounds[:-1], bounds[1:], strict=True):
            assert begin is not None and end is not None
            parts = self.clock.gradient_accumulation_steps
            first, last = math.ceil(begin.tick / parts), min(math.ceil(end.tick / parts), self.clock.steps)
            if last <= first:
                continue
            ends = np.array([first, last - 1])
            found.append(
                Row(
                    phase=name,
                    first=first,
                    last=last - 1,
                    epochs=(self.clock.epoch_at(first), self.clock.epoch_at(last)),
                    batch_sizes=tuple(self.clock.batch_size_at(ends).tolist()),
                    learning_rates=tuple(self.curve(ends).tolist()),
                )
            )
        return found

    def table(self) -> str:
        """Return the plan as text: for each phase its updates, epochs, batch size and learning rate.

        The learning rates are those of the phase's first and last update.

        >>> from kwarmup import Plan, cosine, warmup
        >>> plan = Plan(
        ...     learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=250, examples=1_000, epochs=3
        ... )
        >>> print(plan.table())
        phase             updates  epochs  batch size     learning rate
        warmup(epochs=1)    0 – 3   0 – 1         250         0 → 0.075
        cosine()           4 – 11   1 – 3         250  0.1 → 0.00380602
        12 updates, 3 epochs of 1,000 examples
        """
        cells = [("phase", "updates", "epochs", "batch size", "learning rate")]
        for row in self.rows:
            sizes = dict.fromkeys(f"{size:,}" for size in row.batch_sizes)
            more = " or more" if self.follows is not None else ""
            rates = dict.fromkeys(f"{rate:.6g}" for rate in row.learning_rates)
            cells.append(
                (
                    row.phase,
                    f"{row.first:,} – {row.last:,}",
                    f"{row.epochs[0]:.4g} – {row.epochs[1]:.4g}",
                    " → ".join(sizes) + more,
                    " → ".join(rates),
                )
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in cells
        ]
        clock = self.clock
        most, grows = "", ""
        if self.follows is not None:
            most, grows = " at most", f"; the batch grows with the noise, up to {self.follows.max:,}"
        passes = f"{clock.epochs:,} epochs of {clock.examples:,} examples"
        lines.append(f"{clock.steps:,} updates{most}, {passes}{grows}")
        return "\n".join(line.rstrip() for line in lines)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the learning rate over the run, and the batch size where it changes.

        Args:
            path: file to write, its ending says the format (`.png`, `.svg`, `.pdf`); `None` for none.

        Returns:
            The matplotlib figure, which notebooks show as they are.

        Raises:
            ValueError: if matplotlib does not know the ending.
        """
        from kwarmup.plot import plot_plan

        return plot_plan(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with the arguments of `Plan` as keys; `from_dict` reads it back."""
        data = self._arguments
        data["learning_rate"] = self.profile.to_dict()
        if not isinstance(data["batch_size"], int):
            data["batch_size"] = data["batch_size"].to_dict()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """Return the plan that `to_dict` wrote.

        Raises:
            ValueError: if it is not such data.
        """
        if not isinstance(data, dict) or not {"learning_rate", "batch_size", "examples", "epochs"} <= set(
            data
        ):
            raise value_error(
                "data", Code(repr(data)[:200]), "the data of a plan", "Plan.from_dict(plan.to_dict())"
            )
        data = dict(data, learning_rate=Profile.from_dict(data["learning_rate"]))
        data["batch_size"] = batch_size_from_dict(data["batch_size"])
        return cls(**data)

    def to_json(self) -> str:
        """Return `to_dict` as JSON text, indented for reading."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that `to_json` wrote.

        Raises:
            ValueError: if the text is not JSON, or not that of a plan.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise value_error(
                "text", text[:200], f"the JSON text of a plan ({error})", "Plan.from_json(plan.to_json())"
            ) from error
        return cls.from_dict(data)

    def __repr__(self) -> str:
        defaults: dict[str, Any] = {field.name: field.default for field in fields(Clock)} | {"scaling": 0}
        words = [
            f"{name}={value!r}"
            for name, value in self._arguments.items()
            if value != defaults.get(name, MISSING)
        ]
        return f"Plan({', '.join(words)})"

    @property
    def _arguments(self) -> dict[str, Any]:
        clock = {name: getattr(self.clock, name) for name in _CLOCK_KEYS}
        clock["batch_size"] = clock["batch_size"] if self.follows is None else self.follows
        return {
            "learning_rate": self.profile,
            "batch_size": clock.pop("batch_size"),
            "examples": clock.pop("examples"),
            "epochs": clock.pop("epochs"),
            "scaling": self.scaling,
            **clock,
        }


def _check_sizes(follows: FollowNoise, clock: Clock) -> None:
    """Can the batch have every size that a rule may lead to? Asked now, and not behind hours."""
    if clock.replicas != 1:
        raise value_error(
            "replicas", clock.replicas, f"1 with batch_size={follows!r}, since the noise is measured on one device",
            "plan.replace(batch_size=64)",
        )  # fmt: skip
    unit = unit_of(clock)
    if follows.start % unit:
        nearest = max(unit, round(follows.start / unit) * unit)
        raise value_error(
            "start", follows.start, f"a multiple of {unit}, by which the clock divides the batch",
            f"follow_noise(start={nearest}, max={max(follows.max, nearest)})",
        )  # fmt: skip
    # The clock says what it cannot do; limits and rounding have been seen to.
    replace(clock, batch_size=follows.sizes(unit)[-1])
