"""Train with one batch size and then another, and see what each holds of the memory."""

from __future__ import annotations

import gc

from kwarmup import state
from kwarmup.as_trained import AsTrained
from kwarmup.capacity import BatchTrial
from kwarmup.device_memory import DeviceMemory
from kwarmup.memory import is_out_of_memory

#: Calls of the compiled function in a trial: what the first leaves behind is there beside the second.
_EXECUTIONS = 2


class BatchTrials:
    """A model and data to try batch sizes with, one behind the other. Use it inside `untouched`.

    Args:
        training: of a built model.
        device: what it trains on.
        allowed: bytes that may be held at the peak; `None` where the device itself says when it has no more.
    """

    def __init__(self, training: AsTrained, device: DeviceMemory, allowed: int | None):
        self._training, self._device, self._allowed = training, device, allowed
        self._variables = state.variables(training.model)
        self._before = state.take(self._variables)

    def try_out(self, batch_size: int) -> BatchTrial:
        """Train for two executions; return whether that fits, and the bytes held at the peak.

        Args:
            batch_size: examples per update.
        """
        gc.collect()
        self._device.begin()
        if not self._trains(batch_size):
            # JAX has given the variables' memory away to the step that failed.
            state.put(self._variables, self._before)
            return BatchTrial(batch_size, False)
        peak = self._device.peak()
        fits = peak is None or self._allowed is None or peak <= self._allowed
        return BatchTrial(batch_size, fits, peak)

    def _trains(self, batch_size: int) -> bool:
        # A function of its own: behind it the error is gone, and with it the tensors of the frames it holds.
        try:
            self._training.run(batch_size, _EXECUTIONS)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True
