"""What `points` samples, by products of hat functions with the maps: the way of a TPU.

A TPU reads single numbers at computed addresses one by one. A bilinear sample at (x, y) weighs
pixel (i, j) with hat(y - i) hat(x - j), so samples are a matrix product over the rows and a sum
over the columns. Points are taken some at a time: what stands between the two stays on the chip.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ssp_jax.blocks import in_blocks, out_of_blocks

_CHUNK = 256  # points of each map
# Three passes in bfloat16, which together have 24 bits but for rounding.
_PRECISION = jax.lax.Precision.HIGH


def sample_masks(
    masks: Float[Array, "*n H W"], points: Float[Array, "*n P 2"]
) -> Float[Array, "*n P"]:
    """As `points.sample_masks`."""

    def chunk(at):
        rows = jnp.einsum("...ph,...hw->...pw", *_rows_and(masks, at), precision=_PRECISION)
        return (rows * _hats(at[..., 0], masks.shape[-1])).sum(-1).astype(masks.dtype)

    return _in_chunks(chunk, points)


def masks_gradient(
    masks: Float[Array, "*n H W"], points: Float[Array, "*n P 2"], gradient: Float[Array, "*n P"]
) -> Float[Array, "*n H W"]:
    """Gradient of `sample_masks` with respect to the masks, given that of the samples."""

    def add(total, inputs):
        at, part = inputs
        rows, columns = _hats(at[..., 1], masks.shape[-2]), _hats(at[..., 0], masks.shape[-1])
        columns *= part[..., None]
        added = jnp.einsum("...ph,...pw->...hw", rows, columns, precision=_PRECISION)
        return total + added, None

    parts = gradient.astype(jnp.float32)
    chunks = in_blocks(points, -2, _CHUNK), in_blocks(parts, -1, _CHUNK)
    total = jax.lax.scan(add, jnp.zeros(masks.shape, jnp.float32), chunks)[0]
    return total.astype(masks.dtype)


def sample_masks_at_shared_points(
    masks: Float[Array, "*n Q H W"], points: Float[Array, "*n P 2"]
) -> Float[Array, "*n Q P"]:
    """As `points.sample_masks_at_shared_points`."""

    def chunk(at):
        rows = jnp.einsum("...ph,...qhw->...qpw", *_rows_and(masks, at), precision=_PRECISION)
        columns = _hats(at[..., 0], masks.shape[-1])[..., None, :, :]
        return (rows * columns).sum(-1).astype(masks.dtype)

    return _in_chunks(chunk, points)


def sample_classes(
    labels: UInt8[Array, "*n H W"],
    classes: Int[Array, "*n M"],
    points: Float[Array, "*n #M P 2"],
) -> Float[Array, "*n M P"]:
    """As `points.sample_classes`, but y to 1/256 of a pixel.

    The shares of two rows are then multiples of 1/256 and their sum is 1, both exactly in bfloat16,
    so that one pass is enough. The random points are themselves no finer.
    """
    masks = labels[..., None, :, :].astype(classes.dtype) == classes[..., None, None]
    masks = masks.astype(jnp.bfloat16)
    height, width = labels.shape[-2:]

    def chunk(at):
        y = jnp.round(at[..., 1] * height * 256) / 256 / height
        rows = _hats(y, height).astype(jnp.bfloat16)
        rows = jnp.broadcast_to(rows, (*masks.shape[:-2], *rows.shape[-2:]))
        of_masks = jnp.einsum("...ph,...hw->...pw", rows, masks, preferred_element_type=jnp.float32)
        return (of_masks * _hats(at[..., 0], width)).sum(-1)

    return _in_chunks(chunk, points)


def _hats(at: Float[Array, "*n P"], size: int) -> Float[Array, "*n P size"]:
    """Share of each pixel of an axis in a sample at `at`, in [0, 1] over the whole axis."""
    place = at * size - 0.5
    pixels = np.arange(size, dtype=np.float32).reshape(*[1] * at.ndim, size)
    return jax.nn.relu(1 - jnp.abs(place[..., None] - pixels))


def _rows_and(masks: Array, at: Array) -> tuple[Array, Array]:
    return _hats(at[..., 1], masks.shape[-2]), masks.astype(jnp.float32)


def _in_chunks(call: Callable[[Array], Array], points: Float[Array, "*n P 2"]) -> Array:
    """`call` of (*n, p, 2) -> (*m, p), chunk by chunk."""
    sampled = jax.lax.map(call, in_blocks(points, -2, _CHUNK))
    return out_of_blocks(sampled, -1, points.shape[-2])
