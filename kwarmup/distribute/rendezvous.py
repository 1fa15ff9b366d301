"""Wait for the other workers before TensorFlow does: it would wait for ever, and not say for whom."""

from __future__ import annotations

import contextlib
import json
import socket
import time

from kwarmup.distribute.cluster import Cluster
from kwarmup.errors import Code, value_error

_PAUSE = 0.1
_GO = b"go\n"


class WorkerMissing(TimeoutError):
    """A worker has not come in time.

    Example:

    >>> from kwarmup.distribute import WorkerMissing
    >>> issubclass(WorkerMissing, TimeoutError)
    True
    """


def meet(cluster: Cluster, seconds: float) -> None:
    """Return when all workers of a cluster are there, at each of them.

    The chief listens on its own port, which TensorFlow takes over behind this, and the others call it. Each of
    the others also sees whether its own port is free.

    Args:
        cluster: all workers, and which of them this is.
        seconds: how long to wait.

    Raises:
        ValueError: if a port is taken, or two workers have different ideas of the cluster.
        WorkerMissing: if a worker has not come in time; which one is said.
    """
    if len(cluster.workers) == 1:
        return
    end = time.monotonic() + seconds
    if cluster.number == 0:
        _wait_for_all(cluster, end, seconds)
    else:
        _listening(cluster).close()
        _call(cluster, end, seconds)


def _listening(cluster: Cluster) -> socket.socket:
    port = int(cluster.address.rpartition(":")[2])
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("", port))
        server.listen()
    except OSError as error:
        server.close()
        raise value_error(
            "TF_CONFIG",
            Code(f"{cluster.address} for worker {cluster.number}, a port that is taken ({error.strerror})"),
            "a free port for each worker",
            "another port for it in TF_CONFIG, the same in that of each worker; kwarmup launch finds free ones",
        ) from error
    return server


def _wait_for_all(cluster: Cluster, end: float, seconds: float) -> None:
    missing = dict(enumerate(cluster.workers[1:], 1))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(cluster))
        callers = []
        while missing:
            left = end - time.monotonic()
            if left <= 0:
                raise _missing(", ".join(f"worker {n} at {a}" for n, a in missing.items()), seconds)
            server.settimeout(left)
            try:
                caller, _ = server.accept()
            except TimeoutError:
                continue
            stack.enter_context(caller)
            number = _hear(caller, cluster, min(5.0, left))
            if number is not None:
                missing.pop(number, None)
                callers.append(caller)
        for caller in callers:
            with contextlib.suppress(OSError):  # called again meanwhile, by a worker that was restarted
                caller.sendall(_GO)


def _hear(caller: socket.socket, cluster: Cluster, seconds: float) -> int | None:
    """Return which worker calls; `None` for somebody else, such as a scan for open ports."""
    caller.settimeout(seconds)
    try:
        with caller.makefile("rb") as lines:
            said = json.loads(lines.readline(1 << 20))
        number, workers = int(said["number"]), tuple(said["workers"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if workers != cluster.workers:
        answer = f"the chief has the workers {', '.join(cluster.workers)}"
        with contextlib.suppress(OSError):
            caller.sendall(answer.encode() + b"\n")
        return None
    return number


def _call(cluster: Cluster, end: float, seconds: float) -> None:
    host, _, port = cluster.workers[0].rpartition(":")
    hello = json.dumps({"number": cluster.number, "workers": cluster.workers}).encode() + b"\n"
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise _missing(f"the chief at {cluster.workers[0]}, or a worker that it waits for,", seconds)
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left) as caller:
                caller.settimeout(left)
                caller.sendall(hello)
                with caller.makefile("rb") as lines:
                    answer = lines.readline(1 << 20)
        except OSError:
            answer = b""
        if answer == _GO:
            return
        if answer:
            raise value_error(
                "TF_CONFIG",
                Code(
                    f"the workers {', '.join(cluster.workers)} in worker {cluster.number}; {answer.decode().strip()}"
                ),
                "the same cluster in each worker",
                'the same "cluster" everywhere, and another "index" in each',
            )
        time.sleep(_PAUSE)


def _missing(who: str, seconds: float) -> WorkerMissing:
    return WorkerMissing(
        f"After {seconds:g} s {who} has not come.\n"
        "Each worker is to be started, with the same addresses in TF_CONFIG, and must be reachable from the others.\n"
        "Write: kw.distribute.strategy(timeout=600) to wait longer; kwarmup launch starts all workers of a machine"
    )
