"""Which workers there are, and which of them this process is: `TF_CONFIG`, read and written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from kwarmup.errors import Code, value_error

VARIABLE = "TF_CONFIG"
_TYPES = ("chief", "worker")
_EXAMPLE = (
    """TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:12345", "10.0.0.2:12345"]}, """
    """"task": {"type": "worker", "index": 0}}'"""
)


@dataclass(frozen=True)
class Cluster:
    """The workers of a training, the chief first.

    Args:
        workers: where each of them listens, `host:port`.
        number: which of them this process is.
        chiefs: how many of them, 0 or 1, are listed apart as the chief.
    """

    workers: tuple[str, ...]
    number: int
    chiefs: int = 0

    @property
    def address(self) -> str:
        """Where this process listens."""
        return self.workers[self.number]

    def to_json(self) -> str:
        """Return the text of `TF_CONFIG` that says this.

        >>> Cluster(("a:1", "b:1"), number=1).to_json()
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
        """
        lists = {"chief": list(self.workers[: self.chiefs]), "worker": list(self.workers[self.chiefs :])}
        task = {"type": "worker", "index": self.number - self.chiefs}
        if self.number < self.chiefs:
            task = {"type": "chief", "index": 0}
        return json.dumps({"cluster": {name: found for name, found in lists.items() if found}, "task": task})


def read(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Return the cluster that `TF_CONFIG` describes, `None` where it is not set or empty.

    Raises:
        ValueError: if it is malformed; what is wrong is said.

    >>> read({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'})
    Cluster(workers=('a:1', 'b:1'), number=1, chiefs=0)
    """
    text = environment.get(VARIABLE, "").strip()
    if text in ("", "{}"):
        return None
    try:
        data = json.loads(text)
    except ValueError as error:
        raise _fault(text, f"JSON ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("cluster"), dict):
        raise _fault(text, 'an object with "cluster"')
    cluster, task = data["cluster"], data.get("task")
    unknown = [name for name in cluster if name not in _TYPES]
    if unknown:
        raise _fault(
            text, f'"cluster" with "worker", and "chief" where there is one; {unknown[0]!r} does not train'
        )
    lists = {name: cluster.get(name, []) for name in _TYPES}
    for name, found in lists.items():
        if not isinstance(found, list) or not all(_is_address(address) for address in found):
            raise _fault(text, f'"{name}" to be a list of "host:port"')
    workers = (*lists["chief"], *lists["worker"])
    if not workers or len(lists["chief"]) > 1:
        raise _fault(text, "one worker or more, and one chief at most")
    double = [address for address in workers if workers.count(address) > 1]
    if double:
        raise _fault(text, f"an address of its own for each worker ({double[0]} is there twice)")
    if not isinstance(task, dict) or task.get("type") not in _TYPES:
        raise _fault(text, '"task" with a "type", "worker" or "chief"')
    index = task.get("index")
    there = len(lists[task["type"]])
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < there:
        raise _fault(text, f'"index" of the task from 0 to {there - 1}, one of the {there} of its type')
    chiefs = len(lists["chief"])
    return Cluster(workers, index + (chiefs if task["type"] == "worker" else 0), chiefs)


def _is_address(address: object) -> bool:
    host, colon, port = str(address).rpartition(":")
    return bool(isinstance(address, str) and host and colon and port.isdecimal() and 0 < int(port) < 65536)


def _fault(text: str, expected: str) -> ValueError:
    return value_error(VARIABLE, Code(text if len(text) < 400 else f"{text[:400]} …"), expected, _EXAMPLE)
