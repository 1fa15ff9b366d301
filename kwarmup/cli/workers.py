"""keras-tuner's chief and workers on one machine: begun, watched, and begun again where one is killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import click

from kwarmup.cli.errors import UserError
from kwarmup.searches import outcome
from kwarmup.searches.screen import Screen

#: So often a worker is begun again without a trial having ended in between.
_TRIES = 5
_LOOK = 0.2  # seconds
#: Of what a process has written, the end that is read where it says nothing of an error, in lines.
_LINES = 10


def run(workers: int, trials: Path, logs: Path, screen: Screen) -> int:
    """Run the same command as a chief and so many workers until the search is over; return the exit code.

    A worker that ends before that is begun again under its name, and keras-tuner gives it the trial that it had.

    Args:
        workers: processes that train.
        trials: the folder of the search.
        logs: a folder for what they write.
        screen: to show the trials on that have ended.

    Raises:
        UserError: if the chief ends, workers end again and again, or one says what the user did wrong.
    """
    logs.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    names = [f"worker{number}" for number in range(workers)]
    processes = {name: _begin(name, port, workers, logs) for name in ("chief", *names)}
    shown = {trial.trial for trial in outcome.read_all(trials)}
    tries, done = 0, set[str]()
    try:
        while len(done) < workers:
            time.sleep(_LOOK)
            # In the order in which they end, which is not the one in which they began.
            for trial in outcome.read_all(trials):
                if trial.trial not in shown:
                    tries = 0
                    shown.add(trial.trial)
                    screen.trial_ended(trial)
            codes = {name: process.poll() for name, process in processes.items()}
            for name, code in codes.items():
                # Begun again, it would say the same. Where a worker is done, the search is over, and the chief ends
                # with what is reported here.
                if code == UserError.exit_code and (name != "chief" or not done):
                    log = logs / f"{name}.txt"
                    raise UserError(f"{_last_words(log)}\nSo ended {name}; all of its words: {log}")
            if codes["chief"] not in (None, 0) and not done:  # with 0 it ends where workers are about to
                raise UserError(f"The chief has ended: see {logs / 'chief.txt'}. --resume goes on.")
            for name in names:
                code = codes[name]
                if code == 0:
                    done.add(name)
                elif code is not None:
                    tries += 1
                    if tries > _TRIES:
                        raise UserError(
                            f"{name} ends again and again: see {logs / name}.txt. --resume goes on."
                        )
                    click.echo(f"{name} ended with {code}; it is begun again, and so is its trial.", err=True)
                    processes[name] = _begin(name, port, workers, logs)
    except KeyboardInterrupt:
        return 130
    finally:
        _end(processes)
    return 0


def _begin(name: str, port: int, workers: int, logs: Path) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {
        "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads, **os.environ,
        "KERASTUNER_TUNER_ID": name, "KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port),
    }  # fmt: skip
    with open(logs / f"{name}.txt", "ab") as log:
        # In a group of its own: Ctrl-C ends them here, in order.
        return subprocess.Popen(
            [sys.executable, "-m", "kwarmup", *sys.argv[1:]], env=environment, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def _last_words(log: Path) -> str:
    """Return the last error that a process told, or the end of its words where it told none."""
    text = click.unstyle(log.read_text(encoding="utf-8", errors="replace"))
    # Those of a search that was gone on with stand in front of it.
    _, head, last = f"\n{text}".rpartition("\nError: ")
    return last.strip() if head else "\n".join(last.strip().splitlines()[-_LINES:])


def _end(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """End what still runs: workers first, so that none asks a chief that is gone."""
    for name in sorted(processes, reverse=True):
        process = processes[name]
        if process.poll() is None:
            # SIGTERM lets a training be saved; the chief has kept everything already.
            process.terminate()
            try:
                process.wait(timeout=20 if name != "chief" else 2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
