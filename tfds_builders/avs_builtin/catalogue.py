"""What exists in the built-in world: classes, splits, subsets and the random streams."""

import numpy as np

# Twelve of AVSBench's seventy classes (avsbench.md 2.4), alphabetical, so that index + 1 is the
# value in an exported label2idx.json as in the original.
CLASS_NAMES = (
    "background",
    "bell",
    "bird",
    "boat",
    "car",
    "clock",
    "drum",
    "flute",
    "guitar",
    "harp",
    "helicopter",
    "piano",
    "saxophone",
)
NUM_CLASSES = len(CLASS_NAMES)
# The hue (0..1) that most instances of a class have about them, as brass, wood or lacquer have.
# Hues of neighbours overlap and some instances are of any colour, so shape has the last word.
TYPICAL_HUES = {
    "bell": 0.13,
    "bird": 0.63,
    "boat": 0.55,
    "car": 0.97,
    "clock": 0.30,
    "drum": 0.88,
    "flute": 0.47,
    "guitar": 0.05,
    "harp": 0.72,
    "helicopter": 0.38,
    "piano": 0.80,
    "saxophone": 0.21,
}
SPLITS = ("train", "val", "test")
SUBSETS = ("v1s", "v1m", "v2")
FRAMES_PER_CLIP = {"v1s": 5, "v1m": 5, "v2": 10}
# Instances a split draws from, for every class: many for training, so that looks and voices vary.
INSTANCES = {"train": 500, "val": 100, "test": 100}

# The first number of every seed tells what the stream is for, so no two streams ever coincide.
_PLAN, _LOOK, _VOICE, _RENDER, _SOUND, _NAME, _TEXT = range(7)


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def clip_streams(seed: int, split: str, subset: str, index: int) -> dict[str, np.random.Generator]:
    """Independent random streams of one clip: 'plan', 'render', 'sound', 'name', 'text'."""
    key = (SPLITS.index(split), SUBSETS.index(subset), index)
    kinds = {"plan": _PLAN, "render": _RENDER, "sound": _SOUND, "name": _NAME, "text": _TEXT}
    return {name: _stream(kind, seed, *key) for name, kind in kinds.items()}


def instance_stream(seed: int, split: str, class_index: int, number: int, *, voice: bool):
    """Random stream of one object instance's look, or of its voice.

    The split is part of the seed, so training, validation and test share no instance.
    """
    kind = _VOICE if voice else _LOOK
    return _stream(kind, seed, SPLITS.index(split), class_index, number)


def instance_id(split: str, class_index: int, number: int) -> str:
    """Name of an instance, unique over splits, such as 'train/bell/017'."""
    return f"{split}/{CLASS_NAMES[class_index]}/{number:03d}"
