"""The two texts of a clip (method 4.4), as an imperfect multimodal model would write them."""

import math

import numpy as np

from tfds_builders.avs_builtin.catalogue import CLASS_NAMES
from tfds_builders.avs_builtin.scene import Actor, Scene
from tfds_builders.avs_builtin.sprite import Look

WRONG_SHARE = 0.1
_HUES = ("red", "orange", "yellow", "green", "green", "turquoise", "light blue", "blue", "blue",
         "purple", "pink", "red")  # fmt: skip
_DIRECTIONS = ("to the right", "downwards", "to the left", "upwards")


def _describe(actor: Actor, look: Look, scene: Scene, name: str) -> str:
    x = actor.centre[0, 0] / scene.width
    side = actor.side / min(scene.height, scene.width)
    place = "On the left" if x < 0.36 else "On the right" if x > 0.64 else "In the middle"
    size = "small" if side < 0.3 else "large" if side > 0.42 else "medium-sized"
    colour = _HUES[int(look.hue * 12) % 12]
    what = f"{place} a {size} {colour} {name}"
    if not actor.moves:
        return f"{what} stands still"
    step = actor.centre[1] - actor.centre[0]
    heading = round(math.atan2(step[1], step[0]) / (math.pi / 2)) % 4
    return f"{what} moves {_DIRECTIONS[heading]}"


def describe(scene: Scene, looks: list[Look], rng: np.random.Generator) -> dict[str, str]:
    """Texts A1 ('scene') and A2 ('sounding') of a clip.

    A1 tells place, size, colour and motion of every object, the farthest first; A2 names what
    sounds, 'bell' or 'bell and car'. In one of ten clips something is wrong: an object left out,
    one taken for another class, or silent things said to sound.
    """
    names = [actor.name for actor in scene.actors]
    heard = [actor.name for actor in scene.actors if actor.sounding.any()]
    told = list(range(len(names)))
    fault, kind, which, other = rng.random(4)
    if fault < WRONG_SHARE:
        k = int(which * len(names))
        if kind < 0.4:
            absent = sorted(set(CLASS_NAMES[1:]) - set(names))
            mistaken = absent[int(other * len(absent))]
            heard = [mistaken if name == names[k] else name for name in heard]
            names[k] = mistaken
        elif kind < 0.7 and len(names) > 1:
            told.remove(k)
            heard = [name for name in heard if name != names[k]]
        else:
            heard = [names[k]]
    parts = [_describe(scene.actors[k], looks[k], scene, names[k]) for k in told]
    return {"scene": "; ".join(parts) + ".", "sounding": " and ".join(sorted(heard))}
