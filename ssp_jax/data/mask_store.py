"""Masks that one stage predicted for every clip of a data set, as the next stage reads them.

One folder for one source of clips, its clips in shards of ArrayRecord (record = the clip's
annotated frames below each other, one 8-bit grey PNG). A shard is renamed into place when it is
whole, so writing goes on where it was interrupted.
"""

import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from array_record.python import array_record_module
from jaxtyping import UInt8
from PIL import Image

from ssp_jax.errors import UserError
from ssp_jax.files import write_whole

CLIPS_PER_SHARD = 256


@dataclasses.dataclass(frozen=True)
class MaskStore:
    """Soft masks, 0..255 for 0..1, of `size` x `size` pixels, one per annotated frame.

    Attributes:
      folder: of the shards. num_clips: of the source. size: side of the masks.
    """

    folder: Path
    num_clips: int
    size: int

    def _shard(self, number: int) -> Path:
        return self.folder / f"{number:05d}.array_record"

    @property
    def num_shards(self) -> int:
        """Shards of a finished store."""
        return -(-self.num_clips // CLIPS_PER_SHARD)

    def next_clip(self) -> int:
        """The first clip that is not stored yet; `num_clips` when all are."""
        for number in range(self.num_shards):
            if not self._shard(number).exists():
                return number * CLIPS_PER_SHARD
        return self.num_clips

    def write(self, masks: Iterable[UInt8[np.ndarray, "frames size size"]]) -> None:
        """Add clips in order, from `next_clip` on; a shard appears when it is whole."""
        clip, writer, temporary = self.next_clip(), None, None
        self.folder.mkdir(parents=True, exist_ok=True)
        for frames in masks:
            if writer is None:
                target = self._shard(clip // CLIPS_PER_SHARD)
                temporary = target.with_suffix(".tmp")
                writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
            writer.write(_encode(frames))
            clip += 1
            if clip % CLIPS_PER_SHARD == 0 or clip == self.num_clips:
                writer.close()
                temporary.replace(target)
                writer = None

    def read(self, clip: int) -> UInt8[np.ndarray, "frames size size"]:
        """The masks of one clip.

        Raises:
          UserError: its shard is missing or damaged.
        """
        path = self._shard(clip // CLIPS_PER_SHARD)
        try:
            # Opened for each clip: a handle kept open could not go to worker processes, and the
            # frame cache asks for a clip once.
            reader = array_record_module.ArrayRecordReader(str(path))
            try:
                (encoded,) = reader.read([clip % CLIPS_PER_SHARD])
            finally:
                reader.close()
            stacked = np.asarray(Image.open(io.BytesIO(encoded)))
            return stacked.reshape(-1, self.size, self.size)
        except (RuntimeError, IndexError, ValueError, OSError, SyntaxError) as error:
            raise UserError(
                f"{path}: the stored masks of clip {clip} cannot be read ({error}). Delete the "
                "folder; the same command predicts them again"
            ) from error


def open_store(folder: Path, facts: dict, num_clips: int, size: int) -> MaskStore:
    """The store of a folder, new or half written; a note of what made its masks lies in it."""
    path = folder / "made_from.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(facts, indent=1, sort_keys=True))
    return MaskStore(folder, num_clips, size)


def _encode(frames: UInt8[np.ndarray, "frames size size"]) -> bytes:
    buffer = io.BytesIO()
    stacked = np.ascontiguousarray(frames.reshape(-1, frames.shape[-1]))
    Image.fromarray(stacked).save(buffer, "png", compress_level=3)
    return buffer.getvalue()
