"""What happens in a clip: which objects, where they go, when they sound. No pixels yet."""

import dataclasses
import math

import numpy as np

from tfds_builders.avs_builtin.catalogue import (
    CLASS_NAMES,
    FRAMES_PER_CLIP,
    INSTANCES,
    NUM_CLASSES,
    SPLITS,
    SUBSETS,
    clip_streams,
    instance_id,
)

# Mostly moving, about a third still; silent things move half of the time (the wording).
MOVES_IF_SOUNDING, MOVES_IF_SILENT = 0.67, 0.5
_NATIVE_SIZES = ((192, 256), (256, 192), (240, 240), (224, 224))  # v2: height, width
# Range of object sides, as a share of the shorter image side, by the number of objects.
_SIDES = {1: (0.32, 0.55), 2: (0.28, 0.52), 3: (0.24, 0.46), 4: (0.22, 0.42), 5: (0.20, 0.38)}
_PLACEMENT_TRIES = 24


@dataclasses.dataclass(frozen=True)
class Actor:
    """One object of a clip.

    Attributes:
      class_index: 1-based class. number: which instance of the class in this split.
      instance: the instance's id, unique over splits.
      side: length of the drawing's box in pixels.
      centre: (T, 2) x, y in pixels per frame. angle: (T,) radians, clockwise.
      moves: moves against the scene (camera motion does not count).
      sounding: (T,) bool, heard in that second.
    """

    class_index: int
    number: int
    instance: str
    side: float
    centre: np.ndarray
    angle: np.ndarray
    moves: bool
    sounding: np.ndarray

    @property
    def name(self) -> str:
        """Class name."""
        return CLASS_NAMES[self.class_index]


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip before rendering.

    Attributes:
      seed, split, subset, index: what the clip is a pure function of.
      vid, uid: names in AVSBench's form. start: start second in the (imaginary) video.
      height, width: of the frames in pixels. num_annotated: labels for the first so many frames.
      actors: from the farthest to the nearest.
      camera: (T, 2) integer x, y of the view in the background, >= 0.
    """

    seed: int
    split: str
    subset: str
    index: int
    vid: str
    uid: str
    start: int
    height: int
    width: int
    num_annotated: int
    actors: tuple[Actor, ...]
    camera: np.ndarray

    @property
    def num_frames(self) -> int:
        """T, one frame a second."""
        return len(self.camera)

    @property
    def sounding_names(self) -> list[str]:
        """Names of the classes that sound at any time, alphabetical."""
        return sorted(a.name for a in self.actors if a.sounding.any())


def plan(seed: int, split: str, subset: str, index: int) -> Scene:
    """Decides everything about clip `index` of a split and subset except its pixels and samples.

    Pure and independent of every other clip; classes are drawn uniformly for sounding and for
    silent objects alike, and no class appears twice in a clip.
    """
    streams = clip_streams(seed, split, subset, index)
    rng, num_frames = streams["plan"], FRAMES_PER_CLIP[subset]
    height, width = (224, 224)
    if subset == "v2":
        height, width = _NATIVE_SIZES[int(rng.integers(len(_NATIVE_SIZES)))]
    schedule = _schedule(rng, subset, num_frames)
    camera = _camera_path(rng, num_frames, min(height, width))
    classes = 1 + rng.permutation(NUM_CLASSES - 1)[: len(schedule)]
    side_range = _SIDES[len(schedule)]
    placed: list[Actor] = []
    for class_index, sounding in zip(classes.tolist(), schedule, strict=True):
        moves = rng.random() < (MOVES_IF_SOUNDING if sounding.any() else MOVES_IF_SILENT)
        number = int(rng.integers(INSTANCES[split]))
        side = min(height, width) * (side_range[0] + np.ptp(side_range) * rng.random())
        centre = _place(rng, placed, side, bool(moves), camera, (width, height))
        angle = np.full(num_frames, math.radians(22) * (2 * rng.random() - 1))
        if moves:
            sway = math.radians(12) * rng.random()
            angle = angle + sway * np.sin(2.1 * np.arange(num_frames) + 6.3 * rng.random())
        placed.append(
            Actor(
                class_index=class_index,
                number=number,
                instance=instance_id(split, class_index, number),
                side=side,
                centre=centre,
                angle=angle,
                moves=bool(moves),
                sounding=sounding,
            )
        )
    order = rng.permutation(len(placed))
    vid, uid, start = clip_names(seed, split, subset, index)
    return Scene(
        seed=seed,
        split=split,
        subset=subset,
        index=index,
        vid=vid,
        uid=uid,
        start=start,
        height=height,
        width=width,
        num_annotated=1 if (subset, split) == ("v1s", "train") else num_frames,
        actors=tuple(placed[k] for k in order),
        camera=camera,
    )


def _schedule(rng: np.random.Generator, subset: str, num_frames: int) -> list[np.ndarray]:
    """Per object a (T,) bool array of the seconds it sounds in; silent objects come last."""
    on, off = np.ones(num_frames, bool), np.zeros(num_frames, bool)
    if subset == "v1s":
        return [on] + [off] * (1 + int(rng.random() < 0.65))
    if subset == "v1m":
        count = 2 + int(rng.random() < 0.5)
        silent = 1 + int(rng.random() < 0.5)
        return [_switching(rng, num_frames, 0.38) for _ in range(count)] + [off] * silent
    count = 1 + int(np.searchsorted((0.5, 0.85), rng.random()))
    silent = 1 + int(rng.random() < 0.5)
    heard = [on if rng.random() < 0.4 else _switching(rng, num_frames, 0.3) for _ in range(count)]
    return heard + [off] * silent


def _switching(rng: np.random.Generator, num_frames: int, flip: float) -> np.ndarray:
    """Switches off with probability `flip` a second and on a little sooner; on at least once."""
    u = rng.random(num_frames)
    heard = np.empty(num_frames, bool)
    heard[0] = u[0] < 0.6
    for i in range(1, num_frames):
        heard[i] = u[i] >= flip if heard[i - 1] else u[i] < 1.4 * flip
    if not heard.any():
        heard[int(rng.integers(num_frames))] = True
    return heard


def _camera_path(rng: np.random.Generator, num_frames: int, side: int) -> np.ndarray:
    """(T, 2) integer pan, to and fro within a fifth of the image; constant in four of ten clips."""
    pans, direction, speed, start = rng.random(4)
    if pans < 0.4:
        return np.zeros((num_frames, 2), np.int64)
    reach, speed = 0.2, 0.02 + 0.035 * speed
    travelled = reach * start + speed * np.arange(num_frames)
    travelled = reach - np.abs(travelled % (2 * reach) - reach)
    heading = 2 * math.pi * direction
    path = side * travelled[:, None] * (math.cos(heading), math.sin(heading))
    return np.round(path - path.min(0)).astype(np.int64)


def _place(rng, placed, side, moves, camera, size) -> np.ndarray:
    """(T, 2) path of a new object's centre that overlaps those already placed only partly."""
    best, best_overlap = None, math.inf
    for _ in range(_PLACEMENT_TRIES):
        path = _path(rng, side, moves, camera, np.asarray(size, np.float64))
        overlap = 0.0
        for other in placed:
            distance = np.linalg.norm(path - other.centre, axis=1)
            overlap = max(overlap, float((1 - distance / (0.42 * (side + other.side))).max()))
        if overlap < best_overlap:
            best, best_overlap = path, overlap
        if overlap < 0.25:
            break
    return best


