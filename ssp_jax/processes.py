"""Several processes of one run, on one machine or many: starting, taking turns, adding up.

All run the same program. Only process 0 writes into the run's folder, and it prepares what the
others then read; checkpoints are written by all of them.
"""

import itertools
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import Shaped

from ssp_jax import preemption
from ssp_jax.devices import add_threads
from ssp_jax.errors import UserError
from ssp_jax.waiting import waiting_is_told

_LOG = logging.getLogger(__name__)
_Value = TypeVar("_Value")
_turns = itertools.count()
_LONGEST_TURN = 7 * 24 * 3600  # seconds; preparing AVSS and its flow can take a day
# Of one process that stops with an error until the others are stopped too.
_SHUTDOWN_TIMEOUT = 60


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the run's other processes; call it before any JAX computation.

    Without arguments JAX looks for them itself (a TPU pod slice, GKE, SLURM, Open MPI), and where
    it finds none, the run has this process alone. So it has with `num_processes` 1 and nothing
    else, whatever JAX would find. Where others are waited for, a line says for whom.

    Args:
      coordinator: 'host:port' of process 0.

    Raises:
      UserError: only some of the three are given, or they cannot be, or the others cannot be found.
    """
    add_threads()
    given = (coordinator, num_processes, process_id)
    if given == (None, 1, None):
        return
    if any(value is not None for value in given) and None in given:
        raise UserError(
            f"--coordinator={coordinator}, --num_processes={num_processes}, "
            f"--process_id={process_id}: expected all three, or none where JAX finds out by "
            "itself, or --num_processes=1 alone"
        )
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT of process 0")
    try:
        with waiting_is_told(found_by_jax=coordinator is None) as timeout:
            jax.distributed.initialize(
                *given,
                initialization_timeout=timeout,
                shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
            )
    except ValueError as error:
        # How JAX says that it knows of no cluster here.
        if coordinator is None and "coordinator_address" in str(error):
            return
        raise UserError(f"the run's processes cannot be started: {error}") from error
    except RuntimeError as error:
        raise UserError(
            f"the run's processes do not find each other ({str(error).splitlines()[0]}). Is "
            "process 0 running, and its port open?"
        ) from error
    if jax.process_count() > 1:
        if jax.default_backend() == "cpu":
            # CPU processes have keys of their own, and process 0 alone writes: at the next start it
            # would load what the others compile, and such halves of a program wait for each other
            # for ever (jax 0.10.2).
            jax.config.update("jax_enable_compilation_cache", False)
        _LOG.info(
            "process %d of %d, with %d of %d devices",
            *(jax.process_index(), jax.process_count()),
            *(jax.local_device_count(), jax.device_count()),
        )


def is_first() -> bool:
    """Tell whether this is process 0, which writes and speaks for all."""
    return jax.process_index() == 0


def in_turn(make: Callable[[], _Value]) -> _Value:
    """Return what `make` gives: process 0 makes it first, so that the others find its files.

    Raises:
      UserError: that of `make`; in the processes where it went well, that it failed in another.
      Preempted: a signal came to one of them; in all.
    """
    if jax.process_count() == 1:
        return make()
    value = error = None
    for mine in (is_first(), not is_first()):
        if mine:
            try:
                with preemption.alone():
                    value = make()
            except (UserError, preemption.Preempted) as caught:
                error = caught
        ends = _ends(error)
        if preemption.Preempted in ends:
            raise error or preemption.Preempted
        if UserError in ends:
            raise error or UserError("another process stopped; its own message says why")
    return value


def _ends(error: BaseException | None) -> set[type]:
    """Return how the turn ended in each of the processes, once it has in all."""
    kinds = (type(None), UserError, preemption.Preempted)
    number = next(n for n, kind in enumerate(kinds) if isinstance(error, kind))
    # JAX's own barrier is a computation on the devices, which are not to be kept waiting for hours.
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f"ssp_jax turn {next(_turns)}", timeout_ms=1000 * _LONGEST_TURN)
    numbers = multihost_utils.process_allgather(np.array(number))
    return {kinds[number] for number in numbers.tolist()}


def gather_rows(
    rows: Mapping[str, Shaped[np.ndarray, "N ..."]],
) -> dict[str, Shaped[np.ndarray, "M ..."]]:
    """The rows of all processes, those of one after those of the other; the same in each.

    Args:
      rows: arrays with one leading axis, whose length may differ between processes; their names
        may not.
    """
    if jax.process_count() == 1 or not rows:
        return dict(rows)
    count = len(next(iter(rows.values())))
    counts = multihost_utils.process_allgather(np.array(count)).tolist()
    gathered = {}
    for name, values in rows.items():
        # As bytes, since JAX would make 32 bits of 64.
        padded = np.zeros((max(counts), *values.shape[1:]), values.dtype)
        padded[:count] = values
        data = multihost_utils.process_allgather(padded.reshape(max(counts), -1).view(np.uint8))
        parts = [part[:n] for part, n in zip(np.asarray(data), counts, strict=True)]
        together = np.ascontiguousarray(np.concatenate(parts)).view(values.dtype)
        gathered[name] = together.reshape(sum(counts), *values.shape[1:])
    return gathered
