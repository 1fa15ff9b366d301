"""Which workers a Slurm step has, and which of them this process is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from kwarmup.distribute.cluster import Cluster
from kwarmup.errors import Code, value_error

#: Below the ports that systems hand out by themselves (from 32768 on Linux).
_PORTS, _JOBS, _TASKS = 10_000, 600, 32


def read(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Return the tasks of the step that this process is of; `None` outside of one, and in a step of one task.

    Tasks of one node listen on ports behind each other, and other jobs of the node on others.

    Raises:
        ValueError: if tasks are not dealt out to nodes in blocks.

    >>> tasks = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NODELIST": "n[9-10]"}
    >>> read({**tasks, "SLURM_JOB_ID": "7", "SLURM_PROCID": "2", "SLURM_NODEID": "1", "SLURM_LOCALID": "0"})
    Cluster(workers=('n9:10224', 'n9:10225', 'n10:10224'), number=2, chiefs=0)
    """
    # The batch script itself has all of the job's variables too, but none of a step's.
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return None
    from kwarmup import private  # needs TensorFlow

    hosts, tasks = private.slurm_nodes(
        environment["SLURM_STEP_NODELIST"], environment["SLURM_STEP_TASKS_PER_NODE"]
    )
    first = _PORTS + int(environment["SLURM_JOB_ID"]) % _JOBS * _TASKS
    places = [(node, local) for node, count in enumerate(tasks) for local in range(count)]
    number = int(environment["SLURM_PROCID"])
    here = int(environment["SLURM_NODEID"]), int(environment["SLURM_LOCALID"])
    if places[number] != here:
        raise value_error(
            "SLURM_DISTRIBUTION",
            Code(f"{environment.get('SLURM_DISTRIBUTION')}, with task {number} as number {here[1]} of node {here[0]}"),
            "tasks that are dealt out in blocks, those of the first node first",
            "srun --distribution=block python train.py",
        )  # fmt: skip
    return Cluster(tuple(f"{hosts[node]}:{first + local}" for node, local in places), number)


def gpus(visible: Sequence[Any], environment: Mapping[str, str] = os.environ) -> Sequence[Any]:
    """Return which GPUs are this task's: a part of them, where Slurm lets each task of the node see all.

    >>> four, here = ["a", "b", "c", "d"], {"SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_NODEID": "1"}
    >>> gpus(four, {**here, "SLURM_LOCALID": "1", "SLURM_GPUS_ON_NODE": "4"})
    ['c', 'd']
    >>> gpus(four, {**here, "SLURM_LOCALID": "1", "SLURM_GPUS_ON_NODE": "8"})  # of eight, Slurm has dealt out these
    ['a', 'b', 'c', 'd']
    """
    from kwarmup import private

    _, tasks = private.slurm_nodes("", environment["SLURM_STEP_TASKS_PER_NODE"])
    each = len(visible) // tasks[int(environment["SLURM_NODEID"])]
    if not each or len(visible) != int(environment.get("SLURM_GPUS_ON_NODE", "0")):
        return visible
    first = int(environment["SLURM_LOCALID"]) * each
    return visible[first : first + each]
