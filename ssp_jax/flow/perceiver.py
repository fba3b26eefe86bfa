"""Flow of image pairs of any size with Perceiver IO: overlapping tiles, blended (method 4.1)."""

import itertools
from collections.abc import Callable
from pathlib import Path

import cv2
import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from ssp_jax.models.perceiver_flow import PerceiverFlow
from ssp_jax.weights import perceiver_flow
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import load_arguments, load_model
from ssp_jax.weights.shapes import abstract

# Flow of a batch of tiles: (N, 2, h, w, 3), 0..255, to (N, h, w, 2) in pixels.
TileFlow = Callable[[Float[np.ndarray, "N 2 h w 3"]], Float[np.ndarray, "N h w 2"]]
PairFlow = Callable[
    [UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "H W 2"]
]


SOURCE = "perceiver_flow"  # the kind of import
_KIND = (SOURCE, "a flow estimator", perceiver_flow.shapes)


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Place tiles that cover an axis of at least one tile, the last one flush with its end.

    Raises:
      ValueError: an overlap that leaves no step.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} pixels for tiles of {tile}")
    return [*range(0, length - tile, tile - overlap), length - tile]


def border_distance(size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Pixels to a tile's nearest border, 1 at the border: the weight of what it says there."""
    rows, columns = (np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in size)
    return np.minimum(rows[:, None], columns).astype(np.float32)


def tiled_flow(
    estimate: TileFlow,
    first: UInt8[np.ndarray, "H W 3"],
    second: UInt8[np.ndarray, "H W 3"],
    *,
    tile: tuple[int, int],
    overlap: int = 20,
    batch_size: int = 1,
) -> Float[np.ndarray, "H W 2"]:
    """Flow from the first to the second image in pixels (x, y), by an estimator of one size.

    An axis on which the images are smaller than a tile is stretched to its length. Tiles and their
    blending are those of DeepMind's demo (perceiver/colabs/optical_flow.ipynb).

    Args:
      estimate: is always called with `batch_size` tiles; the last ones may be there twice.
      tile: height and width. overlap: of neighbouring tiles, in pixels, at least.

    Raises:
      ValueError: images of different shapes or not of 8-bit RGB, or an impossible overlap.
    """
    if first.shape != second.shape or first.shape[2:] != (3,) or first.size == 0:
        raise ValueError(f"images of shapes {first.shape} and {second.shape}, expected (H, W, 3)")
    if first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"images of {first.dtype} and {second.dtype}, expected uint8")
    height, width = first.shape[:2]
    size = max(height, tile[0]), max(width, tile[1])
    pair = np.stack([_resized(image.astype(np.float32), size) for image in (first, second)])
    corners = list(itertools.product(*map(tile_starts, size, tile, (overlap, overlap))))
    weight = border_distance(tile)[..., None]
    total = np.zeros((*size, 2), np.float32)
    weights = np.zeros((*size, 1), np.float32)
    for start in range(0, len(corners), batch_size):
        batch = corners[start : start + batch_size]
        filled = batch + batch[-1:] * (batch_size - len(batch))
        tiles = [pair[:, y : y + tile[0], x : x + tile[1]] for y, x in filled]
        flows = estimate(np.stack(tiles))
        for (y, x), flow in zip(batch, flows, strict=False):
            total[y : y + tile[0], x : x + tile[1]] += weight * flow
            weights[y : y + tile[0], x : x + tile[1]] += weight
    shrink = np.float32([width / size[1], height / size[0]])
    return _resized(total / weights, (height, width)) * shrink


def _resized(image: Float[np.ndarray, "H W C"], size: tuple[int, int]):
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def check_perceiver_weights(folder: Path) -> None:
    """Look what weights a folder holds, as its note says.

    Raises:
      UserError: not a weight folder, or weights of another model.
    """
    load_arguments(folder, *_KIND)


def make_perceiver_flow(folder: Path, *, overlap: int = 20, batch_size: int = 1) -> PairFlow:
    """The flow estimator of an imported weight folder, see `tiled_flow`.

    Args:
      folder: of python -m ssp_jax.weights import --source=perceiver_flow.
      overlap: of neighbouring tiles, in pixels, at least. batch_size: tiles of a pair at once.

    Raises:
      UserError: not a weight folder, damaged, or weights of another model.
    """
    arguments, weights = load_model(folder, *_KIND, perceiver_flow.ROOT)
    model = abstract(lambda rngs: PerceiverFlow(**arguments, rngs=rngs))
    graphdef, _ = nnx.split(model, nnx.Param)
    params = jax.device_put(nested(weights))

    @jax.jit
    def apply(params, pairs):
        return nnx.merge(graphdef, params)(pairs / 255 * 2 - 1)

    def flow(first, second):
        return tiled_flow(
            lambda pairs: jax.device_get(apply(params, jax.device_put(pairs))),
            first,
            second,
            tile=model.size,
            overlap=overlap,
            batch_size=batch_size,
        )

    return flow