def _path(rng, side, moves, camera, size) -> np.ndarray:
    """(T, 2) of one candidate path: still in the scene, or straight on and back at the borders."""
    num_frames = len(camera)
    margin = np.minimum(0.45 * side, 0.45 * size)
    sway = camera - camera.mean(0)
    where, heading, speed = rng.random(2), 2 * math.pi * rng.random(), 0.07 + 0.08 * rng.random()
    if not moves:
        room = np.minimum(margin + np.abs(sway).max(0), 0.49 * size)
        return room + (size - 2 * room) * where - sway
    room = size - 2 * margin
    step = speed * size.min() * np.array([math.cos(heading), math.sin(heading)])
    free = room * where + step * np.arange(num_frames)[:, None] - sway
    return margin + room - np.abs(free % (2 * room) - room)


def clip_names(seed: int, split: str, subset: str, index: int) -> tuple[str, str, int]:
    """vid, uid and start second of a clip, formed as in AVSBench; unique even in lower case."""
    rng = clip_streams(seed, split, subset, index)["name"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    letters = "".join(alphabet[k] for k in rng.integers(0, 64, 5))
    code = SPLITS.index(split) * 3 + SUBSETS.index(subset)
    video = f"{letters}{code}{index:05d}"
    if subset == "v1m":
        name = f"{video}_{int(rng.integers(1, 10))}"
        return name, name, 0
    start = int(rng.integers(0, 6)) if subset == "v1s" else int(rng.integers(0, 90))
    end = start + FRAMES_PER_CLIP[subset]
    return video, f"{video}_{start * 1000}_{end * 1000}", start
