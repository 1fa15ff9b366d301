"""The memory of accelerators, as TensorFlow, JAX and torch tell it; there is none here, so these are stand-ins."""

import sys
import types

import keras
import numpy as np
import pytest

from kwarmup import device_memory as module
from kwarmup.device_memory import device_memory
from kwarmup.process_memory import ProcessMemory


@pytest.mark.backend
def test_a_model_on_a_cpu_is_in_this_process():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    found = device_memory(model)
    assert found is not None and found.counted
    assert isinstance(
        found, ProcessMemory if keras.backend.backend() != "tensorflow" else ProcessMemory | module._OfPool
    )


@pytest.mark.backend
def test_a_system_that_tells_nothing(monkeypatch):
    def silent():
        raise OSError

    monkeypatch.setattr(module, "ProcessMemory", silent)
    assert device_memory(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])) is None


def test_tensorflow_devices(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    told = {"GPU:0": {"current": 5, "peak": 70}, "GPU:1": {"current": 7, "peak": 60}}
    forgotten = []
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", told.__getitem__)
    monkeypatch.setattr(tf.config.experimental, "reset_memory_stats", forgotten.append)
    memory = module._OfTensorFlow(list(told), limit={"GPU:0": 100, "GPU:1": 90}.get)
    assert (memory.held, memory.total, memory.counted) == (7, 90, False)
    memory.begin()
    assert forgotten == ["GPU:0", "GPU:1"] and memory.peak() == 70
    assert module._OfTensorFlow(list(told), limit=lambda device: None).total is None


def test_what_tensorflow_keeps_of_a_larger_step_is_not_counted(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    told = {"current": 0, "peak": 500}
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda device: told)
    monkeypatch.setattr(tf.config.experimental, "reset_memory_stats", lambda device: told.update(peak=0))
    process = types.SimpleNamespace(held=1500, total=9000, begin=lambda: None, peak=lambda: 1510)
    memory = module._OfPool(process)
    assert (memory.held, memory.total, memory.counted) == (1000, 9000, True)
    peaks = []
    for used, held in [(1, 1510), (100, 1510), (400, 1510), (700, 1710), (800, 2000)]:
        memory.begin()
        told["peak"], process.peak = used, lambda held=held: held
        peaks.append(memory.peak())
    # The last one holds other things too.
    assert peaks == [1011, 1110, 1410, 1710, 2000]


def test_a_pool_that_keeps_more_than_it_tells_hides_no_rise(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    told = {"current": 0, "peak": 0}
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda device: told)
    monkeypatch.setattr(tf.config.experimental, "reset_memory_stats", lambda device: None)
    process = types.SimpleNamespace(held=1500, total=9000, begin=lambda: None, peak=lambda: 1500)
    memory = module._OfPool(process)
    peaks = []
    for used in (10, 100, 400):
        told["peak"] = used
        peaks.append(memory.peak())
    assert np.diff(peaks).tolist() == [90, 300]


def test_jax_devices_forget_no_peak():
    class Device:
        told = {"bytes_in_use": 5, "peak_bytes_in_use": 40, "bytes_limit": 100}

        def memory_stats(self):
            return self.told

    memory = module._OfJax([Device()])
    assert (memory.held, memory.total, memory.counted) == (5, 100, False)
    memory.begin()
    assert memory.peak() is None
    Device.told["peak_bytes_in_use"] = 60
    assert memory.peak() == 60
    memory.begin()
    assert memory.peak() is None


@pytest.mark.parametrize(
    ("platform", "stats", "found"), [("gpu", True, True), ("cpu", True, False), ("gpu", False, False)]
)
def test_jax_devices_that_tell(platform, stats, found):
    told = {"bytes_in_use": 5, "peak_bytes_in_use": 40} if stats else None
    device = types.SimpleNamespace(platform=platform, memory_stats=lambda: told)
    value = types.SimpleNamespace(devices=lambda: [device])
    model = types.SimpleNamespace(variables=[types.SimpleNamespace(value=value)])
    memory = module._on_jax(model)
    assert (memory is not None) == found and (memory is None or memory.total is None)


def test_torch_devices(monkeypatch):
    done = []
    cuda = types.SimpleNamespace(
        mem_get_info=lambda device: (80, 100),
        memory_reserved=lambda device: 15,
        memory_allocated=lambda device: 10,
        max_memory_allocated=lambda device: 50,
        reset_peak_memory_stats=lambda device: done.append("forgotten"),
        empty_cache=lambda: done.append("emptied"),
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    value = types.SimpleNamespace(device=types.SimpleNamespace(type="cuda"))
    memory = module._on_torch(types.SimpleNamespace(variables=[types.SimpleNamespace(value=value)]))
    assert memory is not None and (memory.held, memory.total, memory.counted) == (10, 95, False)
    memory.begin()
    assert memory.peak() == 50 and done == ["emptied", "forgotten"]


@pytest.mark.parametrize(("devices", "found"), [(["GPU:0", "GPU:1"], True), (["CPU:0", "GPU:0"], False)])
def test_tensorflow_replicas(monkeypatch, devices, found):
    made = []
    monkeypatch.setattr(module, "_OfTensorFlow", lambda devices: made.append(devices) or "memory")
    extended = types.SimpleNamespace(worker_devices=tuple(devices))
    strategy = types.SimpleNamespace(num_replicas_in_sync=2, extended=extended)
    assert (module._on_tensorflow(types.SimpleNamespace(distribute_strategy=strategy)) == "memory") == found
    assert made == ([devices] if found else [])
