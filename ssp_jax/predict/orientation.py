"""Pictures as they are meant to be seen: phones store them lying on their side, or mirrored."""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8


def upright(
    picture: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture in RGB as a player shows it, turned and mirrored as its file says.

    `size`: width and height to bring it to, as shown.

    Raises:
      av.FFmpegError: FFmpeg cannot convert it.
    """
    swapped, mirrored, upside_down = _orientation(picture)
    width, height = size or (None, None)
    if swapped:
        width, height = height, width
    rgb = reformatter.reformat(
        picture, width, height, format="rgb24", interpolation=Interpolation.BILINEAR
    ).to_ndarray()
    if swapped:
        rgb = rgb.swapaxes(0, 1)
    return np.ascontiguousarray(rgb[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def shown_size(picture: av.VideoFrame) -> tuple[int, int]:
    """Return the width and height of a picture as a player shows it, pixels."""
    size = picture.width, picture.height
    return size[::-1] if lies_on_its_side(picture) else size


def lies_on_its_side(picture: av.VideoFrame) -> bool:
    """Tell whether the rows of a picture are columns of what a player shows."""
    return _orientation(picture)[0]


def _orientation(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Tell whether rows and columns change places and whether columns, then rows are reversed.

    The display matrix (a, b, u, c, d, v, ...) takes (x, y) to (a x + c y, b x + d y), y downwards.
    Of angles between, which no camera writes, the nearest of the eight orientations is taken.
    """
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    (a, b, _), (c, d, _), _ = np.frombuffer(matrix, np.int32).reshape(3, 3).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0
