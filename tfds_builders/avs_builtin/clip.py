"""From a scene to the example that is stored: frames, label maps, sound and texts."""

import dataclasses
import math

import cv2
import numpy as np

from tfds_builders.avs_builtin import background as backdrops
from tfds_builders.avs_builtin.catalogue import clip_streams, instance_stream
from tfds_builders.avs_builtin.objects import draw_look, draw_object
from tfds_builders.avs_builtin.scene import Scene, plan
from tfds_builders.avs_builtin.sounds import synthesise
from tfds_builders.avs_builtin.texts import describe
from tfds_builders.features import SAMPLE_RATE

_WINDOW = 15_360  # samples a frame sounds: VGGish's 0.96 s, so frame i belongs to window i
_RAMP = 240  # 15 ms, so that switching does not click
_SUPERSAMPLING = 1.4


@dataclasses.dataclass(frozen=True)
class Clip:
    """A rendered clip of T frames, A of them annotated.

    Attributes:
      scene: what it shows. frames: (T, H, W, 3) uint8 RGB.
      labels: (A, H, W) uint8 class of what sounds, 0 elsewhere.
      objects: (A, H, W) uint8 class of every visible object. moving: (A, H, W) uint8, 1 where
        that object moves.
      waveform: (T * 16000,) int16, mono, 16 kHz. texts: 'scene' and 'sounding'.
    """

    scene: Scene
    frames: np.ndarray
    labels: np.ndarray
    objects: np.ndarray
    moving: np.ndarray
    waveform: np.ndarray
    texts: dict[str, str]


def render(scene: Scene) -> Clip:
    """Renders a scene; pure, the same scene always gives the same clip."""
    streams = clip_streams(scene.seed, scene.split, scene.subset, scene.index)
    looks = [
        draw_look(
            a.class_index,
            instance_stream(scene.seed, scene.split, a.class_index, a.number, voice=False),
        )
        for a in scene.actors
    ]
    frames, owners = _render_frames(scene, looks, streams["render"])
    classes = np.array([0, *(a.class_index for a in scene.actors)], np.uint8)
    moves = np.array([0, *(a.moves for a in scene.actors)], np.uint8)
    sounding = np.array([[False] * scene.num_frames, *(a.sounding for a in scene.actors)])
    return Clip(
        scene=scene,
        frames=frames,
        labels=np.stack([(classes * sounding[:, i])[o] for i, o in enumerate(owners)]),
        objects=np.stack([classes[o] for o in owners]),
        moving=np.stack([moves[o] for o in owners]),
        waveform=_render_sound(scene, streams["sound"]),
        texts=describe(scene, looks, streams["text"]),
    )


def _render_frames(scene: Scene, looks, rng: np.random.Generator):
    """(T, H, W, 3) frames and, for annotated frames, (A, H, W) which actor (1-based) is seen."""
    height, width = scene.height, scene.width
    reach_x, reach_y = scene.camera.max(0)
    wide = backdrops.background(rng, int(height + reach_y), int(width + reach_x))
    front = backdrops.foreground(rng, int(height + reach_y), int(width + reach_x))
    sprites = [
        draw_object(a.class_index, look, math.ceil(_SUPERSAMPLING * a.side))
        for a, look in zip(scene.actors, looks, strict=True)
    ]
    gain = 0.8 + 0.35 * rng.random()
    grain = cv2.merge([rng.integers(-3, 4, (height + 32, width + 32), dtype=np.int16)] * 3)
    frames = np.empty((scene.num_frames, height, width, 3), np.uint8)
    owners = np.zeros((scene.num_annotated, height, width), np.uint8)
    for i, (x, y) in enumerate(scene.camera):
        view = slice(y, y + height), slice(x, x + width)
        frame = wide[view].copy()
        owner = owners[i] if i < scene.num_annotated else None
        for k, (actor, look, sprite) in enumerate(zip(scene.actors, looks, sprites, strict=True)):
            _draw_actor(frame, owner, k + 1, sprite, look.aspect, actor.side,
                        actor.centre[i], actor.angle[i])  # fmt: skip
        if front is not None:
            hidden = front[view][..., 3] > 0
            frame[hidden] = front[view][hidden][:, :3]
            if owner is not None:
                owner[hidden] = 0
        dy, dx = rng.integers(0, 32, 2)
        lit = cv2.convertScaleAbs(frame, alpha=gain)
        frames[i] = cv2.add(lit, grain[dy : dy + height, dx : dx + width], dtype=cv2.CV_8U)
    return frames, owners


