"""TF_CONFIG read and written, and the workers that meet: who is missing, whose port is taken, who is wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from kwarmup.cli import group, launch
from kwarmup.cli.group import free_ports
from kwarmup.distribute import WorkerMissing, slurm
from kwarmup.distribute.cluster import Cluster, read
from kwarmup.distribute.rendezvous import meet


def config(cluster, task):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


WORKERS = {"worker": ["a:1", "b:2"]}
TASK = {"type": "worker", "index": 1}


@pytest.mark.parametrize(
    "cluster",
    [
        Cluster(("a:1",), 0),
        Cluster(("a:1", "b:2"), 1),
        Cluster(("a:1", "b:2"), 0, chiefs=1),
        Cluster(("a:1", "b:2"), 1, chiefs=1),
    ],
)
def test_what_is_written_is_read(cluster):
    assert read({"TF_CONFIG": cluster.to_json()}) == cluster


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": " {} "}])
def test_nothing_is_no_cluster(environment):
    assert read(environment) is None


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"TF_CONFIG": "{'cluster': 1}"}, "expected JSON"),
        ({"TF_CONFIG": "[1]"}, 'expected an object with "cluster"'),
        (config({**WORKERS, "ps": ["c:3"]}, TASK), "'ps' does not train"),
        (config({"worker": "a:1"}, TASK), '"worker" to be a list of "host:port"'),
        (config({"worker": ["a", "b:2"]}, TASK), '"worker" to be a list of "host:port"'),
        (config({"worker": ["a:1", "b:99999"]}, TASK), '"worker" to be a list of "host:port"'),
        (config({"worker": []}, TASK), "one worker or more"),
        (config({"chief": ["a:1", "b:2"]}, {"type": "chief", "index": 0}), "one chief at most"),
        (config({"worker": ["a:1", "a:1"]}, TASK), "a:1 is there twice"),
        (config(WORKERS, None), '"task" with a "type"'),
        (config(WORKERS, {"type": "evaluator", "index": 0}), '"task" with a "type"'),
        (config(WORKERS, {"type": "worker", "index": 2}), "from 0 to 1, one of the 2"),
        (config(WORKERS, {"type": "worker", "index": "0"}), "from 0 to 1, one of the 2"),
        (config(WORKERS, {"type": "worker"}), "from 0 to 1, one of the 2"),
    ],
)
def test_what_is_wrong_is_said(environment, said):
    with pytest.raises(ValueError, match="^`TF_CONFIG`: expected ") as error:
        read(environment)
    assert said in str(error.value) and "Write: TF_CONFIG='{" in str(error.value)


# As Slurm 22.05 says it: to a task of a step on one node, and to the batch script around it.
STEP = {
    "SLURM_JOB_ID": "1203", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "vm", "SLURM_PROCID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1",
    "SLURM_DISTRIBUTION": "block",
}  # fmt: skip
BATCH = {
    "SLURM_JOB_ID": "1203",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "0",
}
TWO_NODES = {
    **STEP,
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "n[9-10]",
}


@pytest.mark.parametrize(
    ("environment", "workers", "number"),
    [
        (STEP, ["vm:10096", "vm:10097"], 1),
        (TWO_NODES, ["n9:10096", "n9:10097", "n10:10096", "n10:10097"], 1),
        (
            {
                **TWO_NODES,
                "SLURM_PROCID": "2",
                "SLURM_NODEID": "1",
                "SLURM_LOCALID": "0",
                "SLURM_JOB_ID": "1204",
            },
            ["n9:10128", "n9:10129", "n10:10128", "n10:10129"],
            2,
        ),
    ],
)
def test_tasks_of_slurm(environment, workers, number):
    assert slurm.read(environment) == Cluster(tuple(workers), number)


@pytest.mark.parametrize("environment", [{}, BATCH, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}])
def test_a_batch_script_and_a_lone_task_are_no_workers(environment):
    assert slurm.read(environment) is None


def test_tasks_of_slurm_that_are_dealt_out_in_turn_are_refused():
    environment = {**TWO_NODES, "SLURM_NODEID": "1", "SLURM_LOCALID": "0", "SLURM_DISTRIBUTION": "cyclic"}
    with pytest.raises(ValueError, match="Received: cyclic, with task 1 as number 0 of node 1") as error:
        slurm.read(environment)
    assert "Write: srun --distribution=block" in str(error.value)


@pytest.mark.parametrize(
    ("visible", "on_node", "mine"),
    [
        ("abcd", "4", "cd"),
        ("abc", "3", "b"),
        ("cd", "4", "cd"),
        ("a", "1", "a"),
        ("", None, ""),
        ("ab", None, "ab"),
    ],
)
def test_gpus_that_all_tasks_of_a_node_see_are_shared_out(visible, on_node, mine):
    environment = STEP if on_node is None else {**STEP, "SLURM_GPUS_ON_NODE": on_node}
    assert list(slurm.gpus(list(visible), environment)) == list(mine)


def meeting(addresses, seconds=10.0, numbers=None, late=()):
    """Let workers meet, each in a thread; return what each of them ended with, by number."""
    ended = {}

    def come(number, cluster):
        if number in late:
            time.sleep(0.5)
        try:
            meet(cluster, seconds)
            ended[number] = None
        except Exception as error:
            ended[number] = error

    threads = []
    for number in range(len(addresses)) if numbers is None else numbers:
        threads.append(threading.Thread(target=come, args=(number, Cluster(tuple(addresses), number))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return ended


def local(count):
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


@pytest.mark.parametrize("late", [(), (0,), (1, 2)])
def test_all_come(late):
    addresses = local(3)
    assert meeting(addresses, late=late) == {0: None, 1: None, 2: None}
    for address in addresses:  # free again, for TensorFlow
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", int(address.rpartition(":")[2])))


def test_a_lone_worker_waits_for_nobody():
    meet(Cluster(("127.0.0.1:1",), 0), seconds=0)


def test_who_is_missing_is_said():
    addresses = local(3)
    ended = meeting(addresses, seconds=1.5, numbers=[0, 2])
    assert all(isinstance(error, WorkerMissing) for error in ended.values())
    assert f"worker 1 at {addresses[1]} has not come" in str(ended[0]) and "worker 2" not in str(ended[0])
    assert f"the chief at {addresses[0]}" in str(ended[2])


@pytest.mark.parametrize("number", [0, 1])
def test_a_port_that_is_taken_is_said(number):
    addresses = local(2)
    with socket.socket() as taken:
        taken.bind(("", int(addresses[number].rpartition(":")[2])))
        taken.listen()
        error = meeting(addresses, seconds=1.0, numbers=[number])[number]
    assert isinstance(error, ValueError)
    assert f"{addresses[number]} for worker {number}, a port that is taken" in str(error)


def test_two_ideas_of_the_cluster_are_told_apart():
    addresses = local(2)
    ended = {}

    def chief():
        try:
            meet(Cluster(tuple(addresses), 0), 1.5)
        except WorkerMissing as error:
            ended["chief"] = error

    thread = threading.Thread(target=chief)
    thread.start()
    with pytest.raises(ValueError, match="the same cluster in each worker") as error:
        meet(Cluster((addresses[0], local(1)[0]), 1), 5.0)
    assert f"the chief has the workers {', '.join(addresses)}" in str(error.value)
    thread.join()
    assert "worker 1" in str(ended["chief"])


def test_somebody_else_who_calls_is_no_worker():
    addresses = local(2)
    port = int(addresses[0].rpartition(":")[2])

    def scan():
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"", b'{"number": "x"}\n'):
            for _ in range(50):
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=1) as caller:
                        caller.sendall(said)
                    break
                except OSError:
                    time.sleep(0.02)

    scanner = threading.Thread(target=scan)
    scanner.start()
    assert meeting(addresses, late=(1,)) == {0: None, 1: None}
    scanner.join()


# As programs that are launched; none of them needs TensorFlow to say what is wrong.

_MEET = """
import os, signal, socket, subprocess, sys, time
from kwarmup.distribute import cluster, rendezvous
{before}
found = cluster.read()
rendezvous.meet(found, {seconds})
"""


def launched(before, seconds=60):
    """Run two workers that meet; return the exit code, what was said, and how long it took."""
    program = _MEET.format(before=before, seconds=seconds)
    said = []
    code = group.run(
        [sys.executable, "-c", program], 2, restarts=0, grace=1.0, say=said.append, write=said.append
    )
    return code, "\n".join(said)


def test_a_malformed_config_ends_all_with_what_is_wrong():
    code, said = launched("if '\"index\": 1' in os.environ['TF_CONFIG']: os.environ['TF_CONFIG'] = '{'")
    assert code == 1 and "[1] ValueError: `TF_CONFIG`: expected JSON" in said
    assert "Worker 1 has ended with code 1." in said


def test_a_port_that_is_taken_ends_all_with_which():
    before = "\n".join(
        [
            "found = cluster.read()",
            "taken = socket.socket()",
            "if found.number == 1: taken.bind(('', int(found.address.rpartition(':')[2]))); taken.listen()",
        ]
    )
    code, said = launched(before)
    assert code == 1 and "for worker 1, a port that is taken" in said


def test_a_worker_that_never_starts_ends_all_and_leaves_no_child(tmp_path):
    # It does not hear of SIGTERM, and has a child of its own.
    before = "\n".join(
        [
            "if cluster.read().number == 1:",
            "    signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "    child = subprocess.Popen(['sleep', '600'])",
            f"    open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))",
            "    time.sleep(600)",
            f"while not os.path.exists({str(tmp_path / 'child')!r}): time.sleep(0.02)",
        ]
    )
    code, said = launched(before, seconds=0.5)
    assert code == 1
    assert "has not come" in said and "WorkerMissing: After 0.5 s worker 1 at 127.0.0.1" in said
    assert "Worker 1 has not ended within 1 s, and is killed." in said
    child = int((tmp_path / "child").read_text())
    assert not is_alive(child)


def is_alive(number):
    """Whether a process runs; one that has ended and that nobody has asked after does not."""
    try:
        os.kill(number, 0)
        with open(f"/proc/{number}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


# The launcher itself, whose workers are small programs of the shell.


def launcher(*arguments, workers=1, **named):
    """Start `kwarmup launch`; return its process."""
    command = [sys.executable, "-m", "kwarmup", "launch", "--workers", str(workers), *arguments]
    piped = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, **piped | named)


def test_a_character_that_cannot_be_shown_ends_no_worker():
    program = launcher(
        "--", "bash", "-c", 'echo "━ 10%"; echo x', env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    shown, said = program.communicate(timeout=60)
    assert (shown, said, program.returncode) == ("[0] ? 10%\n[0] x\n", "", 0)


def test_a_launcher_that_nobody_reads_goes_on(tmp_path):
    done = tmp_path / "done"
    lines = f"for n in $(seq 20000); do echo $n; done; echo > {done}"
    program = launcher("--", "bash", "-c", lines)
    assert program.stdout.readline() == "[0] 1\n"
    program.stdout.close()
    assert program.stderr.read() == "" and program.wait(timeout=60) == 0
    program.stderr.close()
    assert done.exists()


@pytest.mark.parametrize(
    ("ignored", "numbers", "code", "expected"),
    [
        (False, [signal.SIGHUP, signal.SIGHUP], 129, "SIGHUP: the workers are asked to save and end.\n"),
        (True, [signal.SIGHUP, signal.SIGTERM], 143, "SIGTERM: the workers are asked to save and end.\n"),
        (
            False,
            [signal.SIGTERM, signal.SIGTERM],
            143,
            "SIGTERM: the workers are asked to save and end.\nSIGTERM once more: worker 0 is killed.\n",
        ),
    ],
    ids=["a terminal closes", "nohup", "twice"],
)
def test_signals_for_the_launcher(tmp_path, ignored, numbers, code, expected):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        saved = tmp_path / "saved"
        worker = f"trap 'sleep 1; echo > {saved}; exit' TERM; echo ready; while true; do sleep 0.1; done"
        program = launcher("--", "bash", "-c", worker)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert program.stdout.readline() == "[0] ready\n"
    for number in numbers:
        program.send_signal(number)
        time.sleep(0.3)
    _, said = program.communicate(timeout=60)
    assert (said, program.returncode) == (expected, code)
    assert saved.exists() == ("killed" not in expected)


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("script", 0o755, "does not say what runs it; its first line would be #!/bin/bash"),
        ("script", 0o644, "script may not be executed. Write: kwarmup launch --workers 2 -- python "),
        (".", None, "is a folder, and no program."),
        ("nothing", None, "There is no program "),
    ],
)
def test_what_is_no_program_is_said(tmp_path, name, mode, said):
    path = tmp_path / name
    if mode is not None:
        path.write_text("echo x\n")
        path.chmod(mode)
    result = CliRunner().invoke(launch.command, ["--workers", "1", "--", str(path)])
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr


def test_who_has_failed_and_who_had_ended_before():
    said = []
    quiet = dict(grace=5.0, say=said.append, write=lambda line: None)
    worker = "case $TF_CONFIG in *'\"index\": 1'*) exit 0;; esac; sleep 0.5; exit 3"
    assert group.run(["bash", "-c", worker], 2, restarts=0, **quiet) == 3
    assert said == [
        "Worker 0 has ended with code 3; worker 1 had ended with code 0 before.",
        "Worker 1 had ended with code 0 before worker 0 failed; --max-restarts would start all of them again.",
    ]
    said.clear()
    assert group.run(["bash", "-c", "exit 3"], 1, restarts=1, **quiet) == 3
    assert said[-1] == (
        "Worker 0 has failed, and the others cannot go on without it; all of them have been started again once."
    )
