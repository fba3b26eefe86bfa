"""One writer at a time: who comes second is told who is there, or waits for it.

The lock is the system's (flock), so that of a process that has ended, however it did, stands in
nobody's way; the file only says whose it is.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ssp_jax.errors import UserError

_LOG = logging.getLogger(__name__)
# How file systems say that they have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
_held: set[Path] = set()


class Held(Exception):
    """Another process has a lock; the text says which."""


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a run's folder, which is made if it is not there.

    A process may hold a folder several times. On an object store (gs://) there are no locks.

    Raises:
      UserError: another process writes there; the folder cannot be written.
    """
    if "://" in os.fspath(folder):
        yield
        return
    path = Path(folder).resolve() / ".lock"
    if path in _held:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path, wait=False))
        except Held as error:
            remedy = "Wait for it, stop it, or use another --workdir"
            raise UserError(f"{folder}: {error} writes there. {remedy}") from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error})") from error
        _held.add(path)
        stack.callback(_held.discard, path)
        yield


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of this file for as long as the block lasts.

    Raises:
      Held: another process has it, and nobody is to wait. OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # closing it, or the end of the process however, unlocks
        try:
            _take(file, path, wait)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _LOG.warning(
                "%s cannot be locked here (%s): see to it that one run alone writes there",
                *(path.parent, error.strerror),
            )
        file.seek(0)
        file.truncate()
        now = datetime.datetime.now().isoformat(" ", "seconds")
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        yield


def _take(file: TextIO, path: Path, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(file)
        if not wait:
            raise Held(holder) from None
        _LOG.warning("%s: %s writes there, waiting for it", path.parent, holder)
        fcntl.flock(file, fcntl.LOCK_EX)


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        facts = json.loads(file.read())
        return f"process {facts['process']} on {facts['host']} (since {facts['since']})"
    except (ValueError, KeyError, TypeError):  # it is just about to say so
        return "another process"
