"""The same plan, seed and data come to the same weights on one device, several, and several workers.

Each number of devices is a process of its own, since TensorFlow counts its devices once.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "program.py"


def run(result, *arguments, before=()):
    command = [*before, sys.executable, str(PROGRAM), str(result), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def differences(one, other):
    """The largest difference of each array, relative to the largest number in it."""
    assert set(other.files) <= set(one.files)
    return {
        name: float(np.abs(one[name].astype("float64") - other[name]).max() / np.abs(one[name]).max())
        for name in other.files
        if name not in ("replicas", "own_loss/collectives") and np.abs(one[name]).max() > 0
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    result = tmp_path_factory.mktemp("alone") / "one.npz"
    run(result)
    return np.load(result)


# One group, so that the training on one device is done once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distribute")]


# The noise scale is measured from as many parts as there are devices.
FEW = ("--cases", "ramp", "plateau")


@pytest.mark.parametrize(("replicas", "cases"), [(2, ()), (4, FEW)])
def test_several_devices_are_as_one(alone, tmp_path, replicas, cases):
    run(tmp_path / "several.npz", "--replicas", str(replicas), *cases)
    several = np.load(tmp_path / "several.npz")
    assert int(several["replicas"]) == replicas
    found = differences(alone, several)
    assert found and max(found.values()) < 2e-5, {n: d for n, d in found.items() if d >= 2e-5}
    if not cases:
        # What Keras sends too, once for each device: nothing is asked for beside the gradient.
        assert several["own_loss/collectives"].tolist() == [replicas]


def test_several_workers_are_as_one(alone, tmp_path):
    launcher = [sys.executable, "-m", "kwarmup", "launch", "--workers", "2", "--"]
    run(tmp_path / "{}.npz", "--cases", "ramp", "masked", "noise", before=launcher)
    for number in range(2):
        worker = np.load(tmp_path / f"{number}.npz")
        assert int(worker["replicas"]) == 2
        found = differences(alone, worker)
        assert max(found.values()) < 2e-5, {n: d for n, d in found.items() if d >= 2e-5}


def test_a_difference_would_be_seen(alone):
    class Changed:
        files = alone.files

        def __getitem__(self, name):
            return alone[name] * (1 + 1e-4 * (name == "ramp/0"))

    assert {name for name, d in differences(alone, Changed()).items() if d > 2e-5} == {"ramp/0"}
