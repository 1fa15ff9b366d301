"""The memory of this process on Linux: what it holds, what it held at its peak, and how much there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

#: Of the memory that is free, the part that may be used: the rest is for what else runs here.
_USABLE = 0.9


class ProcessMemory:
    """The memory that this process holds, page tables and caches of its allocators included.

    That is what the system goes by when it ends a process for want of memory. Made once, before anything is
    tried: `total` is what is held then and 90 % of what is free, in the machine and in the process's control groups.

    Args:
        root: where the file system begins.

    Raises:
        OSError: if this system does not tell a peak, or cannot forget one.
    """

    counted = True

    def __init__(self, root: Path = Path("/")):
        self._root = root
        self.begin()
        self.peak()
        self.held = self._status("VmRSS")
        self.total: int | None = self.held + round(_USABLE * max(0, min(_free(root))))

    def begin(self) -> None:
        """Forget the peak so far."""
        (self._root / "proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the most bytes that were held since `begin`."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        return _kilobytes(self._root / "proc/self/status", name)


def _kilobytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name} in {path}")


def _free(root: Path) -> Iterator[int]:
    """Yield what is free in the machine, and in each control group that has a limit."""
    yield _kilobytes(root / "proc/meminfo", "MemAvailable")
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Each group is within those above it. Within a container the path may be one of the machine outside.
        inner = top / path.lstrip("/")
        for group in (inner, *inner.parents):
            if group.is_relative_to(top) and (group / names[0]).exists():
                limit = (group / names[0]).read_text().strip()
                if limit != "max":
                    yield int(limit) - int((group / names[1]).read_text()) + _cached(group, names[2])


def _cached(group: Path, name: str) -> int:
    # Files that were read and are not in use count as used, but make room when it is needed.
    for line in (group / "memory.stat").read_text().splitlines():
        if line.split()[0] == name:
            return int(line.split()[1])
    return 0
