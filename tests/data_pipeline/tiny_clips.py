"""A tiny prepared data set whose every pixel and sample tells where it comes from."""

import io
import itertools

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders.features import clip_features

SIZES = ((24, 40), (32, 32), (30, 20))  # height, width of the frames, by clip
CATEGORIES = ("guitar", "dog_guitar", "cat", "off-the-screen", "man_dog")
CLASS_NAMES = ("background", "guitar", "dog", "cat", "man")
SOUND_NAMES = CLASS_NAMES[1:]


def encode(array: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return io.BytesIO(buffer.getvalue())


def frame_colour(number: int, second: int) -> tuple[int, int, int]:
    return 20 * number + 5, 20 * second + 5, 100


def labels_of(number: int, second: int) -> np.ndarray:
    """The left half is of a class that changes with clip and second, 1 .. 4."""
    height, width = SIZES[number % len(SIZES)]
    labels = np.zeros((height, width), np.uint8)
    labels[:, : width // 2] = 1 + (number + second) % 4
    return labels


def objects_of(number: int, second: int) -> np.ndarray:
    """What sounds, and on the right something silent."""
    labels = labels_of(number, second)
    labels[labels == 0] = 1 + (number + second + 1) % 4
    return labels


def waveform_of(number: int, seconds: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(-3000, 3000, 16_000 * seconds).astype(np.int16)


def example(number: int, num_frames: int, num_annotated: int) -> dict:
    height, width = SIZES[number % len(SIZES)]
    colours = [frame_colour(number, second) for second in range(num_frames)]
    return {
        "uid": f"-clip{number}",
        "vid": f"video{number}",
        "subset": "v1s" if num_frames == 5 else "v2",
        "category": CATEGORIES[number % len(CATEGORIES)],
        "frames": [encode(np.full((height, width, 3), c, np.uint8)) for c in colours],
        "labels": [encode(labels_of(number, second)) for second in range(num_annotated)],
        "waveform": waveform_of(number, num_frames),
        "annotated": np.arange(num_frames) < num_annotated,
        "texts": {"scene": f"scene {number}", "sounding": f"nouns {number}"},
        "objects": [encode(objects_of(number, second)) for second in range(num_annotated)],
        "moving": [encode(labels_of(number, second)) for second in range(num_annotated)],
    }


class Tiny(tfds.core.GeneratorBasedBuilder):
    """train_v1s: one annotated frame of five; train_v2: ten of ten; damaged splits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = clip_features(with_objects=True)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {
            "train_v1s": self._generate_examples(range(4), 5, 1),
            "train_v2": self._generate_examples(range(4, 7), 10, 10),
            "test": self._generate_examples(range(5), 5, 5),
            "unlabelled": self._generate_examples(range(2), 5, 0),
            "damaged_frame": self._damaged("frames", 2),
            "damaged_labels": self._damaged("labels", 1),
            "damaged_counts": self._damaged("annotated", None),
        }

    def _generate_examples(self, numbers, num_frames, num_annotated):
        for number in numbers:
            yield number, example(number, num_frames, num_annotated)

    def _damaged(self, name, second):
        clip = example(0, 5, 5)
        if second is None:
            clip[name] = np.array([True, False, True, True, True])
        else:
            clip[name][second] = io.BytesIO(clip[name][second].getvalue()[:60])
        yield 0, clip


def take(batches, count) -> list:
    """The first `count` batches (None: all of them), then closed."""
    with batches:
        return list(itertools.islice(batches, count))