def _draw_actor(frame, owner, mark, sprite, aspect, side, centre, angle) -> None:
    """Draws a sprite, turned and scaled, into `frame` and its `mark` into `owner` (or None)."""
    height, width = frame.shape[:2]
    stretch = np.array([math.sqrt(aspect), 1 / math.sqrt(aspect)])
    reach = 0.75 * side * stretch.max() + 1
    left, top = np.maximum(np.floor(centre - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centre + reach), (width, height)).astype(int)
    if left >= right or top >= bottom:
        return
    c, s = math.cos(angle), math.sin(angle)
    linear = np.array([[c, -s], [s, c]]) * (side / sprite.shape[0]) * stretch
    # Pixel centres sit at integers in OpenCV, hence the halves.
    shift = centre - 0.5 - (left, top) - linear @ np.full(2, (sprite.shape[0] - 1) / 2)
    patch = cv2.warpAffine(
        sprite, np.column_stack([linear, shift]), (right - left, bottom - top),
        flags=cv2.INTER_LINEAR,
    )  # fmt: skip
    region = frame[top:bottom, left:right]
    opacity = cv2.cvtColor(patch[..., 3], cv2.COLOR_GRAY2BGR)
    kept = cv2.multiply(region, cv2.bitwise_not(opacity), scale=1 / 255)
    region[:] = cv2.add(kept, np.ascontiguousarray(patch[..., :3]))
    if owner is not None:
        owner[top:bottom, left:right][patch[..., 3] > 127] = mark


def _render_sound(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """(T * 16000,) int16: the sounding actors' voices, equally loud, over a faint noise floor."""
    num_samples = scene.num_frames * SAMPLE_RATE
    mix = np.zeros(num_samples, np.float32)
    for actor in scene.actors:
        if not actor.sounding.any():
            continue
        voice = instance_stream(
            scene.seed, scene.split, actor.class_index, actor.number, voice=True
        )
        mix += (
            (0.8 + 0.45 * rng.random())
            * synthesise(actor.class_index, voice, rng, num_samples)
            * gate(actor.sounding, num_samples)
        )
    level = 10 ** (-(22 + 8 * rng.random()) / 20)
    floor = 10 ** (-(58 + 10 * rng.random()) / 20)
    mix = level * mix + floor * rng.standard_normal(num_samples, dtype=np.float32)
    return np.round(32767 * np.clip(mix, -1, 1)).astype(np.int16)


def gate(sounding: np.ndarray, num_samples: int) -> np.ndarray:
    """(num_samples,) float32 0..1: open over [0.96 i, 0.96 (i + 1)) s where second i sounds.

    The tail behind the last window keeps the last second's state.
    """
    seconds = np.minimum(np.arange(num_samples) // _WINDOW, len(sounding) - 1)
    hard = sounding[seconds].astype(np.float32)
    steps = np.flatnonzero(np.diff(hard))
    for step in steps:  # ramps lie inside the sounding second
        rising = hard[step + 1] > hard[step]
        ramp = np.linspace(0, 1, _RAMP, dtype=np.float32)
        if rising:
            hard[step + 1 : step + 1 + _RAMP] = ramp
        else:
            hard[step + 1 - _RAMP : step + 1] = ramp[::-1]
    return hard


def encode_frame(frame: np.ndarray) -> bytes:
    """JPEG (quality 95) bytes of an (H, W, 3) uint8 RGB frame."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95]
    )
    return data.tobytes()


def encode_map(label: np.ndarray) -> bytes:
    """PNG bytes of an (H, W) uint8 map of class indices."""
    _, data = cv2.imencode(".png", label, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


def clip(seed: int, split: str, subset: str, index: int) -> dict:
    """One example in the form of `features.clip_features(with_objects=True)`, images encoded.

    Args:
      seed: of the whole data set. split: 'train', 'val' or 'test'. subset: 'v1s', 'v1m', 'v2'.
      index: 0-based clip number; a clip does not depend on how many others there are.
    """
    made = render(plan(seed, split, subset, index))
    scene = made.scene
    return {
        "uid": scene.uid,
        "vid": scene.vid,
        "subset": subset,
        "category": "_".join(scene.sounding_names),
        "frames": [encode_frame(frame) for frame in made.frames],
        "labels": [encode_map(label) for label in made.labels],
        "waveform": made.waveform,
        "annotated": np.arange(scene.num_frames) < scene.num_annotated,
        "texts": made.texts,
        "objects": [encode_map(label) for label in made.objects],
        "moving": [encode_map(label) for label in made.moving],
    }
