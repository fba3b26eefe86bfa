"""Threads and processes that convert clips, and their end."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from ssp_jax.errors import UserError

_MOST = 8


@contextlib.contextmanager
def workers(*, processes: bool) -> Iterator[concurrent.futures.Executor]:
    """Start as many as there are cores, and no more than 8; they end with the block.

    Processes are fresh ones, since the parent may run JAX, whose threads do not survive a fork.
    """
    count = min(os.cpu_count() or 1, _MOST)
    if processes:
        executor = concurrent.futures.ProcessPoolExecutor(
            count, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
    else:
        executor = concurrent.futures.ThreadPoolExecutor(count)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker process with its parent: of one that was killed the workers would wait for
    ever with their results."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def script_without_guard() -> str:
    """Return the script that runs, where it nowhere asks whether it is `__main__`; else ''.

    To be asked where worker processes ended: they began by reading that script.
    """
    path = getattr(sys.modules["__main__"], "__file__", None)
    try:
        return "" if path is None or "__main__" in Path(path).read_text() else path
    except (OSError, ValueError):
        return ""


def check_guard(target: Path) -> None:
    """Refuse to prepare `target` in a worker that is only just reading its parent's script anew: it
    would wait for the lock that its parent holds.

    Raises:
      UserError: so it is, since the script has no guard.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            f"{target}: prepared by a script that has no if __name__ == '__main__': around what it "
            "does, which the worker processes need. Put that there"
        )
