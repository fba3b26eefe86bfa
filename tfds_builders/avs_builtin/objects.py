"""The twelve objects: one drawing each, distinct in silhouette and in inner structure.

Every drawing fills about [-1, 1] x [-1, 1] and takes its colours from the instance's `Look`.
"""

import math

import numpy as np

from tfds_builders.avs_builtin.catalogue import CLASS_NAMES, TYPICAL_HUES
from tfds_builders.avs_builtin.sprite import Look, Sprite, ellipse_points, smooth_curve


def _mirrored(right_side) -> np.ndarray:
    """Closed outline from the right half of a shape that is symmetric about x = 0."""
    right = np.asarray(right_side, np.float64)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def _bell(s: Sprite, look: Look) -> None:
    s.ellipse((0, -0.84), 0.15, look.accent, look.ink)
    s.ellipse((0, 0.78), 0.2, look.accent, look.ink)
    waist = look.pick(0.42, 0.56, "variant")
    profile = smooth_curve(
        [(0.05, -0.78), (0.36, -0.66), (waist, -0.1), (waist + 0.14, 0.35), (0.92, 0.68)], 24
    )
    s.polygon(_mirrored(profile), look.main, look.ink, 0.06)
    for y, w in ((0.02, waist + 0.0), (0.4, waist + 0.16)):
        s.stroke([(-w, y), (0, y + 0.07), (w, y)], 0.08, look.accent)
    shine = smooth_curve([(-0.22, -0.5), (-0.3, -0.1), (-0.45, 0.3)], 10)
    s.stroke(shine, 0.1, look.third)
    s.rectangle(-0.96, 0.6, 0.96, 0.74, look.shade, look.ink, 0.05)


def _bird(s: Sprite, look: Look) -> None:
    s.polygon([(-0.45, 0.05), (-1.0, -0.2), (-0.98, 0.12), (-0.95, 0.4)], look.accent, look.ink)
    for x in (-0.08, 0.16):
        s.stroke([(x, 0.5), (x + 0.02, 0.92), (x + 0.18, 0.95)], 0.06, look.ink)
    s.polygon([(0.72, -0.55), (1.02, -0.4), (0.7, -0.3)], look.third, look.ink, 0.04)
    s.ellipse((-0.02, 0.12), (0.62, 0.46), look.main, look.ink, angle=-0.25)
    s.ellipse((0.5, -0.46), 0.32, look.main, look.ink)
    s.ellipse((0.34, -0.14), (0.3, 0.24), look.main)
    s.ellipse((0.2, 0.3), (0.34, 0.22), look.third, angle=-0.2)
    s.ellipse((0.58, -0.54), 0.1, look.third)
    s.ellipse((0.6, -0.53), 0.055, look.ink)
    lift = look.pick(-0.35, 0.25, "phase")
    wing = smooth_curve([(0.22, -0.05), (-0.2, -0.25), (-0.75, lift), (-0.3, 0.25), (0.1, 0.22)])
    s.polygon(wing, look.accent, look.ink)
    for k in range(3):
        y = 0.12 * k - 0.08
        s.stroke(smooth_curve([(0.08, y), (-0.2, y + 0.03), (-0.42, y * 0.6)], 8), 0.04, look.ink)


def _boat(s: Sprite, look: Look) -> None:
    s.stroke([(0, 0.4), (0, -1.0)], 0.09, look.ink)
    belly = look.pick(0.75, 0.95, "variant")
    s.polygon([(0.08, -0.92), (0.08, 0.22), (belly, 0.22)], look.accent, look.ink)
    s.polygon([(-0.08, -0.7), (-0.08, 0.22), (-0.7, 0.22)], look.third, look.ink)
    for k in range(1, 4):
        y = -0.92 + 0.28 * k
        reach = 0.08 + (belly - 0.08) * (y + 0.92) / 1.14
        s.stroke([(0.1, y), (reach - 0.04, y)], 0.06, look.ink)
    hull = smooth_curve([(-1.0, 0.36), (-0.72, 0.78), (0, 0.94), (0.72, 0.78), (1.0, 0.36)], 24)
    s.polygon(hull, look.main, look.ink, 0.06)
    for y, w in ((0.5, 0.86), (0.64, 0.74), (0.78, 0.52)):
        s.stroke([(-w, y), (w, y)], 0.04, look.shade)
    for x in (-0.5, 0.0, 0.5):
        s.ellipse((x, 0.57), 0.07, look.third, look.ink, 0.03)


