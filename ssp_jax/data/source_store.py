"""Records of every clip or annotated frame of a source, made once, kept beside the prepared data.

`<version folder>/<name>/<split>/`, each a `ClipStore` with a note of what its records were made of.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ssp_jax.data.clip_store import ClipStore, differences, read_note, write_note
from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError

_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True)
class SourceStore:
    """Records of a source's clips, in its index space; pickles, compares as its attributes do.

    Attributes:
      parts: the records of each of its splits.
    """

    parts: tuple[ClipStore, ...]

    def read_record(self, clip: int, decode: Callable[[bytes], _Value]) -> _Value:
        """Return what `decode` makes of a clip's record.

        Raises:
          IndexError: no such clip.
          UserError: its shard is missing or damaged.
        """
        ends = list(itertools.accumulate(part.num_clips for part in self.parts))
        part = bisect.bisect_right(ends, clip)
        if clip < 0 or part == len(ends):
            raise IndexError(f"clip {clip} of {ends[-1] if ends else 0}")
        return self.parts[part].read(clip - (ends[part - 1] if part else 0), decode)


@dataclasses.dataclass(frozen=True)
class Records:
    """One kind of records beside prepared data.

    Attributes:
      name: of their folder. what: they are, in messages. clips_per_shard: see `ClipStore`.
      how: (version folder, split) -> how they are made, for messages: "run: COMMAND".
      per_frame: of every annotated frame instead of every clip; numbered through a split, clip by
        clip.
      compressed: see `ClipStore`.
    """

    name: str
    what: str
    clips_per_shard: int
    how: Callable[[str, str], str]
    per_frame: bool = False
    compressed: bool = True

    def open(self, source: ClipSource) -> tuple[ClipStore, ...]:
        """The parts of a `SourceStore`, which `add` stored.

        Raises:
          UserError: of one split or more the records are missing, incomplete or of other data, or
            they were not made alike; names the folders and what mends it.
        """
        problems, first = [], None
        stores = tuple(self._store(part) for part in source.parts)
        for store, part in zip(stores, source.parts, strict=True):
            if not store.num_clips:
                continue  # nothing of it was ever written, nor a note
            note, how = read_note(store.folder), self.how(part.folder, part.split)
            if note is None:
                problems.append(f"{store.folder}: no {self.what} here yet. To go on, {how}")
                continue
            made = {key: note[key] for key in note.keys() - {"data", "split"}}
            first = first or (store.folder, made)
            if note.get("data") not in part.fingerprints():
                problems.append(self._of_other_data(store, part))
            elif (done := store.next_clip()) < store.num_clips:
                problems.append(
                    f"{store.folder}: half written, {done} of {store.num_clips} {store.unit}s. To "
                    f"go on, {how}"
                )
            elif differ := differences(made, first[1]):
                problems.append(
                    f"{store.folder}: not made like {first[0]} ({differ}). Delete one of them and "
                    + how
                )
        if problems:
            raise UserError("\n".join(problems))
        return stores

    def add(
        self,
        source: ClipSource,
        facts: Mapping[str, Any],
        make: Callable[[Any, int], Iterable[bytes]],
        *,
        progress: bool = True,
    ) -> None:
        """Make the records of a source's clips, unless they are there.

        May be stopped at any time: called again, it goes on. Other processes that want the same
        wait.

        Args:
          facts: what decides on the records besides the clips, as JSON values; noted.
          make: (part of the source, number) -> its records from that one on, in order. Is not
            called where nothing lacks.
          progress: show a progress bar.

        Raises:
          UserError: a folder cannot be written or holds records of other data or facts.
        """
        for part in source.parts:
            store = self._store(part)
            noted = self._noted(part, facts)
            self._check_note(store, part, noted)
            if store.next_clip() == store.num_clips:
                continue  # before any lock: a finished store may be read-only
            try:
                with store.lock():
                    self._check_note(store, part, noted)  # of whoever had the lock
                    write_note(store.folder, noted)
                    first = store.next_clip()
                    store.write(
                        tqdm(
                            make(part, first),
                            desc=f"{self.what} of {part.split}",
                            unit=store.unit,
                            initial=first,
                            total=store.num_clips,
                            disable=not progress,
                            mininterval=1.0,
                        )
                    )
            except OSError as error:
                raise UserError(
                    f"{store.folder}: cannot be written ({error}). What was written is kept; once "
                    f"there is room or permission, {self.how(part.folder, part.split)}"
                ) from error

    def lacking(self, source: ClipSource, facts: Mapping[str, Any]) -> int:
        """Count how many records `add` would make.

        Raises:
          UserError: a folder holds records of other data or facts.
        """
        stores = [self._store(part) for part in source.parts]
        for store, part in zip(stores, source.parts, strict=True):
            self._check_note(store, part, self._noted(part, facts))
        return sum(store.num_clips - store.next_clip() for store in stores)

    def _store(self, part) -> ClipStore:
        folder = Path(part.folder) / self.name / part.split
        remedy = f"Delete {folder} and {self.how(part.folder, part.split)}"
        what = f"the stored {self.what}"
        count = int(part.table().num_annotated.sum()) if self.per_frame else len(part)
        unit = "frame" if self.per_frame else "clip"
        return ClipStore(folder, count, self.clips_per_shard, what, remedy, unit, self.compressed)

    def _noted(self, part, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {"data": part.fingerprint(), "split": part.split, **facts}

    def _of_other_data(self, store: ClipStore, part) -> str:
        return (
            f"{store.folder}: made from other data than are here now: the data set was prepared "
            "anew, or what older code made was copied without its files' times. Delete that folder "
            "and " + self.how(part.folder, part.split)
        )

    def _check_note(self, store: ClipStore, part, noted: Mapping[str, Any]) -> None:
        note = read_note(store.folder)
        if note is None:
            return
        if note.get("data") not in part.fingerprints():
            raise UserError(self._of_other_data(store, part))
        if differ := differences(note, {**noted, "data": note["data"]}):
            raise UserError(
                f"{store.folder}: made with other settings ({differ}). Use it as it is, or delete "
                "it and run the same command again"
            )
