"""Reads frames and label maps, each with the checks that its format allows."""

import io
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

# Pillow reads a hundred formats more, some of them by running other programs.
FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 7680 * 4320
MAX_BYTES = 4 * MAX_PIXELS
# Pillow's warning is of no use where more pixels are refused.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# What Pillow raises for a damaged file, depending on where the damage is.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

# What files that are called .png or .jpg often are instead.
_KINDS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
    b"\0\x05\x16\x07": "Mac's resource",
}


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
        expected = " or ".join(formats)
        raise ValueError(f"unreadable picture ({error}); expected a whole {expected}") from error


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
    except UnidentifiedImageError as error:  # its own words name an address in memory
        kind = next((k for start, k in _KINDS.items() if encoded.startswith(start)), None)
        what = "cannot identify what it is" if kind is None else f"its bytes are of a {kind} file"
        raise ValueError(what) from error
    except _UNREADABLE as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return picture


def stored_frame(picture: Image.Image, encoded: bytes, frame_size: int | None) -> bytes:
    """Return what is stored of a frame: the file's own bytes, or a PNG of side `frame_size`.

    The size is set by PIL's bilinear filter without keeping the aspect ratio, as the input
    pipeline does (method 3.5), so a model of that size sees the very same pixels. PNG, since a
    second lossy coding would change them. Frames that are not RGB become RGB PNGs,
    of 16-bit grey its upper 8 bits.
    """
    if frame_size is None and picture.mode == "RGB" and picture.format in ("JPEG", "PNG"):
        return encoded
    if picture.mode.startswith("I"):
        # 16-bit grey, of which Pillow would cut off all above 255; of colours it keeps these bits.
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).astype(np.uint8))
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
