"""Signals that ask a run to stop: it saves, says what is saved, and leaves.

A scheduler sends SIGTERM, SIGUSR1, SIGUSR2 or SIGXCPU before it takes the machine away, a lost
terminal SIGHUP, a person SIGINT by Ctrl-C; all are answered alike. The training loop holds them
back, asks for them before every step, and saves. Everywhere else nothing is lost by stopping at
once: whatever was finished is on disk.

Of several processes JAX hears the SIGTERM of any and lets all stop at one step; the other signals
are handed on to it as SIGTERM.
"""

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

import jax
from jax._src import distributed
from jax.experimental import multihost_utils

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)  # Windows has two of them
)
# "Temporary failure" of sysexits.h: the same command goes on where this one stopped.
EXIT_STATUS = 75
# Of Ctrl-C, as of any command: who repeats a command as long as it ends with 75 wants it to end.
INTERRUPTED_STATUS = 130
_GOES_ON = "the same command goes on from there"
# Python's handlers wait until XLA has compiled, which can take longer than a scheduler waits.
_PATIENCE = 3.0  # seconds
# Under which JAX's preemption service tells all processes of a SIGTERM.
_NOTICE_KEY = "RECEIVED_PREEMPTION_NOTICE"
_Item = TypeVar("_Item")


class Preempted(BaseException):
    """Raised by a signal; like KeyboardInterrupt nothing on the way should catch it.

    Its text, if it has one, says what is saved.
    """


@dataclasses.dataclass
class _Notice:
    """What is known of a signal in this process, and whether it has to wait.

    Attributes:
      number: of the first one that came. raised: it ended what was going on. said: so the user was
        told.
      held_back: it waits until somebody asks. let_through: but not now.
      alone: this process of several works while the others wait for it.
      wakeup: where Python writes the numbers of signals; set once somebody listens.
    """

    number: int | None = None
    raised: bool = False
    said: bool = False
    held_back: bool = False
    let_through: bool = False
    alone: bool = False
    wakeup: socket.socket | None = None


_notice = _Notice()
_asks = itertools.count()


def listen() -> None:
    """Take the signals as a notice from now on; call it in the main thread, and once more when the
    run's processes have found each other.

    A signal that is ignored stays so: `nohup` means it.
    """
    for number in SIGNALS:
        # Of several processes JAX has set a handler of its own for it.
        if number == signal.SIGTERM and _several():
            continue
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)
    if _notice.wakeup is None:
        _notice.wakeup, waiting = socket.socketpair()
        _notice.wakeup.setblocking(False)
        signal.set_wakeup_fd(_notice.wakeup.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(_notice, waiting), daemon=True).start()
        sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)


def asked() -> bool:
    """Tell whether to save and stop now; of several processes all get one answer.

    They have to ask equally often.
    """
    if _several():
        return multihost_utils.reached_preemption_sync_point(next(_asks))
    _notice.raised = _notice.raised or came()  # by who asks
    return came()


def until_asked(items: Iterable[_Item]) -> Iterator[_Item]:
    """The items one by one, of which all processes have as many.

    Raises:
      Preempted: a signal came; in all processes before the same item.
    """
    for item in items:
        if _several() and asked():
            raise Preempted
        yield item


def came(within: float = 0.0) -> bool:
    """Tell whether a signal came to this run, or comes within so many seconds."""
    end = time.monotonic() + within
    while not (known := _notice.number is not None or _heard_by_jax()) and time.monotonic() < end:
        time.sleep(0.05)
    return known


