"""SIGTERM: what a scheduler sends before it takes the machine away.

The training loop holds it back, asks for it before every step, and saves. Everywhere else nothing
is lost by stopping at once: whatever was finished is on disk.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

# "Temporary failure" of sysexits.h: the same command goes on where this one stopped.
EXIT_STATUS = 75
STOPPED = "stopped by SIGTERM; the same command goes on from there"
# Python's handlers wait until XLA has compiled, which can take longer than a scheduler waits.
_PATIENCE = 3.0  # seconds


class Preempted(BaseException):
    """Raised by SIGTERM; like KeyboardInterrupt nothing on the way should catch it."""


class _Notice:
    """What is known of a SIGTERM in this process, and whether it has to wait."""

    came = False
    held_back = False
    let_through = False


def listen() -> None:
    """Take SIGTERM as a notice from now on; call it in the main thread.

    With several processes JAX does, see `asked`; then only the training loop answers it.
    """
    if jax.distributed.is_initialized():
        return
    signal.signal(signal.SIGTERM, _on_sigterm)
    wakeup, waiting = socket.socketpair()
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(wakeup, waiting), daemon=True).start()


def asked(step: int) -> bool:
    """Whether to save the state of this step and stop; of several processes all get one answer.

    They have to ask before every step.
    """
    return _Notice.came or multihost_utils.reached_preemption_sync_point(step)


def came() -> bool:
    """Whether a SIGTERM came."""
    return _Notice.came


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, SIGTERM waits until somebody asks, or to the end."""
    _Notice.held_back = True
    try:
        yield
    finally:
        _Notice.held_back = False
    if _Notice.came:
        raise Preempted


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Within `held_back`: raise `Preempted` all the same, for who can save then."""
    _Notice.let_through = True
    try:
        if _Notice.came:
            raise Preempted
        yield
    finally:
        _Notice.let_through = False


def _on_sigterm(number: int, frame) -> None:
    del number, frame
    _Notice.came = True
    if _Notice.let_through or not _Notice.held_back:
        raise Preempted


def _watch(wakeup: socket.socket, waiting: socket.socket) -> None:
    """Ends the process where its main thread does not, and nothing is to be saved."""
    while signal.SIGTERM not in waiting.recv(64):
        pass
    time.sleep(_PATIENCE)
    if not _Notice.held_back:
        wakeup.close()
        print(STOPPED, file=sys.stderr, flush=True)
        os._exit(EXIT_STATUS)
