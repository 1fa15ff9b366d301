"""Measure the gradient noise scale of a model at its present weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, final

import keras
import numpy as np
from keras import ops

from kwarmup import gradient, private
from kwarmup.distribute import replicas
from kwarmup.errors import Code, type_error, value_error
from kwarmup.gradient_batches import MicroBatches
from kwarmup.length import number
from kwarmup.noise import GROUPS, Estimate, Sums
from kwarmup.per_example import watch
from kwarmup.trial import check_workers
from kwarmup.untouched import untouched

#: How much more is measured between two looks at the interval: a look costs, and many looks deceive.
_GROWTH = 1.25


@final
@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale tr(Sigma) / |G|^2: how many examples until the noise is as large as the gradient.

    Batches far below it do not lose by growing (twice the batch, half the updates); batches far above it
    gain next to nothing. That makes it an estimate of the critical batch size.

    Args:
        value: the noise scale in examples, infinite where no gradient shows in the noise.
        interval: its 95 % interval; the upper end is infinite where |G|^2 cannot be told from 0.
        trace: tr(Sigma), the summed variance of the gradients of single examples.
        squared_norm: |G|^2 of the gradient without noise. An unbiased estimate, so it may be negative.
        examples: how many were measured.
        micro_batch_size: how many shared a gradient; 1 where the norm of each one's own is known.
        converged: whether the interval is as narrow as was asked for.
        stopped: why the measurement ended, in words.

    Paper: McCandlish et al. 2018, section 2.2.

    Example:

    >>> noise = NoiseScale(400.0, (350.0, 460.0), 8.0, 0.02, 12_800, 32, True, "the interval is narrow enough")
    >>> noise
    NoiseScale(400, interval=(350, 460), trace=8, squared_norm=0.02, examples=12800, converged=True)
    >>> noise.critical_batch_size
    400.0
    """

    value: float
    interval: tuple[float, float]
    trace: float
    squared_norm: float
    examples: int
    micro_batch_size: int
    converged: bool
    stopped: str

    @property
    def critical_batch_size(self) -> float:
        """The batch size from which on more examples buy little: the noise scale itself is the estimate."""
        return self.value

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which `NoiseScale(**values)` makes the same one."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"NoiseScale({self.value:.4g}, interval=({low:.4g}, {high:.4g}), trace={self.trace:.4g}, "
            f"squared_norm={self.squared_norm:.4g}, examples={self.examples}, converged={self.converged})"
        )


def noise_scale(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    precision: float = 0.2,
    micro_batch_size: int | None = None,
    max_examples: int = 100_000,
    training: bool = True,
    preconditioned: bool = False,
    seed: int = 0,
) -> NoiseScale:
    """Measure the gradient noise scale at the model's present weights; the model stays as it is.

    Gradients of micro-batches are added up until the interval is narrow enough, and at most over one pass
    of the data. tr(Sigma) follows from their scatter, |G|^2 from their mean less the noise that is left in
    it; both are free of bias whatever the micro-batch size. Where all trainable weights are those of `Dense`,
    `Conv1D`, `Conv2D`, `LayerNormalization` or `BatchNormalization`, each used once, the norm of each example's own
    gradient comes with the same backward pass, and tr(Sigma) is as exact as from single examples.

    The gradient is the one that moves the weights, of the loss with its regularisers. The loss must be a
    mean over examples, as Keras's are by default. Dropout and batch normalisation act as in training and add
    noise of their own: examples then depend on each other and on chance, so they are drawn with
    replacement and measured for more than a pass. `training=False` is the probe without that noise.

    Whether the optimizer accumulates gradients does not matter. A model over several replicas is measured on one of
    them, behind the strategy's scope: gradient and noise of single examples are the same wherever they are taken.

    Args:
        model: compiled. What is not built yet is built.
        x: arrays in any nesting, or batches in random order: a `tf.data.Dataset`, a `PyDataset`, a generator.
        y: targets, with arrays only.
        sample_weight: weights, with arrays only; they count as in `fit`.
        precision: half the width of the 95 % interval, over the value, at which to stop.
        micro_batch_size: examples in a backward pass; `None` for 32, or fewer where data is small. Small ones
            measure tr(Sigma) more exactly where they share a gradient, large ones go faster.
        max_examples: stop here in any case.
        training: whether layers act as in training.
        preconditioned: measure the gradient as Adam scales it, each entry over sqrt(v) + epsilon.
        seed: draws the order of arrays.

    Returns:
        A `NoiseScale`; it says if it could not become precise enough, and why.

    Raises:
        TypeError: if `preconditioned` meets an optimizer that has no second moments, or `y` stands
            beside batches.
        ValueError: if the model is not compiled or spread over several workers, a number is out of range, the data
            holds fewer than 16 micro-batches, or a gradient is not finite; within a strategy's scope.

    Paper: McCandlish et al. 2018, appendix A.1; Fieller 1954 for the interval.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.zeros((1, 1))])
    >>> model.compile("sgd", "mse")
    >>> y = np.array([1.0, 3.0] * 32)  # gradients are -2 and -6: their mean is -4, their variance 4
    >>> noise_scale(model, np.ones((64, 1)), y, micro_batch_size=1, precision=0.01)
    NoiseScale(0.254, interval=(0.254, 0.254), trace=4.063, squared_norm=16, examples=64, converged=True)
    """
    _check_numbers(precision, micro_batch_size, max_examples, seed)
    if not isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer):
        name = getattr(model, "name", model)
        raise value_error("model", name, "a compiled model", 'model.compile("sgd", loss=...)')
    check_workers(model)
    _check_outside(model)
    data = MicroBatches(x, y, sample_weight, micro_batch_size, GROUPS, 4 * GROUPS, seed)
    private.build(model, data.first)
    scale = _preconditioner(model) if preconditioned else None
    with untouched(model):
        of_batch = gradient.function(model, training)

        def measured(batch: Any) -> np.ndarray:
            return _finite(of_batch(batch) if scale is None else of_batch(batch) * scale)

        mean = gradient.is_mean_of_examples(measured, data.first)
        # Where each example counts by itself, the norm of its gradient may come for next to nothing.
        watched = watch(model, data.first) if mean and scale is None else None
        alone = None if watched is None else gradient.with_squares(model, training, watched)
        return _measure(data, measured, alone, mean, precision, max_examples)


