"""A clip as files in a folder, and its conversion with every check."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tfds_builders.mask_files import MaskFile, grey_values, mask_file
from tfds_builders.pictures import encode_labels, open_picture, stored_frame
from tfds_builders.problems import ClipResult, Problem
from tfds_builders.sound_file import num_windows, read_waveform

# Mask file -> (labels, message about unknown colours or an unusual coding).
LabelReader = Callable[[MaskFile], tuple[np.ndarray, str | None]]


@dataclasses.dataclass(frozen=True)
class ClipFiles:
    """Where a clip's files should be, and what the tables say of it.

    Attributes:
      uid, vid, subset, category: as in `clip_features`.
      folder: where its frames are, for messages.
      frames: T paths. labels: A paths, of the first A frames. sound: path.
      starts_at_6: the clip starts at second 6 of ten (avsbench 1.1): its fifth frame may be absent.
      compare: `labels_semantic` file of the first frame, where this clip is in the sample that is
        compared with the colour-coded labels.
    """

    uid: str
    vid: str
    subset: str
    category: str
    folder: Path
    frames: tuple[Path, ...]
    labels: tuple[Path, ...]
    sound: Path
    starts_at_6: bool = False
    compare: Path | None = None

    def paths(self) -> tuple[Path, ...]:
        """All files of the clip."""
        extra = () if self.compare is None else (self.compare,)
        return (*self.frames, *self.labels, self.sound, *extra)

    def stats(self, root: Path) -> list[tuple[str, int, int]]:
        """(path below root, size in bytes, date in ns) of every file; size -1 where absent."""
        found = []
        for path in self.paths():
            try:
                stat = os.stat(path)
                size, date = stat.st_size, stat.st_mtime_ns
            except OSError:
                size, date = -1, 0
            found.append((os.path.relpath(path, root), size, date))
        return found


@dataclasses.dataclass(frozen=True)
class ClipConverter:
    """Turns a clip's files into its example; finds everything that is wrong with it at once.

    Attributes:
      read_labels: of one label file.
      label_note: kind of the finding that `read_labels` may add to its labels, and whether it is
        only a warning.
      frame_size: see Options. repeat_last_frame: likewise.
    """

    read_labels: LabelReader
    label_note: tuple[str, bool]
    frame_size: int | None
    repeat_last_frame: bool

    def __call__(self, clip: ClipFiles) -> ClipResult:
        """Example (see `clip_features`) or, where something is missing or damaged, problems."""
        return _Conversion(self, clip).run()


class _Conversion:
    """One clip's conversion: gathers findings while it goes through the files."""

    def __init__(self, how: ClipConverter, clip: ClipFiles):
        self.how, self.clip = how, clip
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.whole = True

    def run(self) -> ClipResult:
        clip = self.clip
        if any(path.exists() for path in (*clip.frames, *clip.labels, clip.sound)):
            frames, sizes = self._frames()
            labels = self._labels(sizes)
            waveform = self._waveform()
        else:  # one line instead of one for each of its files
            count = len(clip.frames) + len(clip.labels) + 1
            self._bad(clip.folder, f"missing clip: none of its {count} files", "missing_clip")
        example = None
        if self.whole:
            if len(frames) > len(sizes):
                self._warn(clip.frames[-1], "repeats its last frame", "repeated_frame")
            annotated = np.arange(len(frames)) < len(labels)
            example = {
                "uid": clip.uid,
                "vid": clip.vid,
                "subset": clip.subset,
                "category": clip.category,
                "frames": frames,
                "labels": labels,
                "waveform": waveform,
                "annotated": annotated,
                "texts": {"scene": "", "sounding": ""},
            }
        return ClipResult(clip.uid, example, tuple(self.problems), tuple(self.warnings))

    def _bad(self, path: Path, what: str, kind: str) -> None:
        self.whole = False
        self.problems.append(Problem(self.clip.uid, str(path), what, kind))

    def _warn(self, path: Path, what: str, kind: str) -> None:
        self.warnings.append(Problem(self.clip.uid, str(path), what, kind))

    def _open(self, path: Path, what: str) -> tuple[Image.Image, bytes] | None:
        try:
            return open_picture(path)
        except FileNotFoundError:
            self._bad(path, f"missing {what}", f"missing_{what.split()[0]}")
        except ValueError as error:
            self._bad(path, f"{what}: {error}", f"unreadable_{what.split()[0]}")
        return None

    def _last_frame_absent(self) -> bool:
        *others, last = self.clip.frames
        return self.clip.starts_at_6 and not last.exists() and all(p.exists() for p in others)

    def _frames(self) -> tuple[list[bytes], list[tuple[int, int] | None]]:
        """Stored frames, and the (width, height) of each that was read."""
        clip, frames, sizes = self.clip, [], []
        count = len(clip.frames)
        paths = clip.frames
        if self._last_frame_absent():
            paths = clip.frames[:-1]
            if not self.how.repeat_last_frame:
                self._bad(
                    clip.frames[-1],
                    f"missing frame {count} of {count}: this video starts at second 6 of 10, so"
                    f" frames cut anew are only {count - 1}; take the released frames, or add"
                    " --repeat_last_frame to repeat the last one",
                    "start_at_6",
                )
        for number, path in enumerate(paths, 1):
            opened = self._open(path, f"frame {number} of {count}")
            sizes.append(opened and opened[0].size)
            if opened:
                frames.append(stored_frame(*opened, self.how.frame_size))
        if self.how.repeat_last_frame and len(paths) < count and frames:
            frames.append(frames[-1])
        return frames, sizes

    def _labels(self, sizes: list[tuple[int, int] | None]) -> list[bytes]:
        """PNGs of class indices; a repeated frame is annotated only by a mask of its own."""
        clip, labels = self.clip, []
        repeated = self._last_frame_absent()
        for position, path in enumerate(clip.labels):
            frame = min(position, len(sizes) - 1)
            if repeated and position == len(sizes) and not path.exists():
                break
            opened = self._open(path, f"mask {position + 1} of {len(clip.labels)}")
            if not opened:
                continue
            picture, encoded = opened
            if sizes[frame] and picture.size != sizes[frame]:
                (width, height), (frame_width, frame_height) = picture.size, sizes[frame]
                self._bad(
                    path,
                    f"mask of {width} x {height} pixels, its frame has"
                    f" {frame_width} x {frame_height}",
                    "mask_size",
                )
                continue
            try:
                values, note = self.how.read_labels(mask_file(picture, encoded))
            except ValueError as error:
                self._bad(path, str(error), "mask_values")
                continue
            if note:
                kind, harmless = self.how.label_note
                found = Problem(clip.uid, str(path), note, kind)
                (self.warnings if harmless else self.problems).append(found)
            if position == 0:
                self._compare(values)
            labels.append(encode_labels(values))
        return labels

    def _compare(self, values: np.ndarray) -> None:
        """Compares colour-coded labels with the file of indices, which is only a cross-check."""
        path = self.clip.compare
        if path is None:
            return
        try:
            mask = mask_file(*open_picture(path))
            other = grey_values(mask) if mask.classes is None else mask.classes
        except (FileNotFoundError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            what = "missing file" if missing else str(error)
            self._warn(path, f"labels_rgb could not be compared: {what}", "not_compared")
            return
        if other.shape != values.shape:
            self._warn(path, "another size than labels_rgb, which was used", "labels_disagree")
        elif (differing := int((other != values).sum())) > 0:
            self._warn(
                path,
                f"differs from labels_rgb, which was used, in {differing} of {other.size} pixels",
                "labels_disagree",
            )

    def _waveform(self) -> np.ndarray | None:
        path, wanted = self.clip.sound, len(self.clip.frames)
        if not path.exists():
            return self._bad(path, "missing sound: the clip has no audio", "missing_sound")
        try:
            waveform = read_waveform(path)
        except ValueError as error:
            return self._bad(path, str(error), "bad_sound")
        found = num_windows(len(waveform))
        if found < wanted:
            self._warn(
                path,
                f"the sound has {found} windows of 0.96 s, expected {wanted}, one a frame",
                "short_sound",
            )
        return waveform


def digest(parts: object) -> str:
    """SHA-256 of the printed form of tuples, lists, strings and numbers."""
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()
