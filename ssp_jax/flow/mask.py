"""Where something moves: from the flows of a clip to its flow masks M_O (method 4.1)."""

from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ssp_jax.errors import UserError

Camera = Literal["none", "median", "affine", "homography"]
Smoothing = Literal["mean", "min"]
Threshold = Literal["nonzero", "otsu", "mad"]
CHOICES = {
    "camera": get_args(Camera),
    "smoothing": get_args(Smoothing),
    "threshold": get_args(Threshold),
}

_FIT_POINTS = 1000  # flow vectors that a camera's motion is fitted to, about
_INLIER = 0.01  # distance from a fitted motion that still agrees with it


def check_choices(**choices: str) -> None:
    """Check the named choices of this module.

    Raises:
      UserError: one or more are unknown; lists what there is.
    """
    wrong = [
        f"{name}: expected {', '.join(CHOICES[name])}, got {value!r}"
        for name, value in choices.items()
        if value not in CHOICES[name]
    ]
    if wrong:
        raise UserError("flow mask: " + "; ".join(wrong))


def camera_motion(flow: Float[np.ndarray, "h w 2"], camera: Camera) -> Float[np.ndarray, "h w 2"]:
    """The dominant motion of a flow field: what it would be if nothing moved in the scene [ours].

    - none: no motion. median: the median vector, which fits a pan.
    - affine, homography: robust fits (RANSAC), which fit zoom and roll too; a flow that allows none
      gets the median.

    Args:
      flow: x, y in units of the image's shorter side.

    Raises:
      UserError: an unknown name.
    """
    check_choices(camera=camera)
    if camera == "none":
        return np.zeros_like(flow)
    height, width = flow.shape[:2]
    motion = np.broadcast_to(np.median(flow.reshape(-1, 2), axis=0), flow.shape)
    if camera == "median":
        return motion
    rows, columns = np.mgrid[:height, :width].astype(np.float32) / min(height, width)
    places = np.stack([columns, rows], axis=-1)
    step = max(1, round((height * width / _FIT_POINTS) ** 0.5))
    some = slice(step // 2, None, step)
    start = places[some, some].reshape(-1, 2)
    end = start + flow[some, some].reshape(-1, 2)
    if camera == "affine":
        fit, _ = cv2.estimateAffine2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=_INLIER)
        moved = None if fit is None else cv2.transform(places, fit)
    else:
        fit, _ = cv2.findHomography(start, end, cv2.RANSAC, _INLIER)
        moved = None if fit is None else cv2.perspectiveTransform(places, fit)
    if moved is None or not np.isfinite(moved).all():
        return motion
    return (moved - places).astype(flow.dtype)


def flow_masks(
    flows: Float[np.ndarray, "flows h w 2"],
    *,
    threshold: Threshold = "mad",
    camera: Camera = "affine",
    smoothing: Smoothing = "min",
    floor: float = 0.015,
    deviations: float = 3.0,
    despeckle: int = 5,
) -> UInt8[np.ndarray, "flows+1 h w"]:
    """Flow masks M_O of a clip's frames, 255 where something moves, else 0.

    The paper's: threshold="nonzero", camera="none", smoothing="mean", despeckle=1. The defaults
    measured best (`benchmarks/README.md`, Flow mask).

    Args:
      flows: of neighbouring frames, T - 1; x, y in units of the image's shorter side. None for a
        clip of one frame, whose mask is empty.
      threshold: of the magnitude. nonzero: its 8-bit greyscale, scaled by the clip's largest, is
        above 0 [paper: "has information"]. otsu: Otsu's, of that greyscale. mad: the clip's
        median and `deviations` times the median absolute deviation from it [ours].
      camera: whose motion is subtracted first, see `camera_motion` [ours].
      smoothing: the first and last frame take the first and last flow's magnitude; a frame between
        takes the mean of its neighbours [paper; indices inferred] or the smaller one [ours: a
        flow that is not sharp is also large where a thing is about to be, or was; for one that is
        sharp, mean is better].
      floor: what otsu and mad ask at least, so that a still clip stays empty; of the shorter side.
      despeckle: side of the median filter over each mask, an odd number of pixels; 1 leaves them as
        they are [ours].

    Raises:
      UserError: an unknown name, or an even `despeckle`.
    """
    check_choices(threshold=threshold, camera=camera, smoothing=smoothing)
    if despeckle < 1 or despeckle % 2 == 0:
        raise UserError(f"flow mask: despeckle: expected an odd number from 1, got {despeckle}")
    own = np.stack([flow - camera_motion(flow, camera) for flow in flows]) if len(flows) else flows
    size = np.linalg.norm(own.astype(np.float32), axis=-1)
    if len(size) == 0:
        return np.zeros((1, *size.shape[1:]), np.uint8)
    before, after = size[:-1], size[1:]
    between = (before + after) / 2 if smoothing == "mean" else np.minimum(before, after)
    maps = np.concatenate([size[:1], between, size[-1:]])
    if threshold == "mad":
        median = np.median(maps)
        above = maps > max(floor, median + deviations * np.median(np.abs(maps - median)))
    else:
        grey = (255 / max(float(maps.max()), 1e-12) * maps).astype(np.uint8)
        least = 0.0
        if threshold == "otsu":
            flat = grey.reshape(-1, grey.shape[-1])
            least, _ = cv2.threshold(flat, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        above = grey > least
        if threshold == "otsu":
            above &= maps > floor
    return np.stack([cv2.medianBlur(mask, despeckle) for mask in np.uint8(255) * above])
