"""A tiny prepared data set of textured clips in which a square moves and the camera pans."""

import io

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders.features import clip_features

PAN, STEP, SIDE = (3, -2), (-5, 4), 32  # pixels a second, x then y; the square's side
SIZES = ((96, 96), (80, 120))  # height, width by clip


def texture(seed: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def moving_clip(seed: int, num_frames: int, height: int, width: int):
    """(frames, where the square is) of a clip: the scene goes by PAN, the square by STEP."""
    wide = texture(seed, height + 80, width + 80)
    square = texture(seed + 1000, SIDE, SIDE)
    frames, maps = [], []
    for t in range(num_frames):
        x, y = 40 - PAN[0] * t, 40 - PAN[1] * t
        frame = wide[y : y + height, x : x + width].copy()
        left, top = width - SIDE - 8 + STEP[0] * t, 8 + STEP[1] * t
        frame[top : top + SIDE, left : left + SIDE] = square
        where = np.zeros((height, width), bool)
        where[top : top + SIDE, left : left + SIDE] = True
        frames.append(frame)
        maps.append(where)
    return frames, maps


def encode(image: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return io.BytesIO(buffer.getvalue())


class Moving(tfds.core.GeneratorBasedBuilder):
    """train: five clips of four frames, in two sizes; val_a, val_b: two clips, one of one frame."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=clip_features(), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples([(n, 4) for n in range(5)]),
            "val_a": self._generate_examples([(10, 3), (11, 1)]),
            "val_b": self._generate_examples([(12, 3), (13, 3)]),
            "damaged": self._generate_examples([(14, -3)]),
        }

    def _generate_examples(self, clips):
        for number, count in clips:
            frames, _ = moving_clip(number, abs(count), *SIZES[number % 2])
            encoded = [encode(frame) for frame in frames]
            if count < 0:
                encoded[2] = io.BytesIO(encoded[2].getvalue()[:500])
            yield (
                number,
                {
                    "uid": f"clip{number}",
                    "vid": "",
                    "subset": "v1s",
                    "category": "",
                    "frames": encoded,
                    "labels": [],
                    "waveform": np.zeros(16_000, np.int16),
                    "annotated": np.zeros(len(frames), bool),
                    "texts": {"scene": "", "sounding": ""},
                },
            )
