"""The memory of the devices that a model trains on, where they tell it."""

from __future__ import annotations

from typing import Any, Protocol

import keras

from kwarmup import private
from kwarmup.errors import Code, value_error
from kwarmup.process_memory import ProcessMemory

_CPU = "CPU:0"


class DeviceMemory(Protocol):
    """What can be known of a device's memory.

    Attributes:
        counted: whether too much is only told by counting, and not by an error that can be caught.
        held: bytes in use when this was made; of the fullest device.
        total: bytes that there are, of the smallest device; `None` where nobody tells.
    """

    counted: bool
    held: int
    total: int | None

    def begin(self) -> None:
        """Forget the peak so far."""

    def peak(self) -> int | None:
        """Return the most bytes in use since `begin`, on the fullest device; `None` where that is not known."""


def device_memory(model: keras.Model) -> DeviceMemory | None:
    """Return the memory of what a built model trains on: its accelerators, or else this process.

    Args:
        model: built.

    Returns:
        `None` where neither tells.
    """
    found = _ACCELERATORS[keras.backend.backend()](model)
    if found is not None:
        return found
    try:
        process = ProcessMemory()
    except OSError:
        return None
    return _OfPool(process) if _has_pool() else process


def told(device: DeviceMemory | None) -> DeviceMemory:
    """Return what `device_memory` has found.

    Raises:
        ValueError: if that is nothing: nobody would know whether a batch fits.
    """
    if device is None:
        raise value_error(
            "model", Code("a model on a CPU, on a system that does not tell what a process holds"),
            "Linux, or a model on an accelerator", "throughput(model, x, y, batch_sizes=[64, 256])",
        )  # fmt: skip
    return device


class _OfTensorFlow:
    counted = False

    def __init__(self, devices: list[str], limit: Any = private.tensorflow_memory_limit):
        import tensorflow as tf

        self._devices, self._tell = devices, tf.config.experimental
        self.held = max(self._tell.get_memory_info(device)["current"] for device in devices)
        limits = [limit(device) for device in devices]
        self.total: int | None = None if None in limits else min(limits)

    def begin(self) -> None:
        for device in self._devices:
            self._tell.reset_memory_stats(device)

    def peak(self) -> int:
        return max(self._tell.get_memory_info(device)["peak"] for device in self._devices)


class _OfPool:
    """This process where TensorFlow hands out the memory of a CPU from a pool, as its build for Intel's library does.

    The pool keeps what it once had, so that the process holds as much behind a large step whatever comes next.
    What a step took of it is told, and the rest is not counted.
    """

    counted = True

    def __init__(self, process: ProcessMemory):
        import tensorflow as tf

        self._process, self._tell = process, tf.config.experimental
        # Since somebody last asked to forget it, so that the pool may keep more than that.
        self._kept = self._pool()
        self.held = process.held - self._kept
        self.total = process.total
        self._beside: int | None = None

    def begin(self) -> None:
        self._process.begin()
        self._tell.reset_memory_stats(_CPU)

    def peak(self) -> int:
        used = self._pool()
        self._kept = max(self._kept, used)
        held = self._process.peak() - (self._kept - used)
        if self._beside is None:
            self._beside = held - used
        # Within what the pool keeps, the process grows by nothing.
        return max(held, self._beside + used)

    def _pool(self) -> int:
        return self._tell.get_memory_info(_CPU)["peak"]


def _has_pool() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    try:
        tf.config.experimental.get_memory_info(_CPU)
    except ValueError:
        return False
    return True


class _OfJax:
    counted = False

    def __init__(self, devices: list[Any]):
        self._devices = devices
        self.held = max(device.memory_stats()["bytes_in_use"] for device in devices)
        limits = [device.memory_stats().get("bytes_limit") for device in devices]
        self.total: int | None = None if None in limits else min(limits)
        self._before = 0

    def begin(self) -> None:
        self._before = self._most()

    def peak(self) -> int | None:
        # JAX forgets no peak: one that has not risen belongs to something larger that was run before.
        most = self._most()
        return most if most > self._before else None

    def _most(self) -> int:
        return max(device.memory_stats()["peak_bytes_in_use"] for device in self._devices)


class _OfTorch:
    counted = False

    def __init__(self, device: Any):
        import torch

        self._device, self._cuda = device, torch.cuda
        free, _ = self._cuda.mem_get_info(device)
        # What torch keeps for itself it can use.
        self.total: int | None = free + self._cuda.memory_reserved(device)
        self.held = self._cuda.memory_allocated(device)

    def begin(self) -> None:
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        return self._cuda.max_memory_allocated(self._device)


def _on_tensorflow(model: Any) -> DeviceMemory | None:
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync > 1:
        devices = list(strategy.extended.worker_devices)
    else:
        devices = [model.variables[0].value.device]
    return _OfTensorFlow(devices) if devices and all("GPU" in device for device in devices) else None


def _on_jax(model: Any) -> DeviceMemory | None:
    devices = list(model.variables[0].value.devices())
    told = all(device.platform != "cpu" and device.memory_stats() for device in devices)
    return _OfJax(devices) if told else None


def _on_torch(model: Any) -> DeviceMemory | None:
    device = model.variables[0].value.device
    return _OfTorch(device) if device.type == "cuda" else None


_ACCELERATORS = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