def _measure(
    data: MicroBatches,
    of_batch: Callable[[Any], np.ndarray],
    alone: Callable[[Any], tuple[np.ndarray, np.ndarray]] | None,
    mean: bool,
    precision: float,
    max_examples: int,
) -> NoiseScale:
    if max_examples < GROUPS * data.size:
        raise value_error(
            "max_examples",
            max_examples,
            f"{GROUPS} micro-batches of {data.size} or more",
            "max_examples=100_000",
        )
    sums, stopped, look = Sums(data.size if alone is None else 1), "", 0.0
    if mean and data.in_memory:
        sums.population = data.examples
    batches = data.without_replacement() if mean else data.independent()
    while not stopped:
        gathered = list(itertools.islice(batches, GROUPS))
        if len(gathered) < GROUPS:
            # Only now is it known how long a stream was. A micro-batch or a few are left over.
            sums.population = data.examples if mean else sums.population
            stopped = "the data has ended"
            break
        for batch in gathered:
            if alone is None:
                sums.add(of_batch(batch))
            else:
                found, squares = alone(batch)
                sums.add_examples(_finite(found), _finite(squares))
        if sums.micro_batches >= look:
            look = sums.micro_batches * _GROWTH
            if _width(sums.estimate()) <= precision:
                break
        if sums.examples + GROUPS * data.size > max_examples:
            stopped = f"max_examples={max_examples} is reached"
    if not sums.micro_batches:
        raise data.too_few()
    estimate = sums.estimate()
    width = _width(estimate)
    if width <= precision:
        stopped = "the interval is narrow enough"
    elif not np.isfinite(width):
        stopped += ", and no gradient shows in the noise yet"
    return NoiseScale(
        estimate.value,
        estimate.interval,
        estimate.trace,
        estimate.squared_norm,
        sums.examples,
        sums.size,
        width <= precision,
        stopped,
    )


def _finite(found: np.ndarray) -> np.ndarray:
    if not np.isfinite(found).all():
        raise value_error(
            "model",
            Code("a gradient that is not finite"),
            "finite weights and data",
            "model.load_weights(...), from before it diverged",
        )
    return found


def _width(estimate: Estimate) -> float:
    low, high = estimate.interval
    # Without any noise the value is 0, and exact.
    return (high - low) / 2 / estimate.value if estimate.value else high - low


def _check_outside(model: keras.Model) -> None:
    """Raise where a scope is open in which a replica's variables cannot be told from those of all."""
    if not replicas.spread(model):
        return
    import tensorflow as tf

    if tf.distribute.in_cross_replica_context():
        raise value_error(
            "model",
            Code(f"{model.name}, spread over {replicas.count(model)} replicas, within strategy.scope()"),
            "a call behind the scope, since one of the replicas is measured",
            "with strategy.scope(): model = build(), and behind the block noise_scale(model, x, y)",
        )


def _preconditioner(model: keras.Model) -> np.ndarray:
    """What Adam multiplies the entries of a gradient with, as a flat array."""
    optimizer: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not isinstance(optimizer, keras.optimizers.Adam):
        raise type_error(
            "preconditioned",
            Code(f"True, with {type(optimizer).__name__}"),
            "Adam or AdamW, whose second moments scale the gradient",
            "noise_scale(model, x, y)",
        )
    moments = private.second_moments(optimizer)
    flat = np.concatenate([ops.convert_to_numpy(moment).astype("float64").ravel() for moment in moments])
    return (1 / (np.sqrt(flat) + optimizer.epsilon)).astype("float32")


def _check_numbers(precision: Any, micro_batch_size: Any, max_examples: Any, seed: Any) -> None:
    if number("precision", precision, "precision=0.2") <= 0:
        raise value_error("precision", precision, "a number above 0", "precision=0.2")
    for name, value, write in (
        ("micro_batch_size", 1 if micro_batch_size is None else micro_batch_size, "micro_batch_size=32"),
        ("max_examples", max_examples, "max_examples=100_000"),
    ):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise value_error(name, value, "a number of examples, 1 or more", write)
    if not isinstance(seed, int | np.integer | None):
        raise type_error("seed", seed, "a whole number", "seed=0")
