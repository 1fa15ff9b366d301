"""`distribute.strategy()` on JAX: the same call, `keras.distribution.DataParallel`, the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.peers
@pytest.mark.slow
def test_two_devices_are_as_one():
    if os.environ.get("KWARMUP_REQUIRE_PEERS") != "1":
        pytest.importorskip("jax")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    program = Path(__file__).parent / "on_jax.py"
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    replicas, difference = done.stdout.split()[-2:]
    assert int(replicas) == 2 and 0 <= float(difference) < 2e-5
