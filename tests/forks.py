"""Runs a program again and again in processes of its own, without importing Keras and its backend anew for each.

    python forks.py PROGRAM

imports the program once and then, for each line of arguments that it reads, forks a process that runs its `run`; what
that ended with is written back as a line. Such a process is killed as any other is: it has its own memory and files.
A backend may be imported before a fork, but it must not have computed anything.
"""

import importlib.util
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path


class Forks:
    """A process that forks others, one at a time; use it in a `with`.

    Args:
        program: a Python file with a function `run` that takes a list of arguments.
    """

    def __init__(self, program):
        command = [sys.executable, __file__, str(program)]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, *arguments):
        """Run the program to its end; return its exit code, negative for the signal that ended it, and its errors."""
        self._server.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, f"the server ended with {self._server.wait()}"
        return tuple(json.loads(answer))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with self._server:  # closes its pipes, at which it ends
            pass


def serve(program):
    spec = importlib.util.spec_from_file_location("program", program)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(program).parent))
    spec.loader.exec_module(module)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a program prints is no answer
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(writer, 2)
            code = 1
            try:
                module.run(json.loads(line))
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(writer)
        with os.fdopen(reader) as errors:
            said = errors.read()
        _, status = os.waitpid(child, 0)
        answers.write(json.dumps([os.waitstatus_to_exitcode(status), said]) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
