"""How one mask file is read, for preparing and scoring, truth and predictions alike.

What a viewer shows decides, never the order of a palette: a file is grey (one value a pixel, of
whatever mode), in colours, or of class indices whose palette is AVSBench's own, where index and
colour say the same. A file that can be read in two ways is refused.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image

from tfds_builders.classes import colour_table, palette

_EXPECTED = "expected a single channel of 8 bits"
_table = functools.lru_cache(maxsize=2)(colour_table)


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """What a mask file shows; of the three kinds of values exactly one is there.

    Attributes:
      grey: values of a file without colour. codes: R * 65536 + G * 256 + B of one in colours.
      classes: indices, where the palette has AVSBench's colour at every index that occurs.
      bits: of a channel as stored. stored: "colours" (RGB), "values" (grey, or a palette that is
        the grey ramp), "palette" (any other).
    """

    grey: UInt8[np.ndarray, "h w"] | None
    codes: Int32[np.ndarray, "h w"] | None
    classes: UInt8[np.ndarray, "h w"] | None
    bits: int
    stored: str


def mask_file(picture: Image.Image, encoded: bytes) -> MaskFile:
    """Tell what a decoded file shows.

    Args:
      picture: the decoded file. encoded: its bytes, since Pillow does not keep the bit depth.

    Raises:
      ValueError: more than 8 bits; an alpha channel that says more than the colours; a palette
        that cannot be trusted.
    """
    bits = encoded[24] if picture.format == "PNG" else 8  # in IHDR, the first chunk
    if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise ValueError(f"a mask of mode {picture.mode}; {_EXPECTED}")
    if bits > 8:
        raise ValueError(f"a mask of {bits} bits a channel; {_EXPECTED}")
    if picture.mode == "P":
        found, alpha = _of_palette(picture, bits)
    else:
        found, alpha = _of_channels(picture, bits)
    if alpha is not None:
        values = next(v for v in (found.grey, found.codes, found.classes) if v is not None)
        _check_alpha(alpha, values)
    return found


def _of_channels(picture: Image.Image, bits: int) -> tuple[MaskFile, np.ndarray | None]:
    values, key = np.asarray(picture), picture.info.get("transparency")
    if picture.mode == "1":
        values = values.astype(np.uint8) * 255
    alpha = values[..., -1] if picture.mode in ("LA", "RGBA") else None
    if picture.mode in ("1", "L", "LA"):
        grey = values[..., 0] if picture.mode == "LA" else values
        if isinstance(key, int):  # as stored, while Pillow spreads values over 0..255
            alpha = np.where(grey == key * (255 // (2**bits - 1)), 0, 255)
        return MaskFile(np.ascontiguousarray(grey), None, None, bits, "values"), alpha
    colours = values[..., :3]
    if isinstance(key, tuple):
        alpha = np.where((colours == np.array(key)).all(-1), 0, 255)
    return _of_colours(colours, bits, "colours"), alpha


def _of_colours(colours: UInt8[np.ndarray, "h w 3"], bits: int, stored: str) -> MaskFile:
    if (colours == colours[..., :1]).all():  # grey stored as colour is still one channel
        return MaskFile(np.ascontiguousarray(colours[..., 0]), None, None, bits, stored)
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return MaskFile(None, red << 16 | green << 8 | blue, None, bits, stored)


def _of_palette(picture: Image.Image, bits: int) -> tuple[MaskFile, np.ndarray | None]:
    index = np.asarray(picture)
    table = np.array(picture.getpalette("RGB") or (), np.uint8).reshape(-1, 3)
    used = np.unique(index)
    if used[-1] >= len(table):
        raise ValueError(f"index {used[-1]}, and its palette has only {len(table)} colours")
    alpha, key = None, picture.info.get("transparency")
    if key is not None:
        opaque = np.full(256, 255, np.uint8)
        if isinstance(key, bytes):
            opaque[: len(key)] = np.frombuffer(key, np.uint8)[:256]
        else:
            opaque[key] = 0
        alpha = opaque[index]
    # Of one index alone a palette tells nothing that its colour does not.
    if len(used) > 1 and (table[used] == table[used[0]]).all():
        raise ValueError(
            f"{len(used)} indices that its palette shows in one and the same colour; save the mask "
            "without a palette"
        )
    if used.any() and (table[used] == palette(256)[used]).all():
        return MaskFile(None, None, index, 8, "palette"), alpha
    ramp = (table == np.arange(len(table))[:, None]).all()
    return _of_colours(table[index], 8, "values" if ramp else "palette"), alpha


def _check_alpha(alpha: np.ndarray, values: np.ndarray) -> None:
    """Refuse transparency that would be lost: all of it has to follow from the values."""
    if (alpha == 255).all():
        return
    ink = values > 0
    over, under = alpha[ink], alpha[~ink]
    even = all((part == part[0]).all() for part in (over, under) if part.size)
    if (
        even
        and (not over.size or over[0] > 0)
        and (not (over.size and under.size) or over[0] >= under[0])
    ):
        return
    if (values == values.flat[0]).all():
        raise ValueError(
            "a mask of one colour with an alpha channel: is the mask in the alpha channel? Save "
            "that alone, as a grey picture"
        )
    raise ValueError(
        "its alpha channel says something else than its colours; save the mask without alpha"
    )


def grey_values(mask: MaskFile) -> UInt8[np.ndarray, "h w"]:
    """Return the values of a mask of S4 or MS3, 0..255.

    Raises:
      ValueError: colours, or other classes than 0 and 1.
    """
    if mask.classes is not None:
        if mask.classes.max() > 1:
            raise ValueError(
                f"class index {mask.classes.max()} in AVSBench's colours; expected a mask of one "
                "object, 0 and 255"
            )
        return mask.classes * np.uint8(255)
    if mask.grey is None:
        kind = "whose palette is in colour" if mask.stored == "palette" else "in colour"
        raise ValueError(f"a mask {kind}; expected a single channel, 0 and 255")
    return mask.grey


def binary_labels(mask: MaskFile) -> tuple[UInt8[np.ndarray, "h w"], str | None]:
    """0/1 labels of an S4 or MS3 mask, and a warning where the file holds 0/1 itself.

    Raises:
      ValueError: values other than 0 and 255, or 0 and 1 (section 1.3).
    """
    values = grey_values(mask)
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    foreign = [int(v) for v in present if v not in (0, 255)]
    if foreign and foreign != [1]:
        shown = ", ".join(map(str, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
        raise ValueError(f"a mask with the values {shown}; expected 0 and 255")
    if foreign and 255 in present:
        raise ValueError("a mask with both 1 and 255; expected 0 and 255")
    warning = "a mask of 0 and 1, expected 0 and 255; read as foreground" if foreign else None
    return (values > 0).astype(np.uint8), warning


def class_indices(mask: MaskFile, num_classes: int) -> UInt8[np.ndarray, "h w"]:
    """Class indices of a file that holds these themselves.

    Raises:
      ValueError: no such class, or a file in colours.
    """
    labels = mask.grey if mask.classes is None else mask.classes
    if labels is None:
        raise ValueError("a mask in colour; expected class indices")
    if mask.classes is None and mask.bits == 1:
        labels = labels // 255
    elif mask.classes is None and mask.bits < 8 and labels.any():
        raise ValueError(
            f"grey of {mask.bits} bits, which may be class indices or multiples of "
            f"{255 // (2**mask.bits - 1)}; save 8 bits"
        )
    if labels.max() >= num_classes:
        raise ValueError(f"class index {labels.max()}; expected 0..{num_classes - 1}")
    return labels


def colour_labels(mask: MaskFile, num_classes: int) -> tuple[UInt8[np.ndarray, "h w"], str | None]:
    """Class indices of a colour-coded label file, and what was found outside the palette.

    Pixels of an unknown colour become background, as in every public repository (section 2.2).
    """
    if mask.classes is not None:
        known = mask.classes < num_classes
        codes = _codes(palette(256)[mask.classes])
        labels = np.where(known, mask.classes, 0).astype(np.uint8)
    else:
        codes = mask.codes if mask.grey is None else mask.grey.astype(np.int32) * 0x010101
        labels = _table(num_classes)[codes]
        known = labels != 255
        labels[~known] = 0
    return labels, None if known.all() else _unknown_colours(codes, known)


def coloured_truth(mask: MaskFile, num_classes: int) -> tuple[UInt8[np.ndarray, "h w"], str | None]:
    """Labels of a file that has to be in colours, see `colour_labels`.

    Raises:
      ValueError: a grey file that may hold class indices.
    """
    labels, unknown = colour_labels(mask, num_classes)
    # Class 56 is (64, 64, 64): of a file of class 64 nothing else would show.
    doubtful = mask.grey is not None and 0 < mask.grey.max() < num_classes
    if doubtful and (unknown or mask.stored != "colours"):
        raise ValueError(
            f"a grey mask with the values {_first(mask.grey)}, which may be class indices; "
            "expected the colours of the classes, as RGB"
        )
    return labels, unknown


def _first(values: np.ndarray) -> str:
    found = np.unique(values).tolist()
    return ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")


def class_map(mask: MaskFile, num_classes: int) -> UInt8[np.ndarray, "h w"]:
    """Class indices of a file of indices or of AVSBench's colours.

    RGB is read as colours; grey files, and palettes that are the grey ramp, hold indices, whatever
    their values are; of other palettes the colours decide.

    Raises:
      ValueError: an unknown colour or class, or a palette that can be read in both ways.
    """
    of_grey = mask.grey is not None and mask.stored != "colours"
    if mask.classes is not None or (of_grey and mask.stored == "values"):
        return class_indices(mask, num_classes)
    labels, unknown = colour_labels(mask, num_classes)
    if of_grey and unknown:
        return class_indices(mask, num_classes)
    if of_grey and 0 < mask.grey.max() < num_classes:
        raise ValueError(
            f"a palette of the grey values {_first(mask.grey)}, which are class indices or colours "
            "of classes; save indices without a palette, or colours as RGB"
        )
    if unknown:
        raise ValueError(unknown)
    return labels


def _codes(colours: UInt8[np.ndarray, "... 3"]) -> Int32[np.ndarray, "..."]:
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _unknown_colours(codes: Int32[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> str:
    found, counts = np.unique(codes[~known], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    if _are_mixed(found[order], np.unique(codes[known])):
        return (
            f"{len(found)} unknown colours between those of its classes: colours were mixed by "
            "resizing (or by JPEG); save before resizing, or resize with NEAREST"
        )
    shown = ", ".join(
        f"({c >> 16}, {c >> 8 & 255}, {c & 255}) in {n} pixels"
        for c, n in zip(found[order[:3]].tolist(), counts[order[:3]].tolist(), strict=True)
    )
    more = f" and {len(found) - 3} more colours" if len(found) > 3 else ""
    return f"unknown colour {shown}{more}; expected the palette of the classes"


def _are_mixed(unknown: Int32[np.ndarray, "n"], known: Int32[np.ndarray, "k"]) -> bool:
    """Tell whether half of the first unknown colours lie between two known ones."""
    if len(unknown) <= 3 and len(known) > 4:
        return False  # between many colours lies nearly everything
    points, ends = (
        np.stack([c >> 16, c >> 8 & 255, c & 255], -1).astype(float)
        for c in (unknown[:16], known[:32])
    )
    first, second = np.triu_indices(len(ends), 1)
    if not first.size:
        return False
    start, way = ends[first], ends[second] - ends[first]
    share = ((points[:, None] - start) * way).sum(-1) / (way**2).sum(-1)
    nearest = start + np.clip(share, 0, 1)[..., None] * way
    off = np.abs(points[:, None] - nearest).max(-1).min(1)
    return bool((off <= 2).mean() >= 0.5)
