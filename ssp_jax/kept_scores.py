"""What a scoring has counted so far, kept on disk: an interrupted one goes on from there.

The counts are whole numbers of single frames, so a scoring that was interrupted ends with the same
numbers, bit by bit, as one that was not.
"""

import contextlib
import dataclasses
import io
import json
import logging
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from ssp_jax import preemption
from ssp_jax.batch import AVBatch
from ssp_jax.data.batches import Batches
from ssp_jax.errors import UserError
from ssp_jax.evaluators.frame_facts import FrameFacts
from ssp_jax.evaluators.motion import MotionState
from ssp_jax.files import write_whole
from ssp_jax.metrics_counts import FrameCounts
from ssp_jax.processes import is_first

SAVE_EVERY = 60.0  # seconds
_ABOUT, _STATE, _FRAMES = "about", "state:", "frames:"
_CONFUSION, _MOTION = "confusion", "motion"
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Counts:
    """The counts of all frames scored so far, from which results and a report's record are made.

    Attributes:
      states: predictor -> its state; "" is the network. May be empty.
      facts: for the report, or None. motion: zeros where the data do not say what moves.
    """

    states: Mapping[str, FrameCounts]
    facts: FrameFacts | None = None
    motion: MotionState = dataclasses.field(default_factory=MotionState)

    def gathered(self) -> dict[str, np.ndarray]:
        """Return the counts of all processes as arrays by name; each process has to ask."""
        arrays = {
            f"{_STATE}{name}:{key}": value
            for name, state in self.states.items()
            for key, value in state.gathered().items()
        }
        if self.facts is not None:
            frames = self.facts.frames.gathered()
            arrays |= {f"{_FRAMES}{key}": value for key, value in frames.items()}
            arrays[_CONFUSION] = self.facts.confusion_of_all()
        motion = dataclasses.astuple(self.motion.over_processes())
        return arrays | {_MOTION: np.array(motion, np.int64)}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "Counts":
        """Return counts of the same kind, with what `gathered` gave; all of it in process 0.

        The others get arrays without a frame, since the counts of all processes are added up.
        """
        if not is_first():
            arrays = {name: _nothing_of(name, value) for name, value in arrays.items()}
        kind = type(self.states.get("", FrameCounts()))
        states: dict[str, dict[str, np.ndarray]] = {}
        for name in arrays:
            if name.startswith(_STATE):
                predictor, _, key = name.removeprefix(_STATE).rpartition(":")
                states.setdefault(predictor, {})[key] = arrays[name]
        frames = {k.removeprefix(_FRAMES): v for k, v in arrays.items() if k.startswith(_FRAMES)}
        facts = self.facts and FrameFacts(FrameCounts((frames,)), arrays[_CONFUSION])
        motion = MotionState(*arrays[_MOTION].tolist())
        return Counts({name: kind((chunk,)) for name, chunk in states.items()}, facts, motion)


def _nothing_of(name: str, value: np.ndarray) -> np.ndarray:
    of_frames = name.startswith((_STATE, _FRAMES))
    return value[:0] if of_frames else np.zeros_like(value)


@dataclasses.dataclass(frozen=True)
class Keeper:
    """Keeps the counts of one stage's scorings, a file for each.

    Attributes:
      folder: of the files. identity: what decides on counts besides the data set and the sound, as
        JSON values; counts of another identity are never taken up.
    """

    folder: Path
    identity: Mapping[str, Any]

    def at(self, name: str, **about: Any) -> "KeptCounts":
        """Return the place of one scoring's counts, by its `name` and what it is `about`."""
        about = json.dumps({**self.identity, **about}, sort_keys=True)
        return KeptCounts(self.folder / f"{name}.npz", about)


@dataclasses.dataclass(frozen=True)
class KeptCounts:
    """Counts of one scoring on disk. Attributes: path: of the file. about: of what, as text."""

    path: Path
    about: str

    def read(self, empty: Counts) -> tuple[int, Counts]:
        """Return the number of batches that were counted, and their counts; (0, empty) at first.

        Raises:
          UserError: this process does not see the file that process 0 sees.
        """
        done, counts = self._read(empty)
        if jax.process_count() > 1:
            seen = multihost_utils.process_allgather(np.array(done)).tolist()
            if len(set(seen)) > 1:
                raise UserError(
                    f"{self.path}: process {jax.process_index()} does not find there what process "
                    "0 wrote. Name a --workdir that all machines share"
                )
        return done, counts

    def _read(self, empty: Counts) -> tuple[int, Counts]:
        if not self.path.exists():
            return 0, empty
        try:
            content = io.BytesIO(self.path.read_bytes())
            with np.load(content, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(arrays.pop(_ABOUT).tobytes())
            if about["of"] != self.about:
                _LOG.warning("%s: counted of something else; is counted anew", self.path)
                return 0, empty
            return int(about["done"]), empty.with_arrays(arrays)
        except _UNREADABLE as error:
            _LOG.warning("%s: damaged (%s); is counted anew", self.path, error)
            return 0, empty

    def forget(self) -> None:
        """Let the next `read` begin at the first batch."""
        self.path.unlink(missing_ok=True)

    def write(self, done: int, counts: Counts) -> None:
        """Keep the counts of the first `done` batches, whole or not at all; all processes call."""
        arrays = counts.gathered()
        if not is_first():
            return
        about = json.dumps({"of": self.about, "done": done}).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, **{_ABOUT: np.frombuffer(about, np.uint8)}, **arrays)
        write_whole(self.path, content.getvalue())


def count(
    batches: Batches,
    add: Callable[[Counts, AVBatch], Counts],
    empty: Counts,
    kept: KeptCounts | None = None,
    *,
    title: str = "",
) -> Counts:
    """Return the counts of all batches: `add` of `add` of ... `empty`.

    Args:
      add: (counts so far, a host batch) -> counts with the batch.
      kept: where an interrupted count goes on from, and is kept every minute and when it is
        stopped. `title`: of its progress bar.

    Raises:
      Preempted: a signal came.
    """
    if kept is None:
        counts = empty
        for batch in preemption.until_asked(batches):
            counts = add(counts, batch)
        return counts
    # One name for both, so that a signal between two instructions cannot part them.
    progress = saved = kept.read(empty)
    if progress[0] == len(batches):
        return progress[1]
    batches.set_state({"next_batch": progress[0]})
    bar = tqdm(
        desc=title,
        unit="batch",
        initial=progress[0],
        total=len(batches),
        mininterval=1.0,
        disable=not is_first(),
    )
    clock = time.monotonic()
    try:
        with bar:
            for batch in preemption.until_asked(batches):
                progress = (progress[0] + 1, add(progress[1], batch))
                bar.update()
                if _agreed(time.monotonic() - clock >= SAVE_EVERY):
                    kept.write(*progress)
                    saved, clock = progress, time.monotonic()
        kept.write(*progress)
    except BaseException as error:
        # All processes are asked to stop before one batch; an error is one process's own.
        together = jax.process_count() == 1 or isinstance(error, preemption.Preempted)
        if together and progress[0] > saved[0]:
            with contextlib.suppress(OSError):  # the reason why it stops is the one to tell
                kept.write(*progress)
        raise
    return progress[1]


def _agreed(due: bool) -> bool:
    """Return what process 0 says: all have to save the same batches."""
    if jax.process_count() == 1:
        return due
    return bool(multihost_utils.broadcast_one_to_all(np.array(due)))
