"""Masks that one stage predicted for every clip of a data set, as the next stage reads them.

One folder for one source of clips; record = the clip's annotated frames below each other, one 8-bit
grey PNG.
"""

import dataclasses
import io
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssp_jax.data.clip_store import ClipStore, write_note

CLIPS_PER_SHARD = 256


@dataclasses.dataclass(frozen=True)
class MaskStore:
    """Soft masks, 0..255 for 0..1, of `size` x `size` pixels, one per annotated frame.

    Attributes:
      clips: the records. size: side of the masks.
    """

    clips: ClipStore
    size: int

    @property
    def folder(self) -> Path:
        """Return the folder of the shards."""
        return self.clips.folder

    def next_clip(self) -> int:
        """The first clip that is not stored yet; the number of clips when all are."""
        return self.clips.next_clip()

    def write(self, masks: Iterable[UInt8[np.ndarray, "frames size size"]]) -> None:
        """Add clips in order, from `next_clip` on; see `ClipStore.write`."""
        self.clips.write(_encode(frames) for frames in masks)

    def lock(self) -> AbstractContextManager[None]:
        """Keeps other processes from writing; waits for one that does."""
        return self.clips.lock()

    def read(self, clip: int) -> UInt8[np.ndarray, "frames size size"]:
        """The masks of one clip.

        Raises:
          UserError: its shard is missing or damaged.
        """
        return self.clips.read(clip, self._decode)

    def _decode(self, record: bytes) -> UInt8[np.ndarray, "frames size size"]:
        picture = Image.open(io.BytesIO(record), formats=("PNG",))
        return np.asarray(picture).reshape(-1, self.size, self.size)


def open_store(folder: Path, facts: dict, num_clips: int, size: int) -> MaskStore:
    """The store of a folder, new or half written; a note of what made its masks lies in it.

    The note is not compared with `facts`: the folder's name tells masks apart.
    """
    write_note(folder, facts)
    remedy = "Delete the folder; the same command predicts them again"
    clips = ClipStore(folder, num_clips, CLIPS_PER_SHARD, "the stored masks", remedy)
    return MaskStore(clips, size)


def _encode(frames: UInt8[np.ndarray, "frames size size"]) -> bytes:
    buffer = io.BytesIO()
    stacked = np.ascontiguousarray(frames.reshape(-1, frames.shape[-1]))
    Image.fromarray(stacked).save(buffer, "png", compress_level=3)
    return buffer.getvalue()
