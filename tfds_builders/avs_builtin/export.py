"""Writes the built-in benchmark in AVSBench's own folder layouts (avsbench.md sections 1 and 2).

So the AVSBench builders, and other people's code, can be tried on data that needs no download:

    python -m tfds_builders.avs_builtin.export --out=DIR [--config=demo] [--layout=all] [--seed=0]

writes DIR/Single-source (S4), DIR/Multi-sources (MS3) and DIR/AVSS. The pixels and samples are
those of the built-in builder.
"""

import argparse
import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import soundfile
from PIL import Image
from tqdm import tqdm

from ssp_jax.errors import UserError
from tfds_builders.avs_builtin.builder import ClipKey, clip_keys
from tfds_builders.avs_builtin.catalogue import CLASS_NAMES, NUM_CLASSES, SUBSETS
from tfds_builders.avs_builtin.clip import clip, encode_map
from tfds_builders.avs_builtin.scene import plan
from tfds_builders.features import SAMPLE_RATE
from tfds_builders.places import local_path

# Which of the three data sets each layout stands for.
LAYOUTS = {
    "s4": ("s4",),
    "ms3": ("ms3",),
    "object": ("s4", "ms3"),
    "avss": ("avss",),
    "all": ("s4", "ms3", "avss"),
}


def voc_palette(num_classes: int) -> np.ndarray:
    """(num_classes, 3) uint8 RGB colours of AVSBench's labels_rgb: the PASCAL-VOC bit pattern."""
    palette = np.zeros((num_classes, 3), np.uint8)
    for index in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                palette[index, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return palette


def export(
    out_dir: str | os.PathLike,
    size: str = "demo",
    *,
    layout: str = "all",
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Generates the benchmark and writes it to `out_dir`, complete or not at all.

    Args:
      out_dir: a folder that does not exist yet or is empty.
      size: 'demo' or 'tiny'.
      layout: 's4', 'ms3', 'object' (both), 'avss' or 'all'.
      seed: of the generation.
      progress: show a progress bar.

    Raises:
      UserError: unknown layout or size, or a folder that is in use.
    """
    if layout not in LAYOUTS:
        raise UserError(f"export: no layout called {layout!r}; there are {sorted(LAYOUTS)}")
    keys = [key for keys in clip_keys(size, seed).values() for key in keys]
    out = Path(out_dir).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"export: {out} exists and is not an empty folder; give another --out")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in LAYOUTS[layout]:
            _WRITERS[name](partial, keys, seed, progress)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _clips(keys: Sequence[ClipKey], subsets, seed: int, title: str, progress: bool) -> Iterator:
    """Yields (key, scene, example) of every clip of some subsets, with a progress bar."""
    wanted = [key for key in keys if key.subset in subsets]
    for key in tqdm(wanted, desc=title, unit="clip", disable=not progress):
        which = (seed, key.split, key.subset, key.index)
        yield key, plan(*which), clip(*which)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_wav(path: Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")


def _write_csv(path: Path, header: str, rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


def _write_png(path: Path, image: np.ndarray) -> None:
    """Writes an (H, W) or (H, W, 3) BGR picture."""
    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    _write(path, data.tobytes())


def _decode(data: bytes) -> np.ndarray:
    # Pillow, as in the AVSBench builders: JPEG decoders differ by a grey level here and there.
    return np.asarray(Image.open(io.BytesIO(data)))


def _write_object_images(example: dict, frame_path: Callable, mask_path: Callable) -> None:
    """Frames as PNG, masks as 0/255 PNG, both numbered from 1."""
    for i, frame in enumerate(example["frames"]):
        _write_png(frame_path(i + 1), _decode(frame)[..., ::-1])
    for i, label in enumerate(example["labels"]):
        _write_png(mask_path(i + 1), np.where(_decode(label) > 0, 255, 0).astype(np.uint8))


def _export_s4(root: Path, keys, seed, progress) -> None:
    data, rows = root / "Single-source" / "s4_data", []
    for key, scene, example in _clips(keys, ("v1s",), seed, "S4", progress):
        name, category = scene.vid, example["category"]
        where = Path(key.split) / category / name
        _write_object_images(
            example,
            lambda i, w=where, n=name: data / "visual_frames" / w / f"{n}_{i}.png",
            lambda i, w=where, n=name: data / "gt_masks" / w / f"{n}_{i}.png",
        )
        _write_wav(data / "audio_wav" / key.split / category / f"{name}.wav", example["waveform"])
        rows.append((name, scene.start, category, key.split))
    _write_csv(root / "Single-source" / "s4_meta_data.csv", "name,start,category,split", rows)


def _export_ms3(root: Path, keys, seed, progress) -> None:
    data, rows = root / "Multi-sources" / "ms3_data", []
    for key, scene, example in _clips(keys, ("v1m",), seed, "MS3", progress):
        name = scene.uid
        _write_object_images(  # the frames' names keep ".mp4", the masks' do not
            example,
            lambda i, n=name: data / "visual_frames" / n / f"{n}.mp4_{i}.png",
            lambda i, n=name, s=key.split: data / "gt_masks" / s / n / f"{n}_{i}.png",
        )
        _write_wav(data / "audio_wav" / key.split / f"{name}.wav", example["waveform"])
        rows.append((name, key.split))
    _write_csv(root / "Multi-sources" / "ms3_meta_data.csv", "video_id,split", rows)


def _export_avss(root: Path, keys, seed, progress) -> None:
    out, rows, palette = root / "AVSS", [], voc_palette(NUM_CLASSES)
    for key, scene, example in _clips(keys, SUBSETS, seed, "AVSS", progress):
        folder = out / key.subset / scene.uid
        for i, frame in enumerate(example["frames"]):
            _write(folder / "frames" / f"{i}.jpg", frame)
        for i, encoded in enumerate(example["labels"]):
            label = _decode(encoded)
            _write_png(folder / "labels_rgb" / f"{i}.png", palette[label][..., ::-1])
            _write(folder / "labels_semantic" / f"{i}.png", encode_map(label))
        _write_wav(folder / "audio.wav", example["waveform"])
        minutes, seconds = divmod(scene.start, 60)
        rows.append(
            (scene.vid, scene.uid, minutes, seconds, example["category"], key.split, key.subset)
        )
    _write_csv(out / "metadata.csv", "vid,uid,s_min,s_sec,a_obj,split,label", rows)
    table = {name: index + 1 for index, name in enumerate(CLASS_NAMES)}
    (out / "label2idx.json").write_text(json.dumps(table, indent=1) + "\n")


_WRITERS = {"s4": _export_s4, "ms3": _export_ms3, "avss": _export_avss}


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", required=True, type=local_path, help="folder to write, new or empty"
    )
    parser.add_argument("--config", default="demo", help="how much: demo or tiny")
    parser.add_argument("--layout", default="all", help=", ".join(LAYOUTS))
    parser.add_argument("--seed", type=int, default=0)
    try:
        args = parser.parse_args(argv)
        export(args.out, args.config, layout=args.layout, seed=args.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
