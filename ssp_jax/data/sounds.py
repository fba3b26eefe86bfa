"""Which classes sound in a clip, and which clips may lend their sound to another."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ssp_jax.errors import UserError

Sounds = Literal["own", "silence", "noise", "foreign"]
# What nothing in the picture makes (AVSBench-Robust, arXiv 2502.00358).
NEGATIVE_SOUNDS: tuple[Sounds, ...] = ("silence", "noise", "foreign")


def negative_sounds(words: str) -> list[str]:
    """The sounds that `config.negative_sounds` asks for, as 'silence,noise,foreign', or none.

    Raises:
      UserError: an unknown one.
    """
    asked = [word.strip() for word in words.split(",") if word.strip()]
    if not set(asked) <= set(NEGATIVE_SOUNDS):
        raise UserError(
            f"config.negative_sounds={words!r}: expected some of {', '.join(NEGATIVE_SOUNDS)}, "
            "separated by commas, or nothing"
        )
    return [sound for sound in NEGATIVE_SOUNDS if sound in asked]


def category_sounds(
    category: str, sound_names: Sequence[str]
) -> tuple[Float[np.ndarray, " S"], bool]:
    """Multi-hot vector (float32) over `sound_names` of a clip's category, and whether it is known.

    A category is a class name as a whole (S4: "playing_violin") or several joined by "_" (AVSS and
    the built-in data: "girl_guitar"; their names contain no "_"). Other tokens, such as
    "off-the-screen", "background" or "h orse" (avsbench 2.2), are ignored. A category without a
    single known name, as MS3's empty one, says nothing: (zeros, False).
    """
    tokens = {category} if category in sound_names else set(category.split("_"))
    sounds = np.array([name in tokens for name in sound_names], np.float32)
    return sounds, bool(sounds.any())


def label_sounds(
    labels: UInt8[np.ndarray, "h w"], class_names: Sequence[str], sound_names: Sequence[str]
) -> Float[np.ndarray, " S"]:
    """Multi-hot vector (float32) over `sound_names` of the classes with a pixel in a label map.

    Only for semantic data, where the labelled objects are those that sound in that second.
    `class_names[c]` is the name of class index c, background included at 0.
    """
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(class_names)))
    names = {class_names[c] for c in present if 0 < c < len(class_names)}
    return np.array([name in names for name in sound_names], np.float32)


def table_sounds(
    categories: Sequence[str], sound_names: Sequence[str]
) -> tuple[Float[np.ndarray, "clips S"], Bool[np.ndarray, " clips"]]:
    """`category_sounds` of all clips; without `sound_names` each non-empty category is a class."""
    names = tuple(sound_names) or tuple(sorted({c for c in categories if c}))
    pairs = [category_sounds(category, names) for category in categories]
    sounds = np.array([pair[0] for pair in pairs], np.float32).reshape(len(pairs), len(names))
    return sounds, np.array([pair[1] for pair in pairs], bool)


def foreign_clips(
    sounds: Float[np.ndarray, "clips S"],
    seed: int,
    visible: Float[np.ndarray, "clips S"] | None = None,
) -> Int[np.ndarray, " clips"]:
    """Choose for each clip another one whose sound it is given, fixed by the seed.

    A permutation without fixed points (every sound is used once), in which as few clips as a
    search by swaps finds get a sound of a class that they show. For evaluation with foreign sounds
    (issue "A model that listens").

    Args:
      sounds: multi-hot, what sounds. visible: what is in the picture; that alone if not given.

    Raises:
      ValueError: fewer than two clips.
    """
    count = len(sounds)
    if count < 2:
        raise ValueError("foreign sounds need at least two clips")
    rng = np.random.default_rng([seed, count])
    order = rng.permutation(count)
    partner = np.empty(count, np.int64)
    partner[order] = np.roll(order, 1)  # one cycle over all clips: no fixed point
    everyone = np.arange(count)
    shares = ((sounds if visible is None else visible) @ sounds.T) > 0
    clash = shares[everyone, partner]
    for clip in order:
        if not clash[clip]:
            continue
        fits = ~shares[clip, partner] & ~shares[everyone, partner[clip]]
        fits &= (partner != clip) & (everyone != partner[clip]) & (everyone != clip)
        others = np.flatnonzero(fits)
        if len(others):
            other = rng.choice(others)
            partner[clip], partner[other] = partner[other], partner[clip]
            clash[clip] = clash[other] = False
    return partner


def lender_for(
    clip: int,
    sounds: Float[np.ndarray, "clips S"],
    known: Bool[np.ndarray, " clips"],
    rng: np.random.Generator,
    visible: Float[np.ndarray, " S"] | None = None,
) -> int | None:
    """A random clip whose known sound classes share none with what this clip shows, or None.

    None where this clip's classes are unknown or no such clip exists. `visible`: multi-hot; what
    sounds in the clip if not given.
    """
    if not known[clip]:
        return None
    shown = sounds[clip] if visible is None else visible
    others = np.flatnonzero(known & (sounds @ shown == 0))
    return int(rng.choice(others)) if len(others) else None
