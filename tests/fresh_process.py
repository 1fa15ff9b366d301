"""The process in which an export is checked, started once for many checks: TensorFlow takes seconds to import.

What it runs is what the check hands over, and Keras and kwarmup are missing in it from its first line on.
"""

import subprocess
import sys
import threading

_WORKER = """
import sys, traceback
program = sys.stdin.readline()
code = compile(eval(program), "fresh", "exec")
sys.modules["keras"] = sys.modules["kwarmup"] = None
for line in sys.stdin:
    sys.argv = ["-c", *eval(line)]
    try:
        exec(code, {"__name__": "__main__"})
        print("0 ''", flush=True)
    except BaseException:
        print("1", repr(traceback.format_exc()), flush=True)
"""


class FreshProcess:
    """Stands in for the module `subprocess` in `kwarmup.saved_model.check`."""

    def __init__(self):
        self._process = None
        self._lock = threading.Lock()

    def run(self, command, **_):
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _WORKER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                self._say(command[2])
            self._say(command[3:])
            code, said = self._process.stdout.readline().split(" ", 1)
        return subprocess.CompletedProcess(command, int(code), "", eval(said))

    def _say(self, thing):
        self._process.stdin.write(f"{thing!r}\n")
        self._process.stdin.flush()

    def close(self):
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
