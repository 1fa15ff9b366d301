"""The worker processes of a training on this machine: started together, ended together, started again together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from kwarmup.distribute.cluster import VARIABLE, Cluster

#: How often this group was started before; 0 the first time. Set in each worker.
RESTARTS = "KWARMUP_RESTARTS"
_PAUSE = 0.05


class Group:
    """Several processes of one command, each with its `TF_CONFIG`.

    Args:
        command: what each worker runs.
        count: how many there are.
        environment: what they are to find in theirs, beside `TF_CONFIG`.
        write: called with each line that a worker writes, with the worker in front.
    """

    def __init__(
        self, command: Sequence[str], count: int, environment: Mapping[str, str], write: Callable[[str], None]
    ):
        addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
        self.workers: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        for number in range(count):
            config = {VARIABLE: Cluster(addresses, number).to_json(), "PYTHONUNBUFFERED": "1"}
            try:
                worker = subprocess.Popen(
                    list(command),
                    env={**environment, **config},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C is for the launcher, which tells the workers in its own way.
                    start_new_session=True,
                )
            except OSError:
                self.end(0)
                raise
            self.workers.append(worker)
            reader = threading.Thread(target=_copy, args=(worker, f"[{number}] ", write), daemon=True)
            reader.start()
            self._readers.append(reader)

    def codes(self) -> list[int | None]:
        """Return the exit code of each worker, `None` for those that run; of one that a signal killed, 128 + signal."""
        codes = [worker.poll() for worker in self.workers]
        return [128 - code if code is not None and code < 0 else code for code in codes]

    def ask_to_end(self) -> None:
        """Send SIGTERM to all: a training saves itself behind the update at hand."""
        for worker in self.workers:
            _signal(worker, signal.SIGTERM)

    def end(self, grace: float) -> None:
        """Wait so many seconds for all workers to end, and kill those that have not by then, with their children."""
        until = time.monotonic() + grace
        while any(worker.poll() is None for worker in self.workers) and time.monotonic() < until:
            time.sleep(_PAUSE)
        for worker in self.workers:
            _signal(worker, signal.SIGKILL)
        for worker in self.workers:
            worker.wait()
        for reader in self._readers:
            reader.join(timeout=5)


def run(
    command: Sequence[str],
    count: int,
    *,
    restarts: int,
    grace: float,
    say: Callable[[str], None],
    write: Callable[[str], None],
    advice: str = "--max-restarts would start all of them again",
    settled: Callable[[int], int | None] = lambda code: None,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Run a command as so many workers until all of them have ended well; return the exit code.

    Where one of them fails, the others cannot go on: they are ended, and all are started again.

    Args:
        command: what each worker runs.
        count: how many workers.
        restarts: how often they may be started again.
        grace: seconds that workers have to end by themselves, behind SIGTERM or the failure of another.
        say: called with what there is to tell about the group.
        write: called with what the workers write.
        advice: what is said where one has failed and there are no restarts.
        settled: told the exit code of the one that failed; returns that of the whole where another start would be of no
            use, else `None`.
        environment: of the workers.
    """

    def tell(text: str) -> None:
        # Where the terminal is closed the workers are to save all the same.
        with contextlib.suppress(OSError):
            say(text)

    with _asked() as asked:
        for restart in range(restarts + 1):
            group = Group(command, count, {**environment, RESTARTS: str(restart)}, write)
            failed: int | None = None
            early: list[int] = []  # who had ended well when one failed, which may be why
            try:
                while failed is None and not asked and None in group.codes():
                    early = [n for n, code in enumerate(group.codes()) if code == 0]
                    time.sleep(_PAUSE)
                    failed = next((n for n, code in enumerate(group.codes()) if code), None)
                failed = next((n for n, code in enumerate(group.codes()) if code), None)
                if asked:
                    tell(f"{signal.Signals(asked[0]).name}: the workers are asked to save and end.")
                    group.ask_to_end()
                elif failed is not None:
                    before = f"; {_named(early)} had ended with code 0 before" if early else ""
                    tell(f"Worker {failed} has ended with code {group.codes()[failed]}{before}.")
                    group.ask_to_end()
                until = time.monotonic() + grace
                while None in group.codes() and time.monotonic() < until and len(asked) < 2:
                    time.sleep(_PAUSE)
                silent = [n for n, code in enumerate(group.codes()) if code is None]
                if silent and len(asked) > 1:
                    tell(f"{signal.Signals(asked[1]).name} once more: {_named(silent)} is killed.")
                elif silent:
                    tell(f"{_named(silent).capitalize()} has not ended within {grace:g} s, and is killed.")
            finally:
                group.end(0)
            if asked:
                return 128 + asked[0]
            if failed is None:
                return 0
            code = group.codes()[failed] or 1
            end = settled(code)
            if end is not None:
                return end
            if restart < restarts:
                tell(f"All {count} workers are started again ({restart + 1} of {restarts}).")
        times = "once" if restarts == 1 else f"{restarts} times"
        more = f"all of them have been started again {times}" if restarts else advice
        if early:
            tell(f"{_named(early).capitalize()} had ended with code 0 before worker {failed} failed; {more}.")
        else:
            tell(f"Worker {failed} has failed, and the others cannot go on without it; {more}.")
        return code


@contextlib.contextmanager
def _asked() -> Iterator[list[int]]:
    """While inside, SIGINT, SIGTERM and SIGHUP are noted in what is yielded, and do nothing else."""
    found: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        # A terminal that closes may say so several times, which is no wish to end at once.
        if number != signal.SIGHUP or not found:
            found.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # else it was started by nohup, and is to go on
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def _copy(worker: subprocess.Popen[bytes], prefix: str, write: Callable[[str], None]) -> None:
    assert worker.stdout is not None
    with worker.stdout:
        for line in worker.stdout:
            # Where nobody can read it any more it is still taken from the worker, which a closed pipe would end.
            with contextlib.suppress(OSError):
                write(prefix + line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2])


def _named(numbers: Sequence[int]) -> str:
    return f"worker {', '.join(map(str, numbers))}"


def _signal(worker: subprocess.Popen[bytes], number: int) -> None:
    if number != signal.SIGKILL and worker.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, number)  # it leads a group of its own, which its children are in too


def this_program(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs kwarmup with other arguments, on the same Python."""
    return [sys.executable, "-m", "kwarmup", *arguments]
