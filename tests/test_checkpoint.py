"""Checkpoints on disk: written whole or not at all, read only when they are what was written."""

import errno
import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kwarmup import checkpoint
from kwarmup.checkpoint import Checkpoint, CheckpointWarning, newest, prepare, write

ARRAYS = {"model/0": np.arange(1000, dtype="float32"), "model/1": np.array(7), "names": np.array(["a", "bc"])}


def make(number):
    return Checkpoint({"number": number, "loss": [0.1, float("inf")]}, {**ARRAYS, "number": np.array(number)})


def numbers(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    return prepare(tmp_path / "runs" / "a")


def test_what_is_read_is_what_was_written(folder):
    assert newest(folder) is None
    assert write(folder, 5, make(5))
    found = newest(folder)
    assert found.facts["number"] == 5 and found.facts["loss"] == [0.1, float("inf")]
    assert found.arrays.keys() == {*ARRAYS, "number"}
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype and found.arrays[name].tobytes() == array.tobytes()


def test_the_last_two_are_kept_in_the_order_of_steps(folder):
    for step in (9, 10, 99, 100, 10**12, 10**13):
        write(folder, step, make(step))
        assert newest(folder).facts["number"] == step
    assert numbers(folder) == ["step-1000000000000", "step-10000000000000"]


def test_others_may_read_it(folder):
    write(folder, 1, make(1))
    assert (folder / "step-000000000001").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    os.umask(mask := os.umask(0))
    return mask


# Damage


def cut(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path, bit=None):
    data = bytearray(path.read_bytes())
    bit = 8 * len(data) // 2 if bit is None else bit
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def remove(path):
    path.unlink()


def rewrite(text):
    return lambda path: path.write_text(text)


def swap(path):
    """Each file whole, but not of the same checkpoint."""
    older = path.parents[1] / "step-000000000001" / path.name
    shutil.copy(older, path)


DAMAGES = [
    *[
        (name, damage)
        for name in ("arrays.npz", "checkpoint.json")
        for damage in (cut, empty, zero, flip, remove)
    ],
    ("arrays.npz", swap),
    *[
        ("checkpoint.json", rewrite(text))
        for text in (
            '{"a": 1}',
            "[]",
            "3",
            "null",
            '{"facts": 5, "digest": ""}',
            '{"facts": null, "digest": null}',
            '{"facts": "{}", "digest": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}',
            "[" * 100_000,
            "\udc80".encode("utf-8", "surrogateescape").decode("latin1"),
        )
    ],
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_one_gives_way_to_the_one_before(folder, name, damage):
    for step in (1, 2):
        write(folder, step, make(step))
    damage(folder / "step-000000000002" / name)
    with pytest.warns(
        CheckpointWarning, match=r"step-0+2 is damaged .* damaged-step-0+2; the one before it is used"
    ):
        assert newest(folder).facts["number"] == 1
    assert newest(folder).facts["number"] == 1  # without a warning: it was put aside
    for step in (3, 4):
        write(folder, step, make(step))
    # The damaged one does not count as one of the two.
    assert numbers(folder) == ["damaged-step-000000000002", "step-000000000003", "step-000000000004"]


def test_no_flipped_bit_is_overlooked(folder):
    write(folder, 1, make(1))
    kept = folder / "step-000000000001"
    random = np.random.default_rng(0)
    for name in ("arrays.npz", "checkpoint.json"):
        whole = (kept / name).read_bytes()
        for bit in random.integers(0, 8 * len(whole), 40):
            flip(kept / name, int(bit))
            with pytest.warns(CheckpointWarning, match="is damaged"):
                assert newest(folder) is None, f"bit {bit} of {name}"
            os.rename(folder / f"damaged-{kept.name}", kept)
            (kept / name).write_bytes(whole)
    assert newest(folder).facts["number"] == 1


def test_where_all_are_damaged_training_begins_anew_and_is_kept(folder):
    for step in (90, 100):
        write(folder, step, make(step))
        cut(folder / f"step-{step:012d}" / "arrays.npz")
    with pytest.warns(CheckpointWarning) as said:
        assert newest(folder) is None
    assert [str(warning.message).split(" and was renamed to ")[1] for warning in said] == [
        "damaged-step-000000000100; the one before it is used.",
        "damaged-step-000000000090; there is none before it: training begins anew.",
    ]
    write(folder, 10, make(10))
    assert newest(folder).facts["number"] == 10


def test_a_folder_and_a_file_by_that_name_are_damaged_ones(folder):
    write(folder, 1, make(1))
    (folder / "step-000000000002").mkdir()
    (folder / "step-000000000003").write_text("not a folder")
    with pytest.warns(CheckpointWarning):
        assert newest(folder).facts["number"] == 1
    for step in (2, 3):
        assert write(folder, step, make(step))
    assert newest(folder).facts["number"] == 3


def test_what_is_not_ours_is_left_alone(folder):
    for name in ("step-100", "step-000000000005.old", "steps", "other"):
        (folder / name).mkdir()
        (folder / name / "checkpoint.json").write_text("{}")
    assert newest(folder) is None
    for step in (1, 2, 3):
        write(folder, step, make(step))
    assert newest(folder).facts["number"] == 3
    assert {"step-100", "step-000000000005.old", "steps", "other"} < set(numbers(folder))


def test_a_newer_format_is_not_damage(folder, monkeypatch):
    write(folder, 1, make(1))
    monkeypatch.setattr(checkpoint, "_FORMAT", 2)
    write(folder, 2, make(2))
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="format 1, which this kwarmup reads; a newer one wrote format 2"):
        newest(folder)
    assert numbers(folder) == ["step-000000000001", "step-000000000002"]


# Failing to write


class Full(io.FileIO):
    """A file on a disk that takes no more than 2000 bytes."""

    def write(self, data):
        if self.tell() + len(bytes(data)) > 2000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def full_disk(monkeypatch):
    monkeypatch.setattr(checkpoint, "open", lambda path, mode: Full(path, "wb"), raising=False)


def no_flush(monkeypatch):
    def fail(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)


def no_move(monkeypatch):
    def fail(*paths):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "rename", fail)


