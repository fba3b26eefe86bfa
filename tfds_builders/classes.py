"""Names, colours and published numbers of AVSBench (sections refer to the page avsbench.md)."""

import numpy as np
from jaxtyping import UInt8

# AVSS: class index -> name (section 2.4).
AVSS_CLASSES: tuple[str, ...] = (
    "background",
    "accordion",
    "airplane",
    "axe",
    "baby",
    "bassoon",
    "bell",
    "bird",
    "boat",
    "boy",
    "bus",
    "car",
    "cat",
    "cello",
    "clarinet",
    "clipper",
    "clock",
    "dog",
    "donkey",
    "drum",
    "duck",
    "elephant",
    "emergency-car",
    "erhu",
    "flute",
    "frying-food",
    "girl",
    "goose",
    "guitar",
    "gun",
    "guzheng",
    "hair-dryer",
    "handpan",
    "harmonica",
    "harp",
    "helicopter",
    "hen",
    "horse",
    "keyboard",
    "leopard",
    "lion",
    "man",
    "marimba",
    "missile-rocket",
    "motorcycle",
    "mower",
    "parrot",
    "piano",
    "pig",
    "pipa",
    "saw",
    "saxophone",
    "sheep",
    "sitar",
    "sorna",
    "squirrel",
    "tabla",
    "tank",
    "tiger",
    "tractor",
    "train",
    "trombone",
    "truck",
    "trumpet",
    "tuba",
    "ukulele",
    "utv",
    "vacuum-cleaner",
    "violin",
    "wolf",
    "woman",
)

BINARY_CLASSES: tuple[str, ...] = ("background", "sounding object")  # S4, MS3

# S4's categories, each one AVSS class (section 2.4).
S4_TO_AVSS: dict[str, str] = {
    "ambulance_siren": "emergency-car",
    "baby_laughter": "baby",
    "cap_gun_shooting": "gun",
    "cat_meowing": "cat",
    "chainsawing_trees": "saw",
    "coyote_howling": "wolf",
    "dog_barking": "dog",
    "driving_buses": "bus",
    "female_singing": "woman",
    "helicopter": "helicopter",
    "horse_clip-clop": "horse",
    "lawn_mowing": "mower",
    "lions_roaring": "lion",
    "male_speech": "man",
    "mynah_bird_singing": "bird",
    "playing_acoustic_guitar": "guitar",
    "playing_glockenspiel": "marimba",
    "playing_piano": "piano",
    "playing_tabla": "tabla",
    "playing_ukulele": "ukulele",
    "playing_violin": "violin",
    "race_car": "car",
    "typing_on_computer_keyboard": "keyboard",
}

SPLITS = ("train", "val", "test")

# (subset, split) -> clips (section 2.3).
PUBLISHED_COUNTS: dict[tuple[str, str], int] = {
    ("v1s", "train"): 3452,
    ("v1s", "val"): 740,
    ("v1s", "test"): 740,
    ("v1m", "train"): 296,
    ("v1m", "val"): 64,
    ("v1m", "test"): 64,
    ("v2", "train"): 4750,
    ("v2", "val"): 500,
    ("v2", "test"): 750,
}

FRAMES_PER_CLIP = {"v1s": 5, "v1m": 5, "v2": 10}

# sha256 of the tables seen in public repositories (section 7).
PUBLISHED_SHA256 = {
    "metadata.csv": "241e3dfca576e5e30b631b75ef21a5e17bbab87d775a09a8e1304dc16faf6a40",
    "s4_meta_data.csv": "e70e3618f6cd24c70271584293eae9cdf1fc4a9b43c18910ef57ffb63eccc848",
    "ms3_meta_data.csv": "91dec80b8b2108c5367c79a61914e1d93576c2591a678944a2cd6d0b22a7d153",
    "label2idx.json": "2aeea19c3f54824b5f1cea9edf9e1031e1b2751a55cb64bcfc9a5db2f4e270b6",
}

# S4 videos that start at second 6 of ten: whoever cuts the frames anew gets four (section 1.1).
START_6_VIDEOS = frozenset(
    [
        "d-adbXZYHxI",
        "DPlSp0M9Mgs",
        "DpOPNpRDZMk",
        "sPm0vT9fyoY",
        "_dRqfb20DdU",
        "bC8vaaJF-kk",
        "2eEPiCh9bZo",
        "0ioRPfQzAW0",
        "JTbensAt_SE",
        "36AsCpqS3z0",
        "BtrmVCFYLYU",
        "NCnxDcaltzo",
        "4UdR7R1RHh0",
        "8M1AO0uEYck",
    ]
)

MAX_CLASSES = 255  # label maps are 8-bit; 255 is free to mark what is unknown


def palette(num_classes: int) -> UInt8[np.ndarray, "K 3"]:
    """RGB colour of every class index: PASCAL VOC's bit pattern (section 2.4).

    The bits of the index, lowest first, go in threes to red, green and blue, filling each channel
    from its highest bit downwards.

    Raises:
      ValueError: more than 256 classes.
    """
    if not 0 <= num_classes <= 256:
        raise ValueError(f"a palette of 0..256 colours, not {num_classes}")
    index = np.arange(num_classes)
    colours = np.zeros((num_classes, 3), np.uint8)
    for bit in range(8):
        group, channel = divmod(bit, 3)
        colours[:, channel] |= (((index >> bit) & 1) << (7 - group)).astype(np.uint8)
    return colours


def colour_table(num_classes: int) -> UInt8[np.ndarray, "16777216"]:
    """Look-up table from 24-bit colour (R * 65536 + G * 256 + B) to class index.

    Colours outside the palette read 255. 16 MiB.
    """
    table = np.full(1 << 24, 255, np.uint8)
    red, green, blue = palette(num_classes).astype(np.int64).T
    table[red << 16 | green << 8 | blue] = np.arange(num_classes, dtype=np.uint8)
    return table


def class_names_from_json(mapping: object) -> tuple[str, ...]:
    """Class names in index order from the content of label2idx.json (name -> index + 1).

    Raises:
      ValueError: not an object of the integers 1..K, each once, 2 <= K <= 255.
    """
    if not isinstance(mapping, dict) or not all(type(v) is int for v in mapping.values()):
        raise ValueError("expected an object of names and integers")
    if not 2 <= len(mapping) <= MAX_CLASSES:
        raise ValueError(f"{len(mapping)} classes, expected 2..{MAX_CLASSES}")
    names = sorted(mapping, key=mapping.__getitem__)
    if [mapping[name] for name in names] != list(range(1, len(names) + 1)):
        raise ValueError(f"expected the values 1..{len(names)}, each once (class index + 1)")
    return tuple(names)


def count_finding(counted: dict[tuple[str, str], int]) -> str | None:
    """Say how (subset, split) counts differ from the published ones, None if they do not."""
    differing = [
        f"{subset} {split} {count} (published: {PUBLISHED_COUNTS[subset, split]})"
        for (subset, split), count in counted.items()
        if count != PUBLISHED_COUNTS[subset, split]
    ]
    return f"other clip counts than published: {', '.join(differing)}" if differing else None
