"""Starts programs quickly: python -m tests.fork_server MODULE

Imports the module once, then forks for each line of standard input, a JSON list of a log file and
the arguments of the module's `main`. A child goes on as a process of its own that ends as any
interpreter does, threads and exit handlers included. Prints the child's number, and once it has
ended its number and exit status.
"""

import importlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
_MESSAGE = 64  # bytes, each


class ForkServer:
    """The server, seen from a test; as a context, ends it."""

    def __init__(self, module: str, environment: dict[str, str]):
        command = [sys.executable, "-m", "tests.fork_server", module]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        self._statuses: dict[int, int] = {}

    def start(self, log: Path, *arguments: str) -> int:
        """Start a process whose output is added to `log`; its number."""
        self._server.stdin.write(json.dumps([str(log), *map(str, arguments)]) + "\n")
        self._server.stdin.flush()
        while len(message := self._read()) > 1:
            pass
        return message[0]

    def poll(self, process: int) -> int | None:
        """Its exit status, negative after a signal; None while it runs."""
        while select.select([self._server.stdout], [], [], 0)[0]:
            self._read()
        return self._statuses.get(process)

    def wait(self, process: int, seconds: float = 120) -> int:
        """Its exit status.

        Raises:
          TimeoutError: it has not ended.
        """
        deadline = time.monotonic() + seconds
        while (status := self.poll(process)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {process} has not ended after {seconds} s")
            time.sleep(0.01)
        return status

    def _read(self) -> list[int]:
        message = json.loads(os.read(self._server.stdout.fileno(), _MESSAGE))
        if len(message) == 2:
            self._statuses[message[0]] = message[1]
        return message

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_) -> None:
        self._server.kill()
        self._server.wait()


def _serve(module) -> None:
    def tell(*numbers: int) -> None:
        os.write(1, json.dumps(numbers).ljust(_MESSAGE).encode())

    buffer = b""
    while True:
        while b"\n" not in buffer:
            if select.select([0], [], [], 0.005)[0]:
                if not (read := os.read(0, 65536)):
                    return
                buffer += read
            _reap(tell)
        line, _, buffer = buffer.partition(b"\n")
        log, *arguments = json.loads(line)
        if child := os.fork():
            tell(child)
            continue
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(file, number)
        module.main(*arguments)
        return


def _reap(tell) -> None:
    try:
        child, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    if child:
        tell(child, os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _serve(importlib.import_module(sys.argv[1]))
