"""Follow the gradient noise scale along a training, from parts of the batches that are trained anyway."""

from __future__ import annotations

import math
from typing import Any, final

import keras
import numpy as np
from keras import ops

from kwarmup import noise
from kwarmup.distribute import replicas
from kwarmup.distribute.over import current
from kwarmup.errors import Code, value_error
from kwarmup.length import number
from kwarmup.parts import FIGURES, SAME, TRIALS, function_of, measuring, run_next


@final
class NoiseScaleMonitor(keras.callbacks.Callback):
    """Estimates the noise scale during `fit`, and adds it as `noise_scale` to the logs of each epoch.

    Every so many updates, from the second on, the gradient of a batch is made from those of its parts:
    their scatter tells tr(Sigma), their mean |G|^2. Both are averaged with fading weights and keep their
    sign; their ratio is taken when it is read. Two parts of one batch say little: the interval of
    `estimate` tells how much is known, if the passes differ. Where each pass has the same batches (arrays in
    `fit` on TensorFlow behind `keras.utils.set_random_seed`), it is narrower than that.

    Training stays as it is. Where a batch's gradient is the mean of those of its parts, as the first
    measured steps show, the parts take the place of the batch and nothing is computed twice. Where it is
    not (dropout, batch normalisation, masks), the parts are measured beside the step, at the price of
    one more gradient. An optimizer that accumulates gradients, any loss, half precision and a training step
    of one's own do not matter; several updates an execution are measured as one, by the last. Where
    `Plan.fit` trains over several replicas, they are the parts, and their gradients are there anyway.

    Put it before the callbacks that read logs.

    Args:
        every: updates between two measurements.
        parts: how many parts a batch is cut into. More say more, and cost more.
        decay: of the averages, with each measurement.
        examples: how many the training data holds. Batches drawn from few examples share some of their noise,
            which |G|^2 is corrected for; `None` for so many that this does not matter.

    Raises:
        ValueError: if a number is out of range; when training begins, if the model is spread over replicas.

    Paper: McCandlish et al. 2018, appendix A.1.

    Example:

    >>> import keras, numpy as np
    >>> from kwarmup import NoiseScaleMonitor
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.zeros((1, 1))])
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> y = np.array([1.0, 3.0, 3.0, 1.0])  # gradients are -2 and -6: their mean is -4
    >>> monitor = NoiseScaleMonitor(every=1, parts=4, examples=4)
    >>> history = model.fit(np.ones((4, 1)), y, batch_size=4, epochs=2, verbose=0, callbacks=[monitor])
    >>> [round(scale, 4) for scale in history.history["noise_scale"]]  # nothing before the second update
    [nan, 0.3333]
    """

    def __init__(self, every: int = 10, parts: int = 2, decay: float = 0.99, examples: int | None = None):
        super().__init__()
        for name, value, least in (("every", every, 1), ("parts", parts, 2), ("examples", examples, 2)):
            if (value is None and name == "examples") or (type(value) is int and value >= least):
                continue
            raise value_error(
                name, value, f"a whole number, {least} or more", f"NoiseScaleMonitor({name}={10 * least})"
            )
        if not 0 <= number("decay", decay, "NoiseScaleMonitor(decay=0.99)") < 1:
            raise value_error("decay", decay, "a number from 0 to below 1", "NoiseScaleMonitor(decay=0.99)")
        self.every, self.parts, self.decay, self.examples = every, parts, decay, examples
        self.averages = noise.NOTHING
        self.step = self.due = self.agreed = 0
        self._plain: Any = None
        self._over: Any = None
        self._functions: dict[bool, tuple[Any, Any]] = {}

    @property
    def estimate(self) -> noise.Estimate:
        """What is known now: `value`, `interval`, `trace` and `squared_norm`; NaN before the first measurement."""
        return noise.averaged(self.averages, self.decay)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.averages = noise.NOTHING
        self.step = 0
        self.due = 1  # the first execution may still make variables of metrics, which could not be undone
        if self._plain is not self.model.train_function:
            # Of another model, or compiled anew. A second `fit` of the same one goes on with what is made.
            self.agreed = 0
        self._over = current(self.model)
        if self._over is None and replicas.count(self.model) > 1:
            raise value_error(
                "model",
                Code(f"{self.model.name}, spread over {replicas.count(self.model)} replicas"),
                "a model on one device, or plan.fit, which knows what each replica has computed",
                "plan.on(strategy).fit(model, x, y, callbacks=[NoiseScaleMonitor()])",
            )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.step >= self.due:
            self.due = self.step + self.every
            self._measure_next()
        self.step += self.model.steps_per_execution

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["noise_scale"] = float(self.estimate.value)

    def _measure_next(self) -> None:
        model: Any = self.model
        if self._plain is not model.train_function:
            # Compiled anew, perhaps with another schedule, which what is made here does not know.
            self._plain, self._functions = model.train_function, {}
        if self._over is not None:
            # The gradients of the replicas are there anyway, and nothing is computed twice.
            if True not in self._functions:
                self._functions[True] = None, self._over.train_function(measures=True)
            run_next(model, model.train_step, self._functions[True][1], behind=self._take)
            return
        split = self.agreed >= TRIALS
        if split not in self._functions:
            train_step = measuring(model, self.parts, split)
            self._functions[split] = train_step, function_of(model, train_step)
        run_next(model, *self._functions[split], behind=self._take)

    def _take(self, logs: dict[str, Any]) -> None:
        self._absorb(ops.convert_to_numpy(logs.pop(FIGURES)).astype("float64"))

    def _absorb(self, figures: np.ndarray) -> None:
        squares, square, count, away = figures
        parts = self.parts if self._over is None else self._over.shares.replicas
        # Under a loss scale a gradient may overflow; a batch may hold fewer examples than parts.
        if not np.isfinite(figures[:3]).all() or count < parts:
            return
        if self.agreed < TRIALS:
            # One that disagrees settles it.
            self.agreed = self.agreed + 1 if self.agreed >= 0 and away < SAME else -1
        population = self.examples or math.inf
        pair = noise.two_sizes(squares, square, count / parts, count, population)
        self.averages = noise.average(self.averages, self.decay, *pair)
