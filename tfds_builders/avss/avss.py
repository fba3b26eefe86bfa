"""AVSBench-semantic (AVSS): classes per pixel, three subsets (avsbench 2)."""

import collections
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssp_jax.errors import UserError
from ssp_jax.json_files import load_json
from tfds_builders import folders
from tfds_builders.classes import (
    AVSS_CLASSES,
    FRAMES_PER_CLIP,
    PUBLISHED_COUNTS,
    SPLITS,
    START_6_VIDEOS,
    class_names_from_json,
)
from tfds_builders.clip_files import ClipConverter, ClipFiles
from tfds_builders.features import SUBSETS
from tfds_builders.folder_builder import FolderBuilder, require_clips
from tfds_builders.mask_files import coloured_truth
from tfds_builders.tables import Table

_COLUMNS = ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")
_COMPARED = 16  # of so many clips one is compared with labels_semantic


class Avss(FolderBuilder):
    """AVSBench-semantic: clips of 5 (v1s, v1m) and 10 seconds (v2) with classes per pixel.

    Splits are named '{split}_{subset}': train_v1s, train_v1m, train_v2, val_v1s, ... The published
    protocol trains and tests on the three subsets together. Clips of train_v1s are annotated in
    their first frame only.
    """

    BENCHMARK = "avss"
    LAYOUT = folders.AVSS

    def tables(self) -> Sequence[Path]:
        paths = (self.root / self.LAYOUT.table, self.root / "label2idx.json")
        return [path for path in paths if path.is_file()]

    def read_tables(self) -> Mapping[str, Sequence[ClipFiles]]:
        path = self.root / self.LAYOUT.table
        table = Table(path, _COLUMNS, "uid", ("uid",))
        self._class_names = self._read_class_names()
        rows = []
        for row in table.rows:
            if row["split"] not in SPLITS:
                what = f"split {row['split']!r}, expected train, val or test"
                table.refuse(row["uid"], what, "unknown_split")
            elif row["label"] not in SUBSETS:
                what = f"label (the subset) {row['label']!r}, expected v1s, v1m or v2"
                table.refuse(row["uid"], what, "unknown_subset")
            else:
                rows.append(row)
        clips: dict[str, list[ClipFiles]] = {
            f"{split}_{subset}": [] for split in SPLITS for subset in SUBSETS
        }
        for subset in SUBSETS:
            ours = [row for row in rows if row["label"] == subset]
            folder = folders.find_subset(self.root, subset, [row["uid"] for row in ours])
            for position, row in enumerate(ours):
                clip = self._clip_of(folder, row, compared=position % _COMPARED == 0)
                clips[f"{row['split']}_{subset}"].append(clip)
        self.table_problems += table.problems
        require_clips(path, clips, table.problems)
        counts = collections.Counter(dict.fromkeys(PUBLISHED_COUNTS, 0))
        counts.update((row["label"], row["split"]) for row in rows)
        self.check_published(path, counts)
        return clips

    @staticmethod
    def _clip_of(folder: Path, row: Mapping[str, str], *, compared: bool) -> ClipFiles:
        home, count = folder / row["uid"], FRAMES_PER_CLIP[row["label"]]
        annotated = 1 if (row["label"], row["split"]) == ("v1s", "train") else count
        return ClipFiles(
            uid=row["uid"],
            vid=row["vid"],
            subset=row["label"],
            category=row["a_obj"],
            folder=home,
            frames=tuple(home / "frames" / f"{i}.jpg" for i in range(count)),
            labels=tuple(home / "labels_rgb" / f"{i}.png" for i in range(annotated)),
            sound=home / "audio.wav",
            starts_at_6=row["label"] == "v1s" and row["vid"] in START_6_VIDEOS,
            compare=home / "labels_semantic" / "0.png" if compared else None,
        )

    def _read_class_names(self) -> tuple[str, ...]:
        path = self.root / "label2idx.json"
        expected = 'expected {"background": 1, "accordion": 2, ...}'
        if not path.is_file():
            self.warn(path, "missing; took the 71 published classes", "no_class_table")
            return AVSS_CLASSES
        try:
            names = class_names_from_json(load_json(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {error}; {expected}.") from error
        if names != AVSS_CLASSES:
            what = f"{len(names)} classes, which are not the 71 published ones"
            self.warn(path, what, "other_classes")
        return names

    @functools.cached_property
    def _reader(self):
        return functools.partial(coloured_truth, num_classes=len(self._class_names))

    def label_reader(self) -> ClipConverter:
        return ClipConverter(
            self._reader,
            ("unknown_colour", False),
            self.options.frame_size,
            self.options.repeat_last_frame,
        )

    def conversion_key(self) -> str:
        return str(len(self._class_names))  # the palette goes by index, names are not stored

    def names(self) -> tuple[Sequence[str], Sequence[str]]:
        return self._class_names, self._class_names[1:]
