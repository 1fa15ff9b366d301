"""Two hosts on one machine: network namespaces with a link between them, which can be cut, or made slow.

It takes Linux, iproute2, and the right to make them, which root has.
"""

import os
import subprocess


class Hosts:
    """Two hosts; use it in a `with`.

    Raises:
        OSError: if there is no `ip` here.
        subprocess.CalledProcessError: if it may not make them.
    """

    addresses = ("10.213.57.1", "10.213.57.2")

    def __init__(self):
        self.names = [f"kwarmup-{os.getpid()}-{number}" for number in range(2)]

    def __enter__(self):
        try:
            for name in self.names:
                _ip("netns", "add", name)
            one, other = self.names
            _ip("-n", one, *["link", "add", "link0", "type", "veth", "peer", "name", "link1", "netns"], other)
            for number, name in enumerate(self.names):
                _ip("-n", name, "addr", "add", f"{self.addresses[number]}/30", "dev", f"link{number}")
                _ip("-n", name, "link", "set", "lo", "up")
                # What is sent at once is small beside a gradient, as it must be where a bucket of tokens limits it.
                _ip("-n", name, "link", "set", f"link{number}", "gso_max_size", "16000")
                _ip("-n", name, "link", "set", f"link{number}", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for name in self.names:  # and with it its end of the link
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def on(self, number, *command):
        """Return the command that runs another one on a host; the process is that of the other one."""
        return ["ip", "netns", "exec", self.names[number], *command]

    def cut(self):
        """Cut the link: nobody is told, and whatever is sent is lost."""
        _ip("-n", self.names[0], "link", "set", "link0", "down")

    def join(self):
        """Join the link again."""
        _ip("-n", self.names[0], "link", "set", "link0", "up")

    @staticmethod
    def slow_down(number, bits_per_second):
        """Limit what is sent from a host; called there. `None` for no limit."""
        limit = ["pfifo"]
        if bits_per_second is not None:
            limit = ["tbf", "rate", f"{bits_per_second:.0f}bit", "burst", "20kb", "latency", "1s"]
        command = ["tc", "qdisc", "replace", "dev", f"link{number}", "root", *limit]
        subprocess.run(command, check=True, capture_output=True)


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
