"""What S4 and MS3 share (AVSBench-object): binary masks, one folder per kind of file."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfds_builders.classes import BINARY_CLASSES, FRAMES_PER_CLIP, SPLITS
from tfds_builders.clip_files import ClipConverter, ClipFiles
from tfds_builders.folder_builder import FolderBuilder, require_clips
from tfds_builders.folders import find_data
from tfds_builders.mask_files import binary_labels
from tfds_builders.tables import Table


class ObjectBuilder(FolderBuilder, skip_registration=True):
    """S4 or MS3. Subclasses say how a table's row becomes a clip."""

    SUBSET: str
    DATA: str  # folder beside the table
    COLUMNS: Sequence[str]
    KEY: str
    IN_PATHS: Sequence[str]

    def tables(self) -> Sequence[Path]:
        return (self.root / self.LAYOUT.table,)

    def clip_of(self, data: Path, row: Mapping[str, str]) -> ClipFiles:
        """Files of a row's clip.

        Raises:
          ValueError: a value that cannot be; the message says which.
        """
        raise NotImplementedError

    def read_tables(self) -> Mapping[str, Sequence[ClipFiles]]:
        (path,) = self.tables()
        table = Table(path, self.COLUMNS, self.KEY, self.IN_PATHS)
        data = find_data(self.root, self.DATA, "visual_frames")
        clips: dict[str, list[ClipFiles]] = {split: [] for split in SPLITS}
        for row in table.rows:
            if row["split"] not in SPLITS:
                what = f"split {row['split']!r}, expected train, val or test"
                table.refuse(row[self.KEY], what, "unknown_split")
                continue
            try:
                clips[row["split"]].append(self.clip_of(data, row))
            except ValueError as error:
                table.refuse(row[self.KEY], str(error), "bad_value")
        self.table_problems += table.problems
        require_clips(path, clips, table.problems)
        counts = collections.Counter({(self.SUBSET, s): len(clips[s]) for s in SPLITS})
        self.check_published(path, counts)
        return clips

    def label_reader(self) -> ClipConverter:
        return ClipConverter(
            binary_labels,
            ("mask_of_0_and_1", True),
            self.options.frame_size,
            self.options.repeat_last_frame,
        )

    def names(self) -> tuple[Sequence[str], Sequence[str]]:
        clips = [clip for split in self._clips.values() for clip in split]
        return BINARY_CLASSES, sorted({clip.category for clip in clips if clip.category})

    @property
    def num_frames(self) -> int:
        """Frames of every clip."""
        return FRAMES_PER_CLIP[self.SUBSET]
