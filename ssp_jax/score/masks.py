"""Masks as other methods save them, as arrays at the size that a protocol scores.

S4, MS3: one channel of 8 bits, 0..255 for the score 0..1 that a pixel sounds, foreground above one
half; so 0 and 255 are a hard mask. Where no file of a folder has a value above 1, these are 0 and
1. AVSS: class indices in one channel (grey or palette), or AVSBench's colours (palette, RGB).

A prediction may have the truth's shape or be a square, as all four protocols squash frames. What is
not of the scored size is resized: scores bilinearly, classes to the nearest.
"""

import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ssp_jax.data.transforms import resize_labels
from ssp_jax.protocols import Protocol
from tfds_builders.classes import colour_table, palette
from tfds_builders.pictures import binary_labels, colour_labels, indices, open_picture

MAX_PIXELS = 4096 * 4096


def open_mask(path: Path) -> Image.Image:
    """A decoded PNG of bounded size.

    Raises:
      ValueError: missing, larger, or no readable PNG.
    """
    try:
        return open_picture(path, formats=("PNG",), max_pixels=MAX_PIXELS)[0]
    except FileNotFoundError:
        raise ValueError("missing") from None


def check_shape(size: tuple[int, int], truth: tuple[int, int]) -> None:
    """Width and height of a prediction against its truth's.

    Raises:
      ValueError: neither a square nor of the truth's shape, give or take a pixel.
    """
    (width, height), (true_width, true_height) = size, truth
    of_truth = abs(width * true_height - height * true_width) <= max(truth)
    if width != height and not of_truth:
        raise ValueError(
            f"{width} x {height} pixels; expected the shape of its truth, {true_width} x "
            f"{true_height}, or a square"
        )


@dataclasses.dataclass(frozen=True)
class BinaryReader:
    """Masks of S4 and MS3 at the scored size."""

    protocol: Protocol
    num_classes: int  # of truth in colours

    @property
    def size(self) -> int:
        """Side that is scored, pixels."""
        return self.protocol.binary_score_size

    def truth(self, picture: Image.Image) -> UInt8[np.ndarray, "s s"]:
        """0/1.

        Raises:
          ValueError: values that are no such mask.
        """
        if self.protocol.binary_targets == "semantic_labels" and picture.mode in ("RGB", "RGBA"):
            labels = _in_colours(picture, self.num_classes)
        else:
            labels = binary_labels(picture)[0]
        scored = resize_labels(labels, self.size, self.protocol.binary_target_resize)
        return (scored > 0).astype(np.uint8)

    def prediction(self, picture: Image.Image) -> UInt8[np.ndarray, "h w"]:
        """0..255 at the file's size.

        Raises:
          ValueError: several channels, or more than 8 bits.
        """
        return indices(picture)

    def scores(self, values: UInt8[np.ndarray, "h w"], one: int) -> Float[np.ndarray, "2 s s"]:
        """(background, object); `one` is the value that stands for 1."""
        score = values.astype(np.float32) / one
        if score.shape != (self.size, self.size):
            score = cv2.resize(score, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return np.stack([1 - score, score])


@dataclasses.dataclass(frozen=True)
class SemanticReader:
    """Class maps of AVSS at the scored size."""

    protocol: Protocol
    num_classes: int

    @property
    def size(self) -> int:
        """Side that is scored, pixels."""
        return self.protocol.semantic_score_size

    def truth(self, picture: Image.Image) -> UInt8[np.ndarray, "s s"]:
        """Class indices.

        Raises:
          ValueError: see `class_map`.
        """
        labels = class_map(picture, self.num_classes)
        return resize_labels(labels, self.size, self.protocol.semantic_target_resize)

    def prediction(self, picture: Image.Image) -> UInt8[np.ndarray, "s s"]:
        """Class indices.

        Raises:
          ValueError: see `class_map`.
        """
        return resize_labels(class_map(picture, self.num_classes), self.size)


def class_map(picture: Image.Image, num_classes: int) -> UInt8[np.ndarray, "h w"]:
    """Class indices of a picture of indices or of AVSBench's colours.

    The colours decide in RGB, and in a palette picture where all of its colours are those of
    classes: programs sort palettes.

    Raises:
      ValueError: an unknown colour or class, or another kind of picture.
    """
    if picture.mode in ("RGB", "RGBA") or (
        picture.mode == "P" and _shows_classes(picture, num_classes)
    ):
        return _in_colours(picture, num_classes)
    labels = indices(picture)
    if picture.mode == "1":
        labels = labels // 255
    if labels.max() >= num_classes:
        raise ValueError(f"class index {labels.max()}; expected 0..{num_classes - 1}")
    return labels


def _shows_classes(picture: Image.Image, num_classes: int) -> bool:
    used = picture.convert("RGB").getcolors(MAX_PIXELS)
    known = set(map(tuple, palette(num_classes).tolist()))
    return {colour for _, colour in used} <= known


def _in_colours(picture: Image.Image, num_classes: int) -> UInt8[np.ndarray, "h w"]:
    labels, unknown = colour_labels(picture, _table(num_classes))
    if unknown:
        raise ValueError(unknown)
    return labels


_table = functools.lru_cache(maxsize=2)(colour_table)
