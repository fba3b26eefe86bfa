"""Bilinear resizing as PyTorch does it: half-pixel centres, no antialiasing."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@functools.lru_cache(maxsize=256)
def bilinear_matrix(source: int, target: int) -> Float[np.ndarray, "target source"]:
    """Weights that resize an axis of `source` samples to `target` (align_corners=False).

    `jax.image.resize` differs from it when shrinking (it antialiases) and at the borders.
    """
    centre = np.maximum((np.arange(target) + 0.5) * source / target - 0.5, 0.0)
    lower = np.minimum(np.floor(centre).astype(int), source - 1)
    upper = np.minimum(lower + 1, source - 1)
    fraction = centre - lower
    weights = np.zeros((target, source), np.float32)
    np.add.at(weights, (np.arange(target), lower), 1.0 - fraction)
    np.add.at(weights, (np.arange(target), upper), fraction)
    return weights


def resize_bilinear(
    images: Float[Array, "..."], size: tuple[int, int], *, axes: tuple[int, int] = (-2, -1)
) -> Float[Array, "..."]:
    """Resize the two (height, width) `axes` of a float array of any rank to `size`.

    Two small matrix products: fast on every backend and in reverse, where gathers turn into
    scatters. Full precision even where the default matmul precision is bfloat16, because a sample
    rounded to 8 bits would move mask edges.
    """
    for axis, target in zip(axes, size, strict=True):
        axis = axis % images.ndim
        source = images.shape[axis]
        if source == target:
            continue
        weights = jnp.asarray(bilinear_matrix(source, target), images.dtype)
        if axis == images.ndim - 1:
            images = jnp.einsum("...i,oi->...o", images, weights, precision="highest")
            continue
        shape = images.shape
        trailing = int(np.prod(shape[axis + 1 :]))
        flat = images.reshape((*shape[: axis + 1], trailing))
        flat = jnp.einsum("oi,...ij->...oj", weights, flat, precision="highest")
        images = flat.reshape((*shape[:axis], target, *shape[axis + 1 :]))
    return images
