"""Training clips that cannot be read: others take their place, up to a number of them.

What takes the place of a frame that cannot be read, or whose sound cannot, is decided by seed,
epoch, clip and second alone. So batches stay full, and the same on every number of processes and
workers and after a restart, as long as the same files are bad.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ssp_jax.data.order import Visit
from ssp_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_STREAM = 7  # of random numbers, apart from those of `order` and `pipeline`


class Replacer:
    """Reads visits; frames of other clips where one cannot be read."""

    def __init__(self, read: Callable[[Visit], Any], counts: np.ndarray, seed: int, limit: int):
        """`counts`: usable frames of the clips. `limit`: of bad clips in one batch; 0: none."""
        self._read, self._counts, self._seed, self._limit = read, counts, seed, limit

    def __call__(self, visits: Iterable[Visit]) -> tuple[list[Any], dict[int, str]]:
        """(what fills the visits' slots, in order; bad clip -> why).

        Raises:
          UserError: of the first bad clip beyond the limit.
        """
        parts, bad = [], {}
        for visit in visits:
            try:
                parts.append(self._read(visit))
            except UserError:
                if not self._limit:
                    raise
                parts += [self._slot(visit, second, bad) for second in visit.seconds]
        return parts, bad

    def _slot(self, visit: Visit, second: int, bad: dict[int, str]) -> Any:
        """One by one: a batch may hold a part of a visit, and what it holds must not matter."""
        for instead in self._candidates(visit, second):
            try:
                return self._read(instead)
            except UserError as error:
                bad[instead.clip] = str(error)
                if len(bad) > self._limit:
                    raise _too_many(error, self._limit) from error
        raise UserError("too few training clips can be read to fill a batch")

    def _candidates(self, visit: Visit, second: int) -> Iterable[Visit]:
        yield Visit(visit.epoch, visit.clip, (second,))
        rng = np.random.default_rng([self._seed, visit.epoch, _STREAM, visit.clip, second])
        for clip in map(int, rng.permutation(np.flatnonzero(self._counts))):
            if clip != visit.clip:
                yield Visit(visit.epoch, clip, (int(rng.integers(self._counts[clip])),))


def _too_many(why: UserError | str, limit: int) -> UserError:
    return UserError(f"{why} {limit} others were left out, as config.data.max_bad_clips allows")


class Tally:
    """The bad clips of a training so far, in this process."""

    def __init__(self, limit: int):
        """`limit`: so many may be left out."""
        self._limit, self.clips = limit, set()

    def add(self, bad: dict[int, str]) -> None:
        """Bad clips of one batch, with why.

        Raises:
          UserError: they are more than may be left out.
        """
        for clip, why in bad.items():
            if clip in self.clips:
                continue
            if len(self.clips) == self._limit:
                raise _too_many(why, self._limit)
            self.clips.add(clip)
            _LOG.warning(
                "training clip left out, %d of at most %d: %s", len(self.clips), self._limit, why
            )
