"""The memory of this process: a peak that is seen and forgotten, and what machines and control groups leave."""

import numpy as np
import pytest

from kwarmup.process_memory import ProcessMemory

MEGABYTE = 2**20


def test_a_peak_is_seen_and_forgotten():
    memory = ProcessMemory()
    before = memory.peak()
    held = np.ones(200 * MEGABYTE, "uint8")
    del held
    assert memory.peak() > before + 190 * MEGABYTE
    memory.begin()
    assert memory.peak() < before + 20 * MEGABYTE
    assert memory.total > memory.held > 10 * MEGABYTE


def machine(root, groups="", **files):
    """Write what Linux tells of a process that holds 1000 kB, on a machine with 4000 kB to spare."""
    status, meminfo = (
        "Name:\tpython\nVmHWM:\t 1500 kB\nVmRSS:\t 1000 kB\n",
        "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n",
    )
    files = {"proc/self/status": status, "proc/meminfo": meminfo, "proc/self/cgroup": groups, **files}
    for name, text in {"proc/self/clear_refs": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return ProcessMemory(root)


def group(folder, limit, used, cached, version=2):
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        folder = folder.replace("sys/fs/cgroup", "sys/fs/cgroup/memory")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    stat = f"anon 7\n{names[2]} {cached}\n"
    return {
        f"{folder}/{names[0]}": f"{limit}\n",
        f"{folder}/{names[1]}": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


HELD, FREE = 1000 * 1024, 4000 * 1024


def test_what_is_free_in_the_machine(tmp_path):
    memory = machine(tmp_path)
    assert memory.held == HELD and memory.peak() == 1500 * 1024
    assert memory.total == HELD + round(0.9 * FREE)
    assert (tmp_path / "proc/self/clear_refs").read_text() == "5"


TOP = "sys/fs/cgroup"
LEFT = 500_000 - 300_000 + 100_000


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/a/b\n", group(f"{TOP}/a/b", 500_000, 300_000, 100_000)),
        ("0::/a/b\n", {**group(f"{TOP}/a/b", "max", 0, 0), **group(f"{TOP}/a", 500_000, 300_000, 100_000)}),
        ("0::/of/the/machine/outside\n", group(TOP, 500_000, 300_000, 100_000)),
        ("4:cpu:/\n3:memory:/a\n0::/\n", group(f"{TOP}/a", 500_000, 300_000, 100_000, version=1)),
    ],
    ids=["its own", "one above", "in a container", "version 1"],
)
def test_the_limit_of_a_control_group(tmp_path, groups, files):
    assert machine(tmp_path, groups, **files).total == HELD + round(0.9 * LEFT)


def test_a_group_that_is_full_leaves_nothing(tmp_path):
    full = machine(tmp_path, "0::/\n", **group(TOP, 500_000, 600_000, 0))
    assert full.total == full.held


@pytest.mark.parametrize("missing", ["proc/self/status", "proc/meminfo"])
def test_a_system_that_does_not_tell(tmp_path, missing):
    with pytest.raises(OSError, match="VmHWM|MemAvailable"):
        machine(tmp_path, **{missing: "Name:\tpython\n"})
