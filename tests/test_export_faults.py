"""Whatever happens while a version is written: the newest whole one loads, and older ones are as they were."""

import hashlib
import importlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from kwarmup import Plan, cosine, export, load, warmup
from kwarmup.saved_model import versions

exporting = importlib.import_module("kwarmup.export")
PLAN = Plan(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=5, examples=10, epochs=3)


def network(units=3):
    keras.utils.set_random_seed(units)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    model.compile(keras.optimizers.SGD(PLAN.learning_rate, momentum=0.9), "mse")
    return model


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(exporting, "check", lambda *_: {})


def contents(folder):
    """Return what is in a folder: a digest for each file."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def numbered(path):
    return sorted(int(entry.name) for entry in Path(path).iterdir() if entry.name.isdecimal())


# A kill: what is on the disk at each moment is what a killed process would leave


class Moments:
    """Copies a folder at every change of a file or folder that Python makes, and in between."""

    def __init__(self, path, copies):
        self.path, self.copies, self.taken, self.seen = path, copies, 0, set()
        self.watching, self.busy = False, threading.local()
        self.lock = threading.Lock()
        sys.addaudithook(self.hook)  # cannot be removed, so it looks at `watching`

    def hook(self, event, arguments):
        if self.watching and event in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree"):
            self.take()

    def take(self):
        if getattr(self.busy, "now", False):
            return
        self.busy.now = True
        try:
            with self.lock:
                state = tuple(sorted((str(p), p.stat().st_size) for p in self.path.rglob("*") if p.exists()))
                if state not in self.seen:
                    shutil.copytree(self.path, self.copies / str(self.taken))
                    self.seen.add(state)
                    self.taken += 1
        except (OSError, shutil.Error):
            # Moved under our hands: there is another moment soon.
            shutil.rmtree(self.copies / str(self.taken), ignore_errors=True)
        finally:
            self.busy.now = False

    def between(self):
        # TensorFlow's files are written by C++, which no hook of Python sees.
        while self.watching:
            self.take()
            time.sleep(0.001)


def test_at_every_moment_of_an_export_the_newest_whole_version_loads(tmp_path, unchecked):
    path, copies = tmp_path / "digits", tmp_path / "copies"
    copies.mkdir()
    export(network(1), path, PLAN)
    before = contents(path / "1")
    moments = Moments(path, copies)
    moments.watching = True
    thread = threading.Thread(target=moments.between)
    thread.start()
    try:
        export(network(2), path, PLAN)
    finally:
        moments.watching = False
        thread.join()
    moments.take()
    found = [numbered(copies / str(moment)) for moment in range(moments.taken)]
    assert found == sorted(found) and found[0] == [1] and found[-1] == [1, 2]
    # Half-written versions are among them, whatever the thread came to see: before the network
    # is written, before its signatures are, and whole but without a number.
    halves = [
        {path.name for path in (copies / str(moment)).glob("unfinished-*/*")}
        for moment in range(moments.taken)
    ]
    assert {"model.keras"} in halves
    assert any("saved_model.pb" in half and "signatures.json" not in half for half in halves)
    assert any({"saved_model.pb", "signatures.json"} <= half for half in halves)
    after = contents(path / "2")
    for moment, there in enumerate(found):
        copy = copies / str(moment)
        assert contents(copy / "1") == before
        if 2 in there:
            assert contents(copy / "2") == after
        assert versions.find(copy).name == str(there[-1])
    # Of each kind one is really loaded: what is the same byte for byte loads alike.
    for there in ([1], [1, 2]):
        loaded = load(copies / str(found.index(there)))
        assert loaded.plan == PLAN and loaded.model.output_shape == (None, there[-1])


KILLED = """
import sys, importlib, itertools
import keras, kwarmup as kw
exporting = importlib.import_module("kwarmup.export")
exporting.check = lambda *_: {}
plan = kw.Plan.from_json(sys.argv[2])
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
model.compile(keras.optimizers.SGD(plan.learning_rate, momentum=0.9), "mse")
kw.export(model, sys.argv[1], plan)
print("begun", flush=True)
for _ in itertools.count():
    kw.export(model, sys.argv[1], plan)
    print("another", flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_whole_versions(tmp_path, unchecked):
    moments = random.Random(0)
    for number in range(2):
        path = tmp_path / str(number)
        command = [sys.executable, "-c", KILLED, str(path), PLAN.to_json()]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout.readline() == "begun\n"
            time.sleep(0.1 + 0.6 * moments.random())
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        there = numbered(path)
        assert there == list(range(1, len(there) + 1)) and there
        for version in there:
            loaded = load(path, version)
            assert loaded.plan == PLAN and loaded.model.built
        # And the next export goes on as if nothing had been.
        assert export(network(), path, PLAN).name == str(there[-1] + 1)


# Two at once


@pytest.mark.slow
def test_two_processes_export_at_once(tmp_path, unchecked):
    command = [sys.executable, "-c", KILLED, str(tmp_path), PLAN.to_json()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        mine = [export(network(), tmp_path, PLAN) for _ in range(4)]
        assert process.stdout.readline() == "another\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    there = numbered(tmp_path)
    assert there == list(range(1, len(there) + 1)) and len(there) >= 6
    assert len(set(mine)) == 4
    assert all(load(tmp_path, number).plan == PLAN for number in there)


# A disk that is full, or may not be written


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kilobytes; where none may be mounted, the test is skipped."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_the_older_versions(small_disk, unchecked):
    export(network(), small_disk, PLAN)
    before = contents(small_disk)
    keras.utils.set_random_seed(0)
    large = keras.Sequential([keras.Input((3,)), keras.layers.Dense(200_000)])
    with pytest.raises(OSError, match="No space left on device"):
        export(large, small_disk, PLAN)
    assert contents(small_disk) == before
    assert export(network(), small_disk, PLAN).name == "2"  # there is room again


@pytest.mark.parametrize("size", [100, 3_000, 20_000])
def test_a_file_that_may_not_grow_leaves_the_older_versions(tmp_path, unchecked, size):
    """The limit strikes in `model.keras`, in TensorFlow's own files, or in the graph."""
    export(network(), tmp_path, PLAN)
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            export(network(), tmp_path, PLAN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before and load(tmp_path).plan == PLAN


def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    if os.geteuid():
        place = tmp_path / "locked"
        place.mkdir()
        place.chmod(0o500)
    else:
        place = Path("/proc/self")  # where not even root makes a folder
    with pytest.raises(OSError) as caught:
        export(network(), place, PLAN)
    assert str(place) in str(caught.value)
    assert np.isin([entry.name for entry in tmp_path.iterdir()], ["locked"]).all()
