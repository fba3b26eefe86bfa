"""What a process says, and does in the end, while it waits for the others of its run to start."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator

# Orbax looks there, too. JAX has no public place that tells before the others have come.
from jax._src import distributed

_LOG = logging.getLogger(__name__)
_SILENT = 5.0  # seconds, in which processes that are started together find each other
_LONGEST = 300.0
# In the order in which JAX looks: who counts the processes, and what starts as many.
_LAUNCHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "SLURM_NTASKS": "srun"}


@contextlib.contextmanager
def waiting_is_told(*, found_by_jax: bool) -> Iterator[int]:
    """Within, `jax.distributed.initialize` may wait: say for whom, end the process after 300 s.

    Args:
      found_by_jax: whether JAX found out by itself that there are others.

    Yields:
      The timeout to give to JAX: longer, since JAX ends by a stack trace.
    """
    joined = threading.Event()
    threading.Thread(target=_watch, args=(joined, found_by_jax), daemon=True).start()
    try:
        yield round(_LONGEST) + 60
    finally:
        joined.set()


def _watch(joined: threading.Event, found_by_jax: bool) -> None:
    if joined.wait(_SILENT):
        return
    _LOG.warning("%s", _whom(found_by_jax))
    if joined.wait(_LONGEST - _SILENT):
        return
    print(f"error: not all came in {_LONGEST:.0f} s: {_whom(found_by_jax)}", file=sys.stderr)
    os._exit(1)


def _whom(found_by_jax: bool) -> str:
    """Return one line: who waits, how JAX knows that there are others, and what to do."""
    state = distributed.global_state
    if state.coordinator_address is None:
        return "JAX looks for the other processes of this run; --num_processes=1 goes without"
    count, place = state.num_processes, f"at {state.coordinator_address}"
    others = "the other" if count == 2 else f"{count - 1} others"
    if not found_by_jax:
        return (
            f"process {state.process_id} of {count} waits for {others} {place}. Start one with "
            f"each --process_id from 0 to {count - 1}"
        )
    says = [name for name in _LAUNCHERS if os.environ.get(name) == str(count)]
    why, how = "as JAX found out", "Start so many"
    if says:
        why, how = f"{says[0]}={count}", f"{_LAUNCHERS[says[0]]} starts so many"
    return (
        f"process {state.process_id} of {count} ({why}) waits for {others} {place}. {how}; for a "
        "run of this process alone add --num_processes=1"
    )
