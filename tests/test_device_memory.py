"""The memory of accelerators, as TensorFlow, JAX and torch tell it; there is none here, so these are stand-ins."""

import sys
import types

import keras
import pytest

from kwarmup import device_memory as module
from kwarmup.device_memory import device_memory
from kwarmup.process_memory import ProcessMemory


@pytest.mark.backend
def test_a_model_on_a_cpu_is_in_this_process():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    found = device_memory(model)
    assert isinstance(found, ProcessMemory) and found.counted


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
