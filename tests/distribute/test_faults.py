"""Workers that are killed for real: all are started again, and come to the weights of the undisturbed training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hosts import Hosts

from kwarmup.distribute.cluster import Cluster

PROGRAM = Path(__file__).parent / "faulty.py"
TRAININGS = ("planned", "checkpoints", "backup")


def command(folder, *arguments, launch=()):
    launcher = [sys.executable, "-m", "kwarmup", "launch", "--workers", "2", *launch, "--"]
    return [*launcher, sys.executable, str(PROGRAM), str(folder), *arguments]


def launched(folder, *arguments, launch=()):
    done = subprocess.run(
        command(folder, *arguments, launch=launch), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def different(one, other):
    """Names of arrays that are not the same, bit for bit."""
    assert sorted(one.files) == sorted(other.files)
    return [name for name in one.files if one[name].tobytes() != other[name].tobytes()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What two workers end with whom nobody disturbs, by training."""
    whole = tmp_path_factory.mktemp("whole")
    launched(whole)
    found = {name: np.load(whole / f"{name}-0.npz") for name in TRAININGS}
    for name, arrays in found.items():
        assert different(arrays, np.load(whole / f"{name}-1.npz")) == []
    return found


@pytest.mark.slow
def test_killed_and_ended_workers_come_to_the_same_weights(undisturbed, tmp_path):
    """A worker is killed, then the chief, then all are asked to end; each start of two workers takes seconds."""
    broken = tmp_path / "broken"
    broken.mkdir()
    a_difference_is_seen(undisturbed["planned"])

    # The one that is left over waits for the other until TensorFlow misses its heartbeats, or for the grace.
    kills = ("--kill", "0:1:planned:7", "1:0:planned:9", "--pause", "2:planned:6")
    program = command(broken, *kills, launch=("--max-restarts", "2", "--grace", "15"))
    code, said = told_to_end(program)
    assert code == 128 + signal.SIGTERM, said
    for words in (
        "Worker 1 has ended with code 137.",
        "All 2 workers are started again (1 of 2).",
        "Worker 0 has ended with code 137.",
        "All 2 workers are started again (2 of 2).",
        "SIGTERM: the workers are asked to save and end.",
    ):
        assert words in said, said
    assert "is killed" not in said.partition("SIGTERM")[2]
    saved_where_asked(broken / "planned")

    # The rest of it; then one worker alone is asked to end, and both save; then the chief is killed.
    faults = ("--end", "0:1:checkpoints:5", "--kill", "1:0:backup:9")
    said = launched(broken, *faults, launch=("--max-restarts", "2", "--grace", "15"))
    assert " has ended with code 143." in said and "Worker 0 has ended with code 137." in said
    for name, arrays in undisturbed.items():
        for number in range(2):
            assert different(arrays, np.load(broken / f"{name}-{number}.npz")) == [], (name, number)


def saved_where_asked(checkpoints):
    (checkpoint, *_) = sorted(checkpoints.glob("step-*"), reverse=True)
    assert int(checkpoint.name[5:]) % 4 != 0, "saved because it was asked to"


def told_to_end(program):
    """Send SIGTERM to a launcher once a worker pauses; return its exit code and what it said."""
    # In a group of its own: what ends it must not meet the tests.
    piped = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    launcher = subprocess.Popen(program, start_new_session=True, **piped)
    said = []
    try:
        for line in launcher.stdout:
            if "paused" in line and not any("paused" in before for before in said):
                os.kill(launcher.pid, signal.SIGTERM)
            said.append(line)
        return launcher.wait(timeout=60), "".join(said)
    finally:
        launcher.kill()
        launcher.stdout.close()
        launcher.wait()


@pytest.fixture
def hosts():
    try:
        with Hosts() as hosts:
            yield hosts
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"two hosts cannot be made here: {error}")


@pytest.mark.slow
def test_two_hosts_that_lose_each_other_end_and_go_on_to_the_same_weights(undisturbed, hosts, tmp_path):
    """The link between them is cut: no process has ended, and nobody tells either of them."""
    cut_off = on_hosts(hosts, tmp_path, restarts=0, pause=("--pause", "0:planned:6"))
    try:
        said = [next(line for line in cut_off[0].stdout if "paused" in line)]
        hosts.cut()
        began = time.monotonic()
        for process in cut_off:
            said.append(process.communicate(timeout=120)[0])
            assert process.returncode == 1 and "WorkerLost: Another worker was lost" in said[-1], said
        assert time.monotonic() - began < 60, "the heartbeats that are missed are those of ten seconds"
    finally:
        for process in cut_off:
            process.kill()
            process.wait()
    assert not list(tmp_path.glob("*.npz"))

    hosts.join()
    for process in on_hosts(hosts, tmp_path, restarts=1):
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
    for number in range(2):
        assert different(undisturbed["planned"], np.load(tmp_path / f"planned-{number}.npz")) == []


def on_hosts(hosts, folder, restarts, pause=()):
    """Start a worker on each host, as a job scheduler does; return their processes."""
    cluster = tuple(f"{address}:21213" for address in hosts.addresses)
    return [
        subprocess.Popen(
            hosts.on(number, sys.executable, str(PROGRAM), str(folder), "--only", "planned", *pause),
            env={
                **os.environ,
                "TF_CONFIG": Cluster(cluster, number).to_json(),
                "KWARMUP_RESTARTS": str(restarts),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


def a_difference_is_seen(undisturbed):
    class Changed:
        files = undisturbed.files

        def __getitem__(self, name):
            return undisturbed[name] + np.float32(1e-7) if name == "0" else undisturbed[name]

    assert different(undisturbed, Changed()) == ["0"]