def _car(s: Sprite, look: Look) -> None:
    roof = look.pick(0.3, 0.5, "variant")
    cabin = [(-0.62, -0.05), (-0.42, -0.5), (roof, -0.5), (roof + 0.28, -0.05)]
    s.polygon(cabin, look.main, look.ink)
    body = [(-1, -0.02), (-0.9, -0.1), (0.75, -0.1), (1, 0.08), (1, 0.4), (-1, 0.4)]
    s.polygon(body, look.main, look.ink)
    middle = (roof - 0.42) / 2
    s.polygon(
        [(-0.5, -0.1), (-0.36, -0.4), (middle - 0.05, -0.4), (middle - 0.05, -0.1)],
        look.third,
        look.ink,
        0.03,
    )
    s.polygon(
        [(middle + 0.05, -0.1), (middle + 0.05, -0.4), (roof - 0.05, -0.4), (roof + 0.15, -0.1)],
        look.third,
        look.ink,
        0.03,
    )
    s.rectangle(-0.98, 0.12, 0.98, 0.22, look.accent)
    s.stroke([(middle, -0.08), (middle, 0.36)], 0.03, look.ink)
    s.ellipse((0.93, 0.14), 0.08, look.third, look.ink, 0.03)
    for x in (-0.55, 0.55):
        s.ellipse((x, 0.42), 0.27, look.ink)
        s.ellipse((x, 0.42), 0.15, look.third, look.ink, 0.03)
        for k in range(3):
            a = math.pi * (look.phase + k / 3)
            dx, dy = 0.14 * math.cos(a), 0.14 * math.sin(a)
            s.stroke([(x - dx, 0.42 - dy), (x + dx, 0.42 + dy)], 0.04, look.ink)


def _clock(s: Sprite, look: Look) -> None:
    for x in (-0.5, 0.5):
        s.stroke([(x, 0.6), (x * 1.5, 0.98)], 0.14, look.ink)
    if look.variant < 0.6:
        s.ellipse((0, 0), 0.9, look.main, look.ink, 0.06)
    else:
        s.polygon(ellipse_points((0, 0), 0.96, math.pi / 8, (0, 7 / 8), 8), look.main, look.ink)
    s.ellipse((0, 0), 0.68, look.third, look.ink, 0.05)
    for k in range(12):
        a = 2 * math.pi * k / 12
        inner = 0.46 if k % 3 == 0 else 0.54
        c, d = math.cos(a), math.sin(a)
        s.stroke(
            [(inner * c, inner * d), (0.62 * c, 0.62 * d)], 0.07 if k % 3 == 0 else 0.04, look.ink
        )
    for a, length, width in ((look.phase, 0.5, 0.06), (look.phase * 12 % 1, 0.34, 0.09)):
        a *= 2 * math.pi
        s.stroke([(0, 0), (length * math.cos(a), length * math.sin(a))], width, look.ink)
    s.ellipse((0, 0), 0.08, look.accent)


def _drum(s: Sprite, look: Look) -> None:
    top, bottom = -0.4, 0.62
    s.ellipse((0, bottom), (0.86, 0.28), look.main, look.ink, 0.06)
    s.rectangle(-0.86, top, 0.86, bottom, look.main)
    s.stroke([(-0.86, top), (-0.86, bottom)], 0.06, look.ink)
    s.stroke([(0.86, top), (0.86, bottom)], 0.06, look.ink)
    count = 5 + int(3 * look.detail)
    xs = np.linspace(-0.84, 0.84, 2 * count + 1)
    sag = 0.26 * np.sqrt(np.maximum(0, 1 - (xs / 0.86) ** 2))
    ys = np.where(np.arange(len(xs)) % 2 == 0, top + 0.1, bottom - 0.1) + sag
    s.stroke(np.stack([xs, ys], 1), 0.06, look.third)
    for y in (top + 0.06, bottom - 0.04):
        s.stroke(ellipse_points((0, y), (0.86, 0.28), 0, (0, 0.5)), 0.12, look.accent)
    s.ellipse((0, top), (0.86, 0.28), look.third, look.ink, 0.06)
    tilt = look.pick(-0.15, 0.15, "phase")
    s.stroke([(-0.75, -0.95 + tilt), (0.1, -0.42)], 0.09, look.accent)
    s.stroke([(0.8, -0.9 - tilt), (-0.05, -0.36)], 0.09, look.accent)


