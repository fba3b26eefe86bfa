"""From encoded images to arrays of the model's size, and the augmentation for training."""

import dataclasses
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ssp_jax.data.sounds import Sounds
from ssp_jax.errors import UserError
from tfds_builders.pictures import decoded_picture

LabelRule = Literal["nearest", "bilinear_above_zero"]
BORDER = (124, 116, 104)  # ImageNet's mean colour: neutral after normalisation
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def decode_frame(
    encoded: bytes,
    size: int,
    *,
    where: str,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> UInt8[np.ndarray, "size size 3"]:
    """Decodes a JPEG or PNG to RGB, resized to (size, size) by PIL, bilinear (method 3.5) or so.

    The aspect ratio is not kept, as in AVSBench and AAVS.

    Raises:
      UserError: the bytes are no readable image; `where` (data set, clip, frame) is in the message.
    """
    image = _decode(encoded, where, "an RGB frame (JPEG or PNG)")
    return resize_frame(image, size, resample)


def resize_frame(
    image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> UInt8[np.ndarray, "size size 3"]:
    """A decoded frame as RGB at the model's size, see `decode_frame`."""
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), resample)
    return np.asarray(image)


def decode_labels(encoded: bytes, *, where: str) -> UInt8[np.ndarray, "h w"]:
    """Decodes a single-channel PNG of class indices at its own resolution.

    Raises:
      UserError: the bytes are no readable image or not single-channel 8-bit.
    """
    image = _decode(encoded, where, "a PNG of class indices")
    if image.mode not in ("L", "P", "1"):
        raise UserError(
            f"{where}: a label map of mode {image.mode}, expected 8 bits and a single channel"
            " of class indices; prepare the data set again."
        )
    return np.asarray(image).astype(np.uint8)


def _decode(encoded: bytes, where: str, expected: str) -> Image.Image:
    try:
        return decoded_picture(encoded)
    except ValueError as error:
        raise UserError(
            f"{where}: cannot be decoded ({error}); expected {expected}, got {len(encoded)} bytes."
            " Replace the file in the data set's source folder and prepare it again."
        ) from error


def resize_labels(
    labels: UInt8[np.ndarray, "h w"], size: int, rule: LabelRule = "nearest"
) -> UInt8[np.ndarray, "size size"]:
    """Label map at the scored size.

    - nearest: PIL nearest; OFF, AVSF, COMBO and, for AVSS, SS (avsbench section 3).
    - bilinear_above_zero: binary (0/1) as SS reads S4 and MS3: the map in palette colours,
      resized by OpenCV's bilinear, foreground where the grey value is above 0; slightly dilated.

    Raises:
      UserError: an unknown rule.
    """
    if rule == "nearest":
        if labels.shape == (size, size):
            return labels
        return np.asarray(Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST))
    if rule == "bilinear_above_zero":
        colours = cv2.resize(_PALETTE[labels], (size, size), interpolation=cv2.INTER_LINEAR)
        return (cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY) > 0).astype(np.uint8)
    raise UserError(f"label_rule: expected nearest or bilinear_above_zero, got {rule!r}")


