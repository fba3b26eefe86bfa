"""Writes small folders in the exact layouts of AVSBench (avsbench 1.1, 1.2, 2.1), for tests.

Pictures are random but fixed by their path, so a test can tell what a file must hold.
"""

import csv
import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from tfds_builders.classes import AVSS_CLASSES, palette

SIZE = (24, 16)  # width, height
RATE = 16_000


@dataclasses.dataclass(frozen=True)
class S4Clip:
    name: str
    category: str = "dog_barking"
    split: str = "train"
    start: int = 0


@dataclasses.dataclass(frozen=True)
class SemanticClip:
    vid: str
    uid: str
    a_obj: str
    split: str
    label: str


S4_CLIPS = (
    S4Clip("-_wznbUu3DY", "helicopter"),
    S4Clip("0d9u2CymIxc", "dog_barking"),
    S4Clip("d-adbXZYHxI", "horse_clip-clop", start=6),
    S4Clip("0TQQn_S8ZDM", "helicopter", "val"),
    S4Clip("-abcdefghij", "dog_barking", "test"),
)
MS3_CLIPS = (
    ("jlhuZfcw61w", "train"),
    ("-7N2Japi3-A_4", "train"),
    ("xv7eM6-UmkY_36", "val"),
    ("baby_dog_2_1", "test"),
)
SEMANTIC_CLIPS = (
    SemanticClip("__GOGlHL23s", "__GOGlHL23s_4000_9000", "bird", "train", "v1s"),
    SemanticClip("d-adbXZYHxI", "d-adbXZYHxI_6000_11000", "horse", "train", "v1s"),
    SemanticClip("zVfLHhs9uv8", "zVfLHhs9uv8_3000_8000", "h orse", "val", "v1s"),
    SemanticClip("-bcdefghijk", "-bcdefghijk_0_5000", "mower", "test", "v1s"),
    SemanticClip("jlhuZfcw61w", "jlhuZfcw61w", "background", "train", "v1m"),
    SemanticClip("xv7eM6-UmkY_36", "xv7eM6-UmkY_36", "man_dog", "val", "v1m"),
    SemanticClip("baby_dog_2_1", "baby_dog_2_1", "baby_dog", "test", "v1m"),
    SemanticClip("--iSerV5DbY", "--iSerV5DbY_68000_78000", "girl_off-the-screen", "train", "v2"),
    SemanticClip("AAAAAAAAAAA", "AAAAAAAAAAA_0_10000", "violin", "val", "v2"),
    SemanticClip("BBBBBBBBBBB", "BBBBBBBBBBB_0_10000", "woman_vacuum-cleaner", "test", "v2"),
)


def picture_of(name: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(height, width, 3) uint8, fixed by the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def binary_mask_of(name: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(height, width) uint8 of 0 and 1, fixed by the name."""
    return (picture_of(name, size)[..., 0] > 128).astype(np.uint8)


def class_map_of(name: str, num_classes: int = 71, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(height, width) uint8 of class indices, fixed by the name."""
    return (picture_of(name, size)[..., 1] % num_classes).astype(np.uint8)


def sound_of(name: str, seconds: float) -> np.ndarray:
    """(n,) int16 noise, fixed by the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.integers(-20000, 20000, int(seconds * RATE), dtype=np.int16)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_sound(path: Path, name: str, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound_of(name, seconds), RATE, subtype="PCM_16")


def write_table(path: Path, header: str, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


def write_s4(folder: Path, clips=S4_CLIPS) -> Path:
    """Writes Single-source/ below `folder`, which is returned."""
    root = folder / "Single-source"
    rows = [(c.name, c.start, c.category, c.split) for c in clips]
    write_table(root / "s4_meta_data.csv", "name,start,category,split", rows)
    for clip in clips:
        below = Path(clip.split, clip.category)
        for number in range(1, 6):
            file = f"{clip.name}_{number}.png"
            frames = root / "s4_data/visual_frames" / below / clip.name
            write_picture(frames / file, picture_of(f"s4/{file}"))
            if clip.split != "train" or number == 1:
                masks = root / "s4_data/gt_masks" / below / clip.name
                write_picture(masks / file, binary_mask_of(f"s4/mask/{file}") * 255)
        write_sound(root / "s4_data/audio_wav" / below / f"{clip.name}.wav", clip.name, 5)
    return folder


def write_ms3(folder: Path, clips=MS3_CLIPS) -> Path:
    """Writes Multi-sources/ below `folder`, which is returned."""
    root = folder / "Multi-sources"
    write_table(root / "ms3_meta_data.csv", "video_id,split", clips)
    data = root / "ms3_data"
    for name, split in clips:
        for number in range(1, 6):
            frame = data / "visual_frames" / name / f"{name}.mp4_{number}.png"
            write_picture(frame, picture_of(f"ms3/{name}_{number}"))
            mask = data / "gt_masks" / split / name / f"{name}_{number}.png"
            write_picture(mask, binary_mask_of(f"ms3/mask/{name}_{number}") * 255)
        write_sound(data / "audio_wav" / split / f"{name}.wav", name, 5)
    return folder


def write_avss(folder: Path, clips=SEMANTIC_CLIPS, class_names=AVSS_CLASSES) -> Path:
    """Writes metadata.csv, label2idx.json and the subsets into `folder`, which is returned."""
    rows = [(c.vid, c.uid, 0, 0, c.a_obj, c.split, c.label) for c in clips]
    write_table(folder / "metadata.csv", "vid,uid,s_min,s_sec,a_obj,split,label", rows)
    table = {name: index + 1 for index, name in enumerate(class_names)}
    (folder / "label2idx.json").write_text(json.dumps(table))
    colours = palette(len(class_names))
    for clip in clips:
        home, count = folder / clip.label / clip.uid, 10 if clip.label == "v2" else 5
        for number in range(count):
            # Sizes differ between videos, as in the release.
            size = size_of(clip.uid)
            write_picture(home / f"frames/{number}.jpg", picture_of(f"{clip.uid}/{number}", size))
            if (clip.label, clip.split) != ("v1s", "train") or number == 0:
                labels = class_map_of(f"{clip.uid}/{number}", len(class_names), size)
                write_picture(home / f"labels_rgb/{number}.png", colours[labels])
                write_picture(home / f"labels_semantic/{number}.png", labels)
        (home / "labels_rgb/Thumbs.db").write_bytes(b"stray")
        write_sound(home / "audio.wav", clip.uid, count)
    return folder


def size_of(uid: str) -> tuple[int, int]:
    """(width, height) of a semantic clip."""
    return SIZE[0] + zlib.crc32(uid.encode()) % 7, SIZE[1]
