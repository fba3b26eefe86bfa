"""AVSBench MS3: several objects that may sound, in turn or together (avsbench 1.2)."""

from collections.abc import Mapping
from pathlib import Path

from tfds_builders import folders
from tfds_builders.clip_files import ClipFiles
from tfds_builders.object_builder import ObjectBuilder


class AvsMs3(ObjectBuilder):
    """AVSBench MS3: 5-second clips of several sounding objects with binary masks.

    Splits train, val, test; every frame is annotated. The data set does not say what sounds.
    """

    BENCHMARK = "ms3"
    LAYOUT = folders.MS3
    SUBSET = "v1m"
    DATA = "ms3_data"
    COLUMNS = ("video_id", "split")
    KEY = "video_id"
    IN_PATHS = ("video_id",)

    def clip_of(self, data: Path, row: Mapping[str, str]) -> ClipFiles:
        name, split = row["video_id"], row["split"]
        # Frames lie outside the split folders and carry the video's suffix; masks do neither.
        frames, masks = data / "visual_frames" / name, data / "gt_masks" / split / name
        numbers = range(1, self.num_frames + 1)
        return ClipFiles(
            uid=name,
            vid=name,
            subset=self.SUBSET,
            category="",
            folder=frames,
            frames=tuple(frames / f"{name}.mp4_{number}.png" for number in numbers),
            labels=tuple(masks / f"{name}_{number}.png" for number in numbers),
            sound=data / "audio_wav" / split / f"{name}.wav",
        )