@pytest.mark.parametrize("fault", [full_disk, no_flush, no_move])
def test_what_cannot_be_written_is_said_and_leaves_the_last_two(folder, monkeypatch, fault):
    for step in (1, 2):
        write(folder, step, make(step))
    fault(monkeypatch)
    with pytest.warns(CheckpointWarning, match=r"No checkpoint was written at step 3 .*\. Training goes on"):
        assert not write(folder, 3, make(3))
    monkeypatch.undo()
    assert numbers(folder) == ["step-000000000001", "step-000000000002"]
    assert newest(folder).facts["number"] == 2
    assert write(folder, 4, make(4))


def test_a_limit_of_the_system_is_a_full_disk_too(folder):
    """Files may not grow beyond a kilobyte, by the kernel's word: not a simulation."""
    write(folder, 1, make(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.warns(CheckpointWarning, match="File too large"):
            assert not write(folder, 2, make(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert numbers(folder) == ["step-000000000001"]


def test_a_folder_that_is_taken_away_is_said(folder):
    shutil.rmtree(folder)
    with pytest.warns(CheckpointWarning, match="No checkpoint was written"):
        assert not write(folder, 1, make(1))


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_in_the_way_is_refused_before_training(tmp_path, inside):
    (tmp_path / "taken").write_text("")
    path = tmp_path / "taken" / "a" if inside else tmp_path / "taken"
    with pytest.raises(
        ValueError, match="`checkpoint_dir`: expected a folder that can be written .*\n.*taken"
    ):
        prepare(path)


def test_what_a_killed_process_left_is_cleared_away(folder):
    (folder / ".writing-step-000000000003").mkdir()
    (folder / ".writing-step-000000000003" / "arrays.npz").write_bytes(b"half")
    prepare(folder)
    assert numbers(folder) == []


# Order: what a power cut finds


def test_everything_is_on_disk_before_it_has_its_name(folder, monkeypatch):
    done = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)

        def noted(*arguments, name=name, real=real):
            path = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else arguments[1]
            done.append((name, Path(path).name))
            return real(*arguments)

        monkeypatch.setattr(os, name, noted)
    real = shutil.rmtree
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **_: (done.append(("remove", path.name)), real(path, **_))
    )
    for step in (1, 2):
        write(folder, step, make(step))
    done.clear()
    write(folder, 3, make(3))
    writing = ".writing-step-000000000003"
    assert [step for step in done if step != ("remove", writing)] == [
        ("fsync", "arrays.npz"),
        ("fsync", "checkpoint.json"),
        ("fsync", writing),
        ("rename", "step-000000000003"),
        ("fsync", "a"),
        ("remove", "step-000000000001"),
    ]


KILLED = """
import os, sys
from pathlib import Path
from kwarmup.checkpoint import newest, prepare, write

sys.path.insert(0, sys.argv[2])
from test_checkpoint import make

def child(moment, pipe):
    left = [moment]
    def wrap(name):
        real = getattr(os, name)
        def counted(*arguments, **more):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return real(*arguments, **more)
        setattr(os, name, counted)
    folder = prepare(sys.argv[1])
    found = newest(folder)
    first = found.facts["number"] + 1 if found else 1
    for name in ("fsync", "rename", "rmdir", "unlink", "mkdir", "open"):
        wrap(name)
    for step in range(first, first + 4):
        write(folder, step, make(step))
        os.write(pipe, b"%d " % step)
    os._exit(0)

done = moment = code = 0
while moment == 0 or code == 9:
    moment += 1
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        child(moment, writing)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(writing)
    written = [int(step) for step in os.read(reading, 100).split()]
    os.close(reading)
    assert code in (0, 9), code
    found = newest(Path(sys.argv[1]))
    number = found.facts["number"] if found else 0
    assert number >= max([done, *written]), f"lost at call {moment}"
    done = number
print(moment)
"""


def test_wherever_a_process_ends_there_is_a_whole_one_and_none_is_lost(folder):
    """Ended at each single call into the system while checkpoints are written, one after the other.

    It forks, which a process with TensorFlow in it should not: hence a process of its own.
    """
    command = [sys.executable, "-W", "error", "-c", KILLED, str(folder), str(Path(__file__).parent)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 40, "it was not ended often enough to say anything"
