"""Frames, masks, flows and sounds as small files in base64, to lie within a page."""

import base64
import io
from collections.abc import Iterable

import cv2
import matplotlib
import numpy as np
import soundfile
from jaxtyping import Float, Int16, Num, UInt8
from PIL import Image

from ssp_jax.data.log_mel import SAMPLE_RATE, SILENCE
from ssp_jax.data.transforms import LUMA
from ssp_jax.predict.overlay import colour

CELL = 112  # side of one frame in a strip, pixels
_GAP = 2
_LOUD = 4.0  # log-mel of loud sound
_STILL = 0.02  # of the shorter side: flows whose longest vectors are below stay pale

Picture = UInt8[np.ndarray, "h w 3"]


def strip(cells: Iterable[Picture]) -> str:
    """Pictures side by side, each as high as wide, as a JPEG."""
    row = []
    for cell in cells:
        if row:
            row.append(np.full((CELL, _GAP, 3), 255, np.uint8))
        row.append(
            cv2.resize(np.ascontiguousarray(cell), (CELL, CELL), interpolation=cv2.INTER_AREA)
        )
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(row, axis=1)).save(buffer, "JPEG", quality=85)
    return _base64(buffer)


def grey(mask: Num[np.ndarray, "h w"], highest: float) -> Picture:
    """A map of 0..`highest` in shades of grey."""
    shades = np.clip(np.rint(mask * (255 / highest)), 0, 255).astype(np.uint8)
    return np.repeat(shades[..., None], 3, axis=-1)


def marked(frame: Picture, labels: UInt8[np.ndarray, "h w"]) -> Picture:
    """The frame, pale and grey, with every class but background in its colour."""
    height, width = frame.shape[:2]
    labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    pale = 110 + 0.5 * (frame @ LUMA)[..., None].repeat(3, axis=-1)
    for index in np.unique(labels[labels > 0]).tolist():
        inside = labels == index
        pale[inside] = 0.35 * frame[inside] + 0.65 * np.array(colour(index))
    return pale.astype(np.uint8)


def flow_colours(flow: Float[np.ndarray, "h w 2"], longest: float) -> Picture:
    """Direction as hue, length as saturation; white where nothing moves.

    Args:
      longest: length of the vectors that are drawn in full colour.
    """
    length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1], angleInDegrees=True)
    full = np.clip(length / max(longest, _STILL), 0, 1)
    hsv = np.stack([angle / 2, 255 * full, np.full_like(angle, 255)], axis=-1)
    return cv2.cvtColor(np.rint(hsv).astype(np.uint8), cv2.COLOR_HSV2RGB)


def spectrogram(log_mel: Float[np.ndarray, "96 64"]) -> Picture:
    """A second's log-mel window, time to the right, high bands at the top."""
    loudness = np.clip((log_mel.T[::-1] - SILENCE) / (_LOUD - SILENCE), 0, 1)
    colours = matplotlib.colormaps["magma"](loudness, bytes=True)
    return np.ascontiguousarray(colours[..., :3])


def sound_file(waveform: Int16[np.ndarray, " n"]) -> tuple[str, str]:
    """(media type, file): MP3, or FLAC where the sound library writes no MP3."""
    small = "MP3" in soundfile.available_formats()
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="MP3" if small else "FLAC")
    return "audio/mpeg" if small else "audio/flac", _base64(buffer)


def _base64(buffer: io.BytesIO) -> str:
    return base64.b64encode(buffer.getvalue()).decode()
