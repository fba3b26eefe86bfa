"""Which frames fill which slots: packing decided on indices, before anything is read.

The training stream is one endless list of frame slots: epoch after epoch, each in its own order of
clips, without gaps. Batch b holds the slots b N .. b N + N - 1, whatever the number of processes
or workers, so every batch is full, has one shape, and is known from b alone. A clip may straddle
two batches; its visit keeps the same random choices there.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from ssp_jax.errors import UserError

_ORDER, _FRAMES = 0, 1  # streams of random numbers, so that one choice does not shift another


@dataclasses.dataclass(frozen=True)
class Visit:
    """Some seconds (0-based, ascending) of a clip, in an epoch."""

    epoch: int
    clip: int
    seconds: tuple[int, ...]


class TrainOrder:
    """The endless, shuffled stream of training slots."""

    def __init__(self, counts: Int[np.ndarray, " clips"], seed: int, per_visit: int | None = None):
        """Orders clips with `counts` usable frames each (the first ones of each clip).

        `per_visit`: at most so many random frames of a clip in an epoch instead of all.

        Raises:
          UserError: there is no usable frame, or per_visit is below 1.
        """
        if per_visit is not None and per_visit < 1:
            raise UserError(f"frames_per_clip: expected 1 or more, or None, got {per_visit}")
        self._counts, self._seed, self._per_visit = np.asarray(counts), seed, per_visit
        self._taken = self._counts if per_visit is None else np.minimum(self._counts, per_visit)
        self.epoch_size = int(self._taken.sum())  # slots an epoch
        if self.epoch_size == 0:
            raise UserError("the training clips hold no usable frame (none is annotated)")
        self._epoch = functools.lru_cache(maxsize=4)(self._shuffled)

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if key != "_epoch"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._epoch = functools.lru_cache(maxsize=4)(self._shuffled)

    def _shuffled(self, epoch: int):
        clips = np.random.default_rng([self._seed, epoch, _ORDER]).permutation(len(self._counts))
        return clips, np.cumsum(self._taken[clips])

    def visits(self, start: int, stop: int) -> Iterator[Visit]:
        """Yield what fills the slots start .. stop - 1 of the stream, in order."""
        while start < stop:
            epoch, place = divmod(start, self.epoch_size)
            clips, ends = self._epoch(epoch)
            rank = int(np.searchsorted(ends, place, side="right"))
            clip, end = int(clips[rank]), int(ends[rank])
            first = place - (end - int(self._taken[clip]))
            count = min(end - place, stop - start)
            yield Visit(epoch, clip, self._seconds(epoch, clip)[first : first + count])
            start += count

    def _seconds(self, epoch: int, clip: int) -> tuple[int, ...]:
        count, taken = int(self._counts[clip]), int(self._taken[clip])
        if taken == count:
            return tuple(range(count))
        rng = np.random.default_rng([self._seed, epoch, _FRAMES, clip])
        return tuple(sorted(rng.choice(count, taken, replace=False).tolist()))


class EvalOrder:
    """Every clip once, in order, with its first `counts` frames."""

    def __init__(self, counts: Int[np.ndarray, " clips"]):
        self._ends = np.cumsum(counts)
        self._counts = np.asarray(counts)
        self.epoch_size = int(self._counts.sum())

    def visits(self, start: int, stop: int) -> Iterator[Visit]:
        """Yield what fills the slots start .. stop - 1, fewer at the end of the data."""
        stop = min(stop, self.epoch_size)
        while start < stop:
            clip = int(np.searchsorted(self._ends, start, side="right"))
            end = int(self._ends[clip])
            first = start - (end - int(self._counts[clip]))
            count = min(end, stop) - start
            yield Visit(0, clip, tuple(range(first, first + count)))
            start += count