def _flute(s: Sprite, look: Look) -> None:
    half = look.pick(0.18, 0.24, "variant")
    s.rectangle(-1.0, -half, 1.0, half, look.main, look.ink, 0.05)
    s.rectangle(-1.0, -half, 1.0, -half * 0.45, look.third)
    for x in (-0.98, -0.5, 0.9):
        s.rectangle(x - 0.05, -half * 1.35, x + 0.05, half * 1.35, look.accent, look.ink, 0.03)
    s.ellipse((-0.74, -0.02), (0.12, half * 0.75), look.ink)
    for x in np.linspace(-0.3, 0.75, 5 + int(3 * look.detail)):
        s.ellipse((x, 0.02), (0.065, half * 0.6), look.ink)


def _guitar(s: Sprite, look: Look) -> None:
    s.rectangle(-0.09, -0.85, 0.09, 0.1, look.shade, look.ink, 0.04)
    s.polygon([(-0.1, -0.78), (-0.17, -1.0), (0.17, -1.0), (0.1, -0.78)], look.accent, look.ink)
    for y in np.linspace(-0.72, -0.15, 6):
        s.stroke([(-0.09, y), (0.09, y)], 0.03, look.third)
    waist = look.pick(0.26, 0.36, "variant")
    outline = smooth_curve(
        [
            (0.06, -0.12),
            (0.36, -0.08),
            (0.42, 0.12),
            (waist, 0.32),
            (0.52, 0.55),
            (0.46, 0.88),
            (0, 1),
        ]
    )
    s.polygon(_mirrored(outline), look.main, look.ink, 0.06)
    s.ellipse((0, 0.34), 0.2, look.third)
    s.ellipse((0, 0.34), 0.15, look.ink)
    s.rectangle(-0.26, 0.7, 0.26, 0.79, look.ink)
    for x in (-0.06, 0.0, 0.06):
        s.stroke([(x, -0.8), (x, 0.72)], 0.02, look.third)


def _harp(s: Sprite, look: Look) -> None:
    neck = smooth_curve(
        [(-0.78, -0.82), (-0.3, -0.98), (0.1, -0.6), (0.6, -0.72), (0.86, -0.5)], 20
    )
    base = (-0.55, 0.9)
    s.polygon(np.concatenate([neck, [base]]), look.third)
    count = 7 + int(4 * look.detail)
    for k in range(1, count):
        f = k / count
        x, y = neck[int(f * (len(neck) - 1))]
        foot = (base[0] + f * (0.86 - base[0]), base[1] + f * (-0.5 - base[1]))
        s.stroke([(x, y), foot], 0.025, look.ink)
    s.stroke([base, (0.86, -0.5)], 0.2, look.ink)
    s.stroke([base, (0.86, -0.5)], 0.13, look.main)
    s.stroke([(-0.78, -0.82), base], 0.2, look.ink)
    s.stroke([(-0.78, -0.82), base], 0.13, look.accent)
    s.stroke(neck, 0.24, look.ink)
    s.stroke(neck, 0.16, look.main)
    s.ellipse((-0.78, -0.82), 0.16, look.accent, look.ink)
    s.rectangle(-0.85, 0.84, -0.2, 1.0, look.main, look.ink)


def _helicopter(s: Sprite, look: Look) -> None:
    s.stroke([(-0.2, 0.5), (-0.2, 0.8)], 0.06, look.ink)
    s.stroke([(0.4, 0.5), (0.4, 0.8)], 0.06, look.ink)
    s.stroke([(-0.5, 0.82), (0.75, 0.82), (0.86, 0.72)], 0.09, look.ink)
    s.polygon([(0.0, -0.1), (-0.9, -0.02), (-0.9, 0.12), (0.0, 0.4)], look.accent, look.ink)
    s.polygon([(-0.82, 0.02), (-1.0, -0.34), (-0.82, -0.34), (-0.7, 0.02)], look.main, look.ink)
    s.ellipse((-0.9, 0.05), 0.17, look.third, look.ink, 0.04)
    a = math.pi * look.phase
    dx, dy = 0.16 * math.cos(a), 0.16 * math.sin(a)
    s.stroke([(-0.9 - dx, 0.05 - dy), (-0.9 + dx, 0.05 + dy)], 0.06, look.ink)
    s.ellipse((0.22, 0.15), (0.62, 0.42), look.main, look.ink, 0.06)
    window = ellipse_points((0.4, 0.08), (0.38, 0.26), 0, (-0.27, 0.27), 20)
    s.polygon(window, look.third, look.ink, 0.04)
    s.stroke([(-0.3, 0.28), (0.76, 0.36)], 0.07, look.accent)
    s.stroke([(0.12, -0.25), (0.12, -0.55)], 0.1, look.ink)
    tilt = look.pick(-0.08, 0.08, "variant")
    s.polygon(
        [(-0.8, -0.62 + tilt), (1.0, -0.62 - tilt), (1.0, -0.5 - tilt), (-0.8, -0.5 + tilt)],
        look.shade,
        look.ink,
        0.03,
    )