def leave(saved: str) -> NoReturn:
    """End the command that was stopped, with a line and a status that say so.

    Args:
      saved: text of the `Preempted`.
    """
    _say_farewell(_notice, saved)
    if _notice.number is None or _several():  # JAX has to tell the other processes
        sys.exit(_status(_notice))
    # All is saved and closed. What the interpreter's own end can still do, as crash in a library's
    # threads, would cost the status.
    with contextlib.suppress(OSError, ValueError):
        logging.shutdown()
        sys.stdout.flush()
    os._exit(_status(_notice))


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, a signal waits until somebody asks, or to the end."""
    with undisturbed():
        yield
    if not _notice.held_back:
        _raise_if_came()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within, a signal waits; for what has to be finished on the way out."""
    before, _notice.held_back = _notice.held_back, True
    try:
        yield
    finally:
        _notice.held_back = before


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Within `held_back`: raise `Preempted` all the same, for who can save then."""
    _notice.let_through = True
    try:
        _raise_if_came()
        yield
    finally:
        _notice.let_through = False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within, this process of several works while the others wait for it: a signal to any of them
    raises `Preempted` here at once. Who enters it has to tell the others."""
    if not _several():
        yield
        return
    done, _notice.alone = threading.Event(), True
    watcher = threading.Thread(target=_hear_from_jax, args=(done,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        _notice.alone = False
        done.set()
        watcher.join()


def _several() -> bool:
    """Tell whether the run has several processes, and they have found each other."""
    state = distributed.global_state
    return state.preemption_sync_manager is not None and state.num_processes > 1


def _unraisable(otherwise: Callable, args) -> None:
    """Raise `Preempted` once more where a signal found Python collecting garbage, say, where
    nothing can be raised."""
    if not isinstance(args.exc_value, Preempted):
        otherwise(args)
    elif not _several():
        _notice.raised = False
        again = threading.main_thread().ident, signal.SIGTERM
        threading.Timer(0.05, signal.pthread_kill, again).start()  # once this hook has returned


def _raise_if_came() -> None:
    """Of several processes each waits for the others, and for being asked."""
    if not _several() and came():
        _notice.raised = True
        raise Preempted


def _on_signal(number: int, frame) -> None:
    del frame
    first, at_once = _notice.number is None, not _several() or _notice.alone
    if first:
        _notice.number = number
    elif number == signal.SIGINT:
        _say("left at once; the same command goes on from the last checkpoint")
        os._exit(INTERRUPTED_STATUS)
    if at_once and (_notice.let_through or not _notice.held_back):
        if not _notice.raised:
            _notice.raised = True
            raise Preempted
    elif first:
        what = "this step is finished and saved" if at_once else "all processes stop together"
        second = "; a second Ctrl-C leaves at once" if number == signal.SIGINT else ""
        _say(f"{signal.Signals(number).name}: {what}{second}")
        if not at_once:
            os.kill(os.getpid(), signal.SIGTERM)  # to JAX, which tells all processes


def _heard_by_jax() -> bool:
    """Tell whether a SIGTERM came to any of the run's processes."""
    try:
        return _several() and bool(distributed.global_state.client.key_value_try_get(_NOTICE_KEY))
    except jax.errors.JaxRuntimeError:  # no such key
        return False


def _hear_from_jax(done: threading.Event) -> None:
    """Let a SIGTERM to any process of the run reach the main thread of this one."""
    while not done.wait(0.5):
        if _heard_by_jax():
            _notice.number = _notice.number or signal.SIGTERM
            # Any signal with our handler wakes the main thread.
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            return


def _watch(notice: _Notice, waiting: socket.socket) -> None:
    """End the process where its main thread does not, once nothing is to be saved."""
    while not set(SIGNALS) & set(waiting.recv(64)):
        pass
    time.sleep(_PATIENCE)
    while notice.held_back:
        time.sleep(_PATIENCE)
    if _several():  # all stop together, or JAX ends those that are left
        return
    _say_farewell(notice, "")
    os._exit(_status(notice))


def _status(notice: _Notice) -> int:
    return INTERRUPTED_STATUS if notice.number == signal.SIGINT else EXIT_STATUS


def _say_farewell(notice: _Notice, saved: str) -> None:
    if notice.said or (_several() and jax.process_index() > 0):
        return
    notice.said = True
    # What another process of the run heard was handed on as SIGTERM.
    name = signal.Signals(notice.number or signal.SIGTERM).name
    _say(f"stopped by {name}; {saved or 'what was finished is kept'}; {_GOES_ON}")


def _say(line: str) -> None:
    """Write to standard error from wherever a signal finds us; the terminal may be gone."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
