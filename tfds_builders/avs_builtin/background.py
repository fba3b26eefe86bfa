"""Backgrounds and foreground clutter: muted, textured, larger than the view so it can pan."""

import colorsys
import math

import cv2
import numpy as np


def _muted(rng: np.random.Generator) -> np.ndarray:
    hue, saturation, value = rng.random(3)
    return 255 * np.array(
        colorsys.hsv_to_rgb(hue, 0.05 + 0.3 * saturation, 0.25 + 0.6 * value), np.float32
    )


def _octaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width) float32 smooth noise of several octaves, about 0..1."""
    field = np.zeros((height, width), np.float32)
    roughness = 0.45 + 0.25 * rng.random()
    weight, total, cells = 1.0, 0.0, 3
    for _ in range(5):
        grid = rng.random((cells, cells), dtype=np.float32)
        field += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        total += weight
        weight, cells = weight * roughness, 2 * cells
    return field / total


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A (height, width, 3) uint8 backdrop: noise, stripes or tiles between two muted colours.

    A few muted boxes and discs without class stand about in it.
    """
    ys = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    xs = np.linspace(0, 1, width, dtype=np.float32)[None]
    field = 1.6 * (_octaves(rng, height, width) - 0.5)
    heading = 2 * math.pi * rng.random()
    across = math.cos(heading) * xs + math.sin(heading) * ys
    kind, pitch, shift = rng.random(3)
    waves = 2 * math.pi * (4 + 14 * pitch)
    if kind < 0.35:
        field += 0.25 * np.sign(np.sin(waves * across + 6 * shift))
    elif kind < 0.5:
        along = math.cos(heading) * ys - math.sin(heading) * xs
        field += 0.2 * np.sign(np.sin(waves * across) * np.sin(waves * along))
    field += 0.6 * (across - 0.5)
    field = np.clip(0.5 + field, 0, 1)[..., None]
    low, high = _muted(rng), _muted(rng)
    image = np.ascontiguousarray((low + (high - low) * field).astype(np.uint8))
    for _ in range(int(rng.integers(0, 7))):
        _clutter(rng, image)
    return image


def _clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    colour = tuple(int(c) for c in _muted(rng))
    u = rng.random(5)
    x, y = int(u[0] * width), int(u[1] * height)
    a, b = int((0.03 + 0.12 * u[2]) * width), int((0.03 + 0.12 * u[3]) * height)
    if u[4] < 0.35:
        cv2.ellipse(image, (x, y), (a, b), 180 * u[4], 0, 360, colour, -1, cv2.LINE_AA)
    elif u[4] < 0.7:
        cv2.rectangle(image, (x - a, y - b), (x + a, y + b), colour, -1)
    else:
        corners = np.array([(x - a, y + b), (x + a, y + b), (x, y - b)], np.int32)
        cv2.fillPoly(image, [corners], colour, cv2.LINE_AA)


def foreground(rng: np.random.Generator, height: int, width: int) -> np.ndarray | None:
    """A pole or rail in front of everything, in about three of ten clips.

    Returns:
      (height, width, 4) uint8 RGBA, or None.
    """
    present, where, thickness, tilt, upright = rng.random(5)
    colour = _muted(rng)
    if present > 0.3:
        return None
    layer = np.zeros((height, width, 4), np.uint8)
    span = width if upright < 0.7 else height
    lean = (tilt - 0.5) * 0.3 * span
    at, half = (0.12 + 0.76 * where) * span, (0.025 + 0.035 * thickness) * span
    far = height if upright < 0.7 else width
    band = np.array(
        [(at - half, 0), (at + half, 0), (at + half + lean, far), (at - half + lean, far)]
    )
    if upright >= 0.7:
        band = band[:, ::-1]
    rgba = (*(int(c) for c in colour), 255)
    cv2.fillPoly(layer, [np.round(band).astype(np.int32)], rgba)
    return layer
