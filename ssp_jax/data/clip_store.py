"""One record of bytes for every clip of a data set: written once, in order; read in any order.

A folder of ArrayRecord shards (which compress by themselves, unless told not to, and check
themselves) and a note of what the records were made from. A shard is renamed into place when it is
whole, so writing goes on where it was interrupted; its last record says which shard it is.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from array_record.python import array_record_module
from PIL.Image import DecompressionBombError

from ssp_jax.errors import UserError
from ssp_jax.files import write_whole
from ssp_jax.folder_lock import lock
from ssp_jax.json_files import load_json

NOTE = "made_from.json"
_Value = TypeVar("_Value")
_UNREADABLE = (RuntimeError, ValueError, OSError, EOFError, SyntaxError)


@dataclasses.dataclass(frozen=True)
class ClipStore:
    """Records of the clips 0 .. num_clips - 1; pickles, compares as its attributes do.

    Attributes:
      folder: of the shards. num_clips: of the source. clips_per_shard: what an interruption can
        lose; never change it for a folder.
      what: the records, in messages. remedy: what to do where one cannot be read.
      unit: what has a record, in messages: a clip; or a frame, to which then applies what is said
        of clips here.
      compressed: False for records that compressing would not make smaller.
    """

    folder: Path
    num_clips: int
    clips_per_shard: int
    what: str
    remedy: str
    unit: str = "clip"
    compressed: bool = True

    def _shard(self, number: int) -> Path:
        return self.folder / f"{number:05d}.array_record"

    def next_clip(self) -> int:
        """The first clip that is not stored yet; `num_clips` when all are."""
        for clip in range(0, self.num_clips, self.clips_per_shard):
            if not self._shard(clip // self.clips_per_shard).exists():
                return clip
        return self.num_clips

    def write(self, records: Iterable[bytes]) -> None:
        """Add clips in order, from `next_clip` on; a shard appears when it is whole.

        Raises:
          UserError: the disk is full.
        """
        clip, writer, temporary = self.next_clip(), None, None
        self.folder.mkdir(parents=True, exist_ok=True)
        for record in records:
            if writer is None:
                target = self._shard(clip // self.clips_per_shard)
                temporary = target.with_suffix(".tmp")
                options = "group_size:1" + ("" if self.compressed else ",uncompressed")
                writer = array_record_module.ArrayRecordWriter(str(temporary), options)
            clip += 1
            whole = clip % self.clips_per_shard == 0 or clip == self.num_clips
            try:
                writer.write(record)
                if whole:
                    writer.write(self._place(target))
                    writer.close()
            except RuntimeError as error:
                raise UserError(
                    f"{temporary}: cannot be written ({error}). What was finished is kept; once "
                    "there is room, the same command goes on"
                ) from error
            if whole:
                temporary.replace(target)
                writer = None

    def read(self, clip: int, decode: Callable[[bytes], _Value]) -> _Value:
        """Return what `decode` makes of a clip's record.

        Raises:
          UserError: the shard is missing or damaged, or the record is not to be decoded.
        """
        path = self._shard(clip // self.clips_per_shard)
        try:
            # Opened for each clip (0.1 ms): a handle kept open could not go to worker processes.
            reader = array_record_module.ArrayRecordReader(str(path))
            try:
                (record,) = reader.read([clip % self.clips_per_shard])
                self._check_place(path, reader)
            finally:
                reader.close()
            return decode(record)
        # ArrayRecord's, NumPy's (also where a header claims absurd sizes) and Pillow's.
        except (*_UNREADABLE, IndexError, MemoryError, DecompressionBombError) as error:
            raise UserError(
                f"{path}: {self.what} of {self.unit} {clip} cannot be read ({error}). {self.remedy}"
            ) from error

    def _place(self, shard: Path) -> bytes:
        """The last record of a shard: where it belongs."""
        return f"{self.what} of {shard.parent.name}/{shard.name}".encode()

    def _check_place(self, shard: Path, reader) -> None:
        first = self.clips_per_shard * int(shard.stem)
        count = min(self.clips_per_shard, self.num_clips - first)
        stored = reader.num_records()
        if stored == count:
            return  # as older code wrote it
        (place,) = reader.read([count]) if stored == count + 1 else (b"",)
        if place != self._place(shard):
            found = place[:200].decode(errors="replace") or f"a file of {stored} records"
            raise ValueError(f"it is not this file, but {found}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from writing; waits for one that does."""
        with lock(self.folder / ".lock"):
            yield


def read_note(folder: Path) -> dict[str, Any] | None:
    """Return what the records of a folder were made from; None where nothing was begun.

    Raises:
      UserError: the note is damaged.
    """
    path = folder / NOTE
    try:
        note = load_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Delete {folder}") from error
    if not isinstance(note, dict):
        raise UserError(f"{path}: expected a JSON object. Delete {folder}")
    return note


def write_note(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Say what a folder's records are made from, unless it is said already."""
    if not (folder / NOTE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / NOTE, json.dumps(made_from, indent=1, sort_keys=True))


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """'size: 112 there, 64 asked for; ...', empty where the two say the same."""
    wanted = json.loads(json.dumps(wanted))  # tuples become lists, as in a note
    keys = sorted(stored.keys() | wanted.keys())
    return "; ".join(
        f"{key}: {stored.get(key)} there, {wanted.get(key)} asked for"
        for key in keys
        if stored.get(key) != wanted.get(key)
    )