def _palette() -> UInt8[np.ndarray, "256 3"]:
    """Colours of AVSS's class indices: PASCAL VOC's bit pattern (avsbench 2.4)."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= (((index >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


_PALETTE = _palette()


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is varied in training, per visit of a clip; everything off is the paper's setting.

    Attributes:
      flip: probability of a horizontal flip.
      scale: factors (lowest, highest), drawn log-uniformly; above 1 enlarges and crops at a random
        place, below 1 shrinks onto the mean colour, labelled background.
      brightness, contrast, saturation: factors are drawn from 1 - x .. 1 + x.
      hue: angles are drawn from -x .. x turns.
      foreign_sound: probability that the clip sounds like another training clip, of classes that
        it does not show: nothing in the picture sounds, so all labels become background.
      silence, noise: probabilities that silence or white noise replaces the sound; labels likewise.
    """

    flip: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    foreign_sound: float = 0.0
    silence: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "scale", tuple(self.scale))
        for key in ("flip", "foreign_sound", "silence", "noise"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise UserError(f"augment.{key}: expected a probability, got {getattr(self, key)}")
        if sum(self.negatives.values()) > 1 + 1e-9:
            raise UserError(
                f"augment.foreign_sound={self.foreign_sound}, silence={self.silence}, noise="
                f"{self.noise}: of these cases one is drawn; expected at most 1 together"
            )
        if len(self.scale) != 2 or not 0.0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"augment.scale: expected 0 < lowest <= highest, got {self.scale}")
        for key in ("brightness", "contrast", "saturation", "hue"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise UserError(f"augment.{key}: expected 0..1, got {getattr(self, key)}")

    @property
    def negatives(self) -> dict[Sounds, float]:
        """Probability of each sound that nothing in the picture makes."""
        chances = {"silence": self.silence, "noise": self.noise, "foreign": self.foreign_sound}
        return {kind: chance for kind, chance in chances.items() if chance > 0}

    def changes_to_frames(self) -> list[str]:
        """Return what moves or colours frames, as 'flip=0.5'."""
        off = Augment()
        names = ("flip", "scale", "brightness", "contrast", "saturation", "hue")
        values = {name: getattr(self, name) for name in names}
        return [f"{n}={value}" for n, value in values.items() if value != getattr(off, n)]

    def geometry(self, rng: np.random.Generator) -> "Geometry":
        """Draws the one geometric transform of a clip's visit."""
        flip = bool(rng.random() < self.flip)
        scale = float(np.exp(rng.uniform(*np.log(self.scale))))
        place_x, place_y = rng.random(2)
        return Geometry(flip, scale, float(place_x), float(place_y))

    def colour(self, rng: np.random.Generator) -> "Colour":
        """Draws the one colour transform of a clip's visit."""
        brightness, contrast, saturation, hue = rng.uniform(-1, 1, 4)
        return Colour(
            1 + self.brightness * float(brightness),
            1 + self.contrast * float(contrast),
            1 + self.saturation * float(saturation),
            self.hue * float(hue),
        )


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Flip, scale and place of the crop (0..1 of the room there is) for all frames of a clip."""

    flip: bool = False
    scale: float = 1.0
    place_x: float = 0.5
    place_y: float = 0.5

    def frame(self, frame: UInt8[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The transformed frame, bilinear; outside of it the mean colour."""
        return self._warp(frame, cv2.INTER_LINEAR, BORDER)

    def labels(self, labels: UInt8[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s"]:
        """The transformed label map (or any map of one channel), nearest; outside of it 0."""
        return self._warp(labels, cv2.INTER_NEAREST, 0)

    def _warp(self, image, interpolation, border):
        if self.scale == 1.0:
            return image[:, ::-1] if self.flip else image
        size = image.shape[0]
        # Pixel centres are at (i + 0.5) / size in both maps, so frame and labels stay aligned
        # whatever their sizes: source = a * target + b in units of pixels.
        a = 1.0 / self.scale
        room = (1.0 - a) * size
        x, y = ((a - 1.0) / 2 + room * place for place in (self.place_x, self.place_y))
        matrix = np.array([[a, 0, x], [0, a, y]], np.float64)
        if self.flip:
            matrix[0] = [-a, 0, x + a * (size - 1)]
        flags = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            image,
            matrix,
            (size, size),
            flags=flags,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=border,
        )


# RGB to one brightness and two colour axes (YIQ), in which the hue is an angle.
_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)


@dataclasses.dataclass(frozen=True)
class Colour:
    """Brightness, contrast and saturation factors and a turn of the hue, one for all frames."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    def frame(self, frame: UInt8[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The recoloured frame: one linear map of colours, since all four are linear."""
        if self == Colour():
            return frame
        mean = self.brightness * float(frame.reshape(-1, 3).mean(axis=0) @ LUMA)
        offset = np.full((3, 1), (1 - self.contrast) * mean, np.float32)
        matrix = np.concatenate([self.contrast * self.brightness * self._chroma(), offset], axis=1)
        return cv2.transform(frame, matrix)

    def _chroma(self) -> Float[np.ndarray, "3 3"]:
        angle = 2 * np.pi * self.hue
        turn = np.eye(3, dtype=np.float32)
        turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turn[1:] *= self.saturation
        return np.linalg.inv(_YIQ) @ turn @ _YIQ
