"""Masks as other methods save them, as arrays at the size that a protocol scores.

S4, MS3: one channel of 8 bits, 0..255 for the score 0..1 that a pixel sounds, foreground above one
half; so 0 and 255 are a hard mask. Where no file of a folder has a value above 1, these are 0 and
1. What a palette shows counts, not its order. AVSS: class indices (grey files, and palettes that
are the grey ramp, as Pillow's convert("P") writes them), or AVSBench's colours (RGB, palettes).
An alpha channel that says something else than the colours is refused.

A prediction may have the truth's shape or be a square, as all four protocols squash frames. What is
not of the scored size is resized: scores bilinearly, classes to the nearest.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ssp_jax.data.transforms import resize_labels
from ssp_jax.protocols import Protocol
from tfds_builders.mask_files import MaskFile, binary_labels, class_map, grey_values
from tfds_builders.pictures import open_picture

MAX_PIXELS = 4096 * 4096


def open_mask(path: Path) -> tuple[Image.Image, bytes]:
    """A decoded PNG of bounded size, and its bytes; for `mask_file`.

    Raises:
      ValueError: missing, larger, or no readable PNG.
    """
    try:
        return open_picture(path, formats=("PNG",), max_pixels=MAX_PIXELS)
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

    def truth(self, mask: MaskFile) -> UInt8[np.ndarray, "s s"]:
        """0/1.

        Raises:
          ValueError: values that are no such mask.
        """
        of_classes = mask.classes is not None or mask.stored == "colours" or mask.codes is not None
        if self.protocol.binary_targets == "semantic_labels" and of_classes:
            labels = class_map(mask, self.num_classes)
        else:
            labels = binary_labels(mask)[0]
        scored = resize_labels(labels, self.size, self.protocol.binary_target_resize)
        return (scored > 0).astype(np.uint8)

    def prediction(self, mask: MaskFile) -> UInt8[np.ndarray, "h w"]:
        """0..255 at the file's size.

        Raises:
          ValueError: several channels, or more than 8 bits.
        """
        return grey_values(mask)

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

    def truth(self, mask: MaskFile) -> UInt8[np.ndarray, "s s"]:
        """Class indices.

        Raises:
          ValueError: see `class_map`.
        """
        labels = class_map(mask, self.num_classes)
        return resize_labels(labels, self.size, self.protocol.semantic_target_resize)

    def prediction(self, mask: MaskFile) -> UInt8[np.ndarray, "s s"]:
        """Class indices.

        Raises:
          ValueError: see `class_map`.
        """
        return resize_labels(class_map(mask, self.num_classes), self.size)
