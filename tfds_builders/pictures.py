"""Reads frames and label maps, each with the checks that its format allows."""

import io
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Pillow reads a hundred formats more, some of them by running other programs.
FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 7680 * 4320
MAX_BYTES = 4 * MAX_PIXELS
# Pillow's warning is of no use where more pixels are refused.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# What Pillow raises for a damaged file, depending on where the damage is.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def open_picture(
    path: Path, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, bytes]:
    """A fully decoded picture and its file's bytes.

    Args:
      formats: Pillow's names of those to accept. max_pixels: a larger one is not decoded.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file cannot be read or decoded to its end, is larger, or no plain file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a file")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"a file of more than {MAX_BYTES >> 20} MiB")
        encoded = path.read_bytes()
        if not encoded:
            raise ValueError("the file is empty")
        return decoded_picture(encoded, formats=formats, max_pixels=max_pixels), encoded
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise ValueError(f"unreadable picture ({error}); expected a whole JPEG or PNG") from error


def decoded_picture(
    encoded: bytes, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A picture, decoded to its end; see `open_picture`.

    Raises:
      ValueError: it cannot be decoded, or is larger.
    """
    try:
        picture = Image.open(io.BytesIO(encoded), formats=formats)
        if picture.width * picture.height > max_pixels:
            raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
        if picture.format == "PNG":
            # Decoding does not look at the checksums of the pixels, and this leaves no picture.
            picture.verify()
            picture = Image.open(io.BytesIO(encoded), formats=formats)
        picture.load()
    except _UNREADABLE as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return picture


def stored_frame(picture: Image.Image, encoded: bytes, frame_size: int | None) -> bytes:
    """What is stored of a frame: the file's own bytes, or a PNG of side `frame_size`.

    The size is set by PIL's bilinear filter without keeping the aspect ratio, as the input
    pipeline does (method 3.5), so a model of that size sees the very same pixels. PNG, since a
    second lossy coding would change them. Frames that are not 8-bit RGB become RGB PNGs.
    """
    if frame_size is None and picture.mode == "RGB" and picture.format in ("JPEG", "PNG"):
        return encoded
    picture = picture.convert("RGB")
    if frame_size is not None and picture.size != (frame_size, frame_size):
        picture = picture.resize((frame_size, frame_size), Image.Resampling.BILINEAR)
    return encode_png(picture)


def encode_png(picture: Image.Image) -> bytes:
    """Lossless PNG, quick to write (compression level 3)."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def encode_labels(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """Single-channel PNG of class indices."""
    return encode_png(Image.fromarray(labels))


def indices(picture: Image.Image) -> UInt8[np.ndarray, "h w"]:
    """The one channel of a mask file, as stored (palette files: the indices).

    Raises:
      ValueError: not 8-bit, or several channels that differ.
    """
    if picture.mode in ("L", "P"):
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8) * 255
    values = np.asarray(picture)
    if picture.mode in ("LA", "RGB", "RGBA"):
        # A written alpha channel is no label; grey stored as colour is still one channel.
        colours = values[..., :1] if picture.mode == "LA" else values[..., :3]
        if (colours == colours[..., :1]).all():
            return np.ascontiguousarray(colours[..., 0])
        raise ValueError("a mask in colour; expected a single channel")
    raise ValueError(f"a mask of mode {picture.mode}; expected a single channel of 8 bits")


def binary_labels(picture: Image.Image) -> tuple[UInt8[np.ndarray, "h w"], str | None]:
    """0/1 labels of an S4 or MS3 mask, and a warning where the file holds 0/1 itself.

    Raises:
      ValueError: values other than 0 and 255, or 0 and 1 (section 1.3).
    """
    values = indices(picture)
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    foreign = [int(v) for v in present if v not in (0, 255)]
    if foreign and foreign != [1]:
        shown = ", ".join(map(str, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
        raise ValueError(f"a mask with the values {shown}; expected 0 and 255")
    if foreign and 255 in present:
        raise ValueError("a mask with both 1 and 255; expected 0 and 255")
    warning = "a mask of 0 and 1, expected 0 and 255; read as foreground" if foreign else None
    return (values > 0).astype(np.uint8), warning


def colour_labels(
    picture: Image.Image, table: UInt8[np.ndarray, "16777216"]
) -> tuple[UInt8[np.ndarray, "h w"], str | None]:
    """Class indices of a colour-coded label file, and what was found outside the palette.

    Pixels of an unknown colour become background, as in every public repository (section 2.2).

    Args:
      picture: the decoded file.
      table: `colour_table` of the data set's classes.
    """
    colours = np.asarray(picture.convert("RGB")).astype(np.int32)
    codes = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    labels = table[codes]
    unknown = labels == 255
    if not unknown.any():
        return labels, None
    labels[unknown] = 0
    found, counts = np.unique(codes[unknown], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    shown = ", ".join(
        f"({c >> 16}, {c >> 8 & 255}, {c & 255}) in {n} pixels"
        for c, n in zip(found[order].tolist(), counts[order].tolist(), strict=True)
    )
    more = f" and {len(found) - 3} more colours" if len(found) > 3 else ""
    return labels, f"unknown colour {shown}{more}; expected the palette of the classes"
