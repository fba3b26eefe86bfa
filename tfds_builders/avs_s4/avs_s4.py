"""AVSBench S4: a single sounding object a clip (avsbench 1.1)."""

from collections.abc import Mapping
from pathlib import Path

from tfds_builders import folders
from tfds_builders.clip_files import ClipFiles
from tfds_builders.folder_builder import read_start
from tfds_builders.object_builder import ObjectBuilder


class AvsS4(ObjectBuilder):
    """AVSBench S4: 5-second clips of one sounding object with binary masks.

    Splits train, val, test. Training clips are annotated in their first frame only.
    """

    BENCHMARK = "s4"
    LAYOUT = folders.S4
    SUBSET = "v1s"
    DATA = "s4_data"
    COLUMNS = ("name", "start", "category", "split")
    KEY = "name"
    IN_PATHS = ("name", "category")

    def clip_of(self, data: Path, row: Mapping[str, str]) -> ClipFiles:
        name, below = row["name"], Path(row["split"], row["category"])
        start = read_start(row["start"])
        frames = data / "visual_frames" / below / name
        masks = data / "gt_masks" / below / name
        files = [f"{name}_{number}.png" for number in range(1, self.num_frames + 1)]
        annotated = files[:1] if row["split"] == "train" else files
        return ClipFiles(
            uid=name,
            vid=name,
            subset=self.SUBSET,
            category=row["category"],
            folder=frames,
            frames=tuple(frames / file for file in files),
            labels=tuple(masks / file for file in annotated),
            sound=data / "audio_wav" / below / f"{name}.wav",
            starts_at_6=start == 6,
        )