def _piano(s: Sprite, look: Look) -> None:
    for x in (-0.8, 0.8):
        s.rectangle(x - 0.1, 0.3, x + 0.1, 0.95, look.shade, look.ink)
    s.rectangle(-0.9, -0.85, 0.9, 0.3, look.main, look.ink, 0.06)
    s.rectangle(-0.98, -0.95, 0.98, -0.78, look.accent, look.ink)
    s.rectangle(-0.72, -0.66, -0.06, -0.24, look.shade, look.ink, 0.03)
    s.rectangle(0.06, -0.66, 0.72, -0.24, look.shade, look.ink, 0.03)
    s.rectangle(-0.7, 0.4, 0.7, 0.72, look.shade, look.ink, 0.04)
    s.rectangle(-1.0, -0.12, 1.0, 0.36, look.third, look.ink, 0.05)
    keys = 9 + int(4 * look.detail)
    xs = np.linspace(-1.0, 1.0, keys + 1)
    for k, x in enumerate(xs[1:-1]):
        s.stroke([(x, -0.1), (x, 0.34)], 0.025, look.ink)
        if (k + int(7 * look.phase)) % 7 not in (2, 6):
            s.rectangle(x - 0.05, -0.12, x + 0.05, 0.14, look.ink)


def _saxophone(s: Sprite, look: Look) -> None:
    spine = smooth_curve(
        [
            (-0.72, -0.78),
            (-0.35, -0.85),
            (-0.18, -0.55),
            (-0.08, 0.1),
            (0.0, 0.55),
            (0.3, 0.78),
            (0.6, 0.5),
            (0.72, -0.05),
        ],
        30,
    )
    tangent = np.gradient(spine, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    width = np.interp(np.arange(30), [0, 6, 22, 27, 29], [0.05, 0.09, 0.19, 0.24, 0.36])[:, None]
    width = width * look.pick(0.9, 1.12, "variant")
    s.polygon(
        np.concatenate([spine + width * normal, (spine - width * normal)[::-1]]),
        look.main,
        look.ink,
        0.06,
    )
    s.ellipse(spine[-1], (0.36, 0.12), look.ink)
    s.stroke([(-1.0, -0.66), (-0.72, -0.78)], 0.14, look.ink)
    for k in range(9, 21, 2):
        s.ellipse(spine[k], 0.085, look.accent, look.ink, 0.03)
        s.stroke([spine[k], spine[k] + 0.26 * normal[k]], 0.05, look.ink)
    s.stroke(spine[8:26] - 0.06 * normal[8:26], 0.035, look.third)


_DRAWINGS = {
    "bell": _bell,
    "bird": _bird,
    "boat": _boat,
    "car": _car,
    "clock": _clock,
    "drum": _drum,
    "flute": _flute,
    "guitar": _guitar,
    "harp": _harp,
    "helicopter": _helicopter,
    "piano": _piano,
    "saxophone": _saxophone,
}


def draw_look(class_index: int, rng: np.random.Generator) -> Look:
    """The look of an instance of a class (1-based) from the instance's stream."""
    return Look.draw(rng, TYPICAL_HUES[CLASS_NAMES[class_index]])


def draw_object(class_index: int, look: Look, size: int) -> np.ndarray:
    """Draws an instance as a (size, size, 4) uint8 RGBA sprite with premultiplied colour."""
    sprite = Sprite(size, look.outline)
    _DRAWINGS[CLASS_NAMES[class_index]](sprite, look)
    return sprite.shaded(look)
