"""Workers that are killed for real: all are started again, and come to the weights of the undisturbed training."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "faulty.py"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]


def command(folder, *arguments, launch=()):
    checkpoints, result = str(folder / "checkpoints"), str(folder / "{}.npz")
    launcher = [sys.executable, "-m", "kwarmup", "launch", "--workers", "2", *launch, "--"]
    return [*launcher, sys.executable, str(PROGRAM), checkpoints, result, *arguments]


def launched(folder, *arguments, launch=()):
    return subprocess.run(
        command(folder, *arguments, launch=launch), capture_output=True, text=True, timeout=400
    )


def different(one, other):
    """Names of arrays that are not the same, bit for bit."""
    assert sorted(one.files) == sorted(other.files)
    return [name for name in one.files if one[name].tobytes() != other[name].tobytes()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = launched(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    zero, one = (np.load(folder / f"{number}.npz") for number in range(2))
    assert different(zero, one) == []
    return zero


def test_a_worker_is_killed_and_then_the_chief(undisturbed, tmp_path):
    kills = ("--kill", "0:1:7", "1:0:9")
    # The one that is left over waits for the other until TensorFlow misses its heartbeats.
    done = launched(tmp_path, *kills, launch=("--max-restarts", "2", "--grace", "1"))
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "Worker 1 has ended with code 137.",
        "All 2 workers are started again (1 of 2).",
        "Worker 0 has ended with code 137.",
        "All 2 workers are started again (2 of 2).",
    ):
        assert said in done.stderr
    for number in range(2):
        assert different(undisturbed, np.load(tmp_path / f"{number}.npz")) == []


def test_sigterm_ends_all_behind_the_same_update(undisturbed, tmp_path):
    # In a group of its own: what ends it must not meet the tests.
    program = command(tmp_path, "--pause", "6", launch=("--grace", "60"))
    piped = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    launcher = subprocess.Popen(program, start_new_session=True, **piped)
    said = []
    try:
        for line in launcher.stdout:
            said.append(line)
            if "paused" in line and len([line for line in said if "paused" in line]) == 1:
                os.kill(launcher.pid, signal.SIGTERM)
        assert launcher.wait(timeout=60) == 128 + signal.SIGTERM, "".join(said)
    finally:
        launcher.kill()
        launcher.stdout.close()
        launcher.wait()
    assert "SIGTERM: the workers are asked to save and end." in "".join(said)
    assert "is killed" not in "".join(said)
    (checkpoint, *others) = sorted((tmp_path / "checkpoints").glob("step-*"), reverse=True)
    assert int(checkpoint.name[5:]) % 4 != 0, "saved because it was asked to"
    done = launched(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(2):
        assert different(undisturbed, np.load(tmp_path / f"{number}.npz")) == []


def test_a_difference_would_be_seen(undisturbed):
    class Changed:
        files = undisturbed.files

        def __getitem__(self, name):
            return undisturbed[name] + np.float32(1e-7) if name == "0" else undisturbed[name]

    assert different(undisturbed, Changed()) == ["0"]
