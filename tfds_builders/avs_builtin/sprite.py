"""A small drawing surface: anti-aliased shapes on a premultiplied RGBA sprite."""

import colorsys
import dataclasses
import math

import cv2
import numpy as np

Colour = tuple[int, int, int]
_SHIFT = 4  # OpenCV's fixed-point drawing: 1/16 pixel
_ANY_HUE_SHARE = 1 / 6
_HALF_EXTENT = 1.15  # shapes live in [-1, 1]; the rest is margin for outlines


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


@dataclasses.dataclass(frozen=True)
class Look:
    """How one object instance looks; every field is drawn from the instance's own stream.

    The body's hue is mostly the class's typical one; trim and inner parts have the same
    distribution for every class, and what is dark in one instance may be pale in the next.

    Attributes:
      hue: of the body, 0..1.
      main, accent, third, shade, ink: RGB of the body, its trim, its inner parts (dial, sail, keys
        ...), its lesser structure and its outlines.
      outline: relative width of outlines.
      aspect: width over height, about 0.8 to 1.25. flip: mirrored left to right.
      phase, detail: position (0..1) and density (0..1) of inner patterns.
      variant: 0..1, what each class makes of it (number of strings, shape of a body ...).
      light: direction the light comes from, radians.
    """

    hue: float
    main: Colour
    accent: Colour
    third: Colour
    shade: Colour
    ink: Colour
    outline: float
    aspect: float
    flip: bool
    phase: float
    detail: float
    variant: float
    light: float

    @classmethod
    def draw(cls, rng: np.random.Generator, typical_hue: float) -> "Look":
        """Draws a look from an instance stream; one of six instances has any hue at all."""
        u = rng.random(9)
        hue = (typical_hue + 0.03 * rng.standard_normal()) % 1.0
        if u[0] < _ANY_HUE_SHARE:
            hue = u[0] / _ANY_HUE_SHARE
        value = 0.5 + 0.5 * u[1]
        main = _rgb(hue, 0.55 + 0.45 * rng.random(), value)
        accent = _contrasting(rng, (main,), hue, 0.3, 1.0)
        third = _contrasting(rng, (main, accent), hue, 0.0, 0.9)
        pale_ink = u[2] < 0.2
        ink = _rgb(hue, 0.2 if pale_ink else 0.8, 0.97 if pale_ink else 0.04 + 0.26 * rng.random())
        return cls(
            hue=hue,
            main=main,
            accent=accent,
            third=third,
            shade=_contrasting(rng, (main,), hue, 0.4, 1.0, near=True),
            ink=ink,
            outline=0.6 + 0.7 * u[3],
            aspect=0.8 * (1.25 / 0.8) ** u[4],
            flip=bool(u[5] < 0.5),
            phase=u[6],
            detail=u[7],
            variant=u[8],
            light=2 * math.pi * rng.random(),
        )

    def pick(self, low: float, high: float, which: str = "detail") -> float:
        """A value between low and high chosen by one of the 0..1 fields."""
        return low + (high - low) * getattr(self, which)


def _contrasting(rng, others, hue: float, least: float, most: float, *, near=False) -> Colour:
    """The best of six random colours: the one farthest from `others`; `near`: of a similar hue.

    Saturation lies between `least` and `most`.
    """
    best, best_distance = None, -1.0
    for a, b, c in rng.random((6, 3)):
        tone = hue + 0.06 * (a - 0.5) if near else a
        colour = _rgb(tone, least + (most - least) * b, 0.25 + 0.75 * c)
        distance = min(math.dist(colour, other) for other in others)
        if distance > best_distance:
            best, best_distance = colour, distance
    return best


class Sprite:
    """RGBA drawing surface over [-1, 1] x [-1, 1] (x right, y down), colours premultiplied.

    Drawing anti-aliased on transparent black blends colour and opacity alike, which is exactly
    the premultiplied form that survives warping without dark fringes.
    """

    def __init__(self, size: int, outline: float = 1.0):
        self.outline = outline
        self.image = np.zeros((size, size, 4), np.uint8)
        self.scale = size / (2 * _HALF_EXTENT)

    def _fixed(self, points) -> np.ndarray:
        pixels = (np.asarray(points, np.float64) + _HALF_EXTENT) * self.scale - 0.5
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32).reshape(-1, 1, 2)

    def polygon(self, points, colour: Colour, outline: Colour | None = None, width: float = 0.05):
        """Fills a polygon; `outline` adds a closed stroke of `width` (in units) around it."""
        fixed = self._fixed(points)
        cv2.fillPoly(self.image, [fixed], (*colour, 255), cv2.LINE_AA, _SHIFT)
        if outline is not None:
            self._polyline(fixed, outline, self.outline * width, closed=True)

    def ellipse(self, centre, radii, colour, outline=None, width=0.05, angle=0.0, arc=(0.0, 1.0)):
        """Fills an ellipse; `angle` in radians; `arc` keeps a part of it (fractions of a turn)."""
        self.polygon(ellipse_points(centre, radii, angle, arc), colour, outline, width)

    def rectangle(self, left, top, right, bottom, colour, outline=None, width=0.05):
        """Fills an axis-parallel rectangle."""
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.polygon(corners, colour, outline, width)

    def stroke(self, points, width: float, colour: Colour, closed: bool = False):
        """Draws a polyline of `width` units."""
        self._polyline(self._fixed(points), colour, width, closed)

    def _polyline(self, fixed, colour, width, closed):
        thickness = max(1, round(width * self.scale))
        cv2.polylines(
            self.image, [fixed], closed, (*colour, 255), thickness, cv2.LINE_AA, shift=_SHIFT
        )

    def shaded(self, look: Look) -> np.ndarray:
        """The finished (size, size, 4) uint8 sprite, lit from `look.light`, mirrored if flipped."""
        size = self.image.shape[0]
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        field = math.cos(look.light) * ramp[None, :] + math.sin(look.light) * ramp[:, None]
        gain = (0.84 + 0.22 * field)[..., None]
        image = self.image.copy()
        lit = self.image[..., :3] * gain
        # Premultiplied colour may never exceed its opacity.
        image[..., :3] = np.minimum(lit, self.image[..., 3:])
        return image[:, ::-1].copy() if look.flip else image


def ellipse_points(centre, radii, angle=0.0, arc=(0.0, 1.0), count: int = 36) -> np.ndarray:
    """(count, 2) points on an ellipse; radii a number or a pair; x right, y down."""
    rx, ry = (radii, radii) if np.isscalar(radii) else radii
    t = 2 * np.pi * np.linspace(arc[0], arc[1], count)
    x, y = rx * np.cos(t), ry * np.sin(t)
    c, s = math.cos(angle), math.sin(angle)
    return np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], axis=1)


def smooth_curve(points, count: int = 40) -> np.ndarray:
    """(count, 2) points of a Catmull-Rom curve through the given points."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    segments = len(p) - 3
    t = np.linspace(0, segments - 1e-9, count)
    i = t.astype(int)
    u = (t - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return 0.5 * (
        2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3
    )
