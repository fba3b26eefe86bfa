"""Batches by number, made ahead by threads or worker processes of grain."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from ssp_jax.batch import AVBatch
from ssp_jax.data.bad_clips import Tally
from ssp_jax.data.reader import Slots
from ssp_jax.errors import UserError


class Batches(Iterator[AVBatch]):
    """Batches by number, decoded ahead by threads or worker processes.

    The state is the number of the next batch, since a batch depends on nothing else: it can be set
    on an iterator with another number of workers, threads or processes. Nothing starts before the
    first `next`. Close it, or use it as a context, to end its workers.
    """

    def __init__(
        self,
        make: Callable[[int], tuple[Slots, dict[int, str]]],
        count: int,
        num_workers: int,
        num_threads: int,
        tally: Tally | None = None,
    ):
        """Batches 0 .. count - 1 of `make`, which workers must be able to unpickle.

        `make` returns a batch's slots and its bad clips, which `tally` judges.
        """
        if num_workers < 0 or num_threads < 0:
            raise UserError(
                f"num_workers, num_threads: expected 0 or more, got {num_workers}, {num_threads}"
            )
        self._make, self._count, self._next = make, count, 0
        self._num_workers, self._num_threads = num_workers, num_threads
        self._tally = tally or Tally(0)
        self._ahead: grain.DatasetIterator | None = None

    def __len__(self) -> int:
        """Number of batches in all (sys.maxsize in training)."""
        return self._count

    def __next__(self) -> AVBatch:
        if self._ahead is None:
            self._ahead = self._start()
        try:
            slots, bad = next(self._ahead)
            self._tally.add(bad)
        except BaseException:
            self.close()  # also at the end: workers are not left behind
            raise
        self._next += 1
        if self._num_workers:
            # Out of grain's shared memory, which would otherwise live as long as the batch.
            slots = {name: np.array(array, subok=False) for name, array in slots.items()}
        return AVBatch(**slots)

    def _start(self) -> grain.DatasetIterator:
        threads = 1 if self._num_workers else self._num_threads
        # An element is a whole batch, so a short buffer suffices and bounds the memory.
        read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        numbers = grain.MapDataset.range(self._next, max(self._next, self._count))
        dataset = numbers.map(self._make).to_iter_dataset(read_options)
        if self._num_workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads absl flags, also outside an absl app
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._num_workers, per_worker_buffer_size=2
                )
            )
        return iter(dataset)

    def get_state(self) -> dict[str, Any]:
        """{"next_batch": number of the batch that `next` gives}, and "bad_clips" if there are."""
        bad = {"bad_clips": sorted(self._tally.clips)} if self._tally.clips else {}
        return {"next_batch": self._next, **bad}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue as the iterator would whose `get_state` gave this.

        Raises:
          UserError: this is no such state.
        """
        try:
            number = int(state["next_batch"])
            bad = {int(clip) for clip in state.get("bad_clips", ())}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"data state: expected {{'next_batch': NUMBER}}, got {state!r}; the checkpoint is"
                " of another version"
            ) from error
        self.close()
        self._next, self._tally.clips = number, bad

    def close(self) -> None:
        """Ends threads and workers; `next` would start them again where it stopped."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()
