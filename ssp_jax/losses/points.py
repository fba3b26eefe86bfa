"""Bilinear samples of masks and of label maps at points, as `grid_sample` takes them.

Points are (x, y) in [0, 1] over the whole image, so a point means the same place in maps of every
size. Pixel centres lie at (i + 0.5) / size (no corner alignment) and everything outside a map
counts as 0 (PyTorch's `grid_sample(..., align_corners=False, padding_mode="zeros")`).

Where single numbers are gathered, what is lowered for a TPU takes products (`point_products`).
"""

import jax
import jax.numpy as jnp
from jax import Array as JaxArray
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from ssp_jax.losses import point_products

# Matches no class: what a label map is framed with. Class indices end at 254.
OUTSIDE = 255

# Last places of a float32, 8e-6 of a value, by which two computations of a sample may differ.
_ROUNDING = 64


@jax.custom_vjp
def sample_masks(
    masks: Float[Array, "*n H W"], points: Float[Array, "*n P 2"]
) -> Float[Array, "*n P"]:
    """Values of each mask at its own points; differentiable with respect to the masks."""
    return jax.lax.platform_dependent(
        masks, points, tpu=point_products.sample_masks, default=_gather_masks
    )


def _sample_masks_forward(masks, points):
    return sample_masks(masks, points), (masks, points)


def _sample_masks_backward(inputs, gradient):
    def scattered(masks, points, gradient):
        return jax.vjp(lambda masks: _gather_masks(masks, points), masks)[1](gradient)[0]

    to_masks = jax.lax.platform_dependent(
        *inputs, gradient, tpu=point_products.masks_gradient, default=scattered
    )
    return to_masks, jnp.zeros_like(inputs[1])


sample_masks.defvjp(_sample_masks_forward, _sample_masks_backward)


def _gather_masks(masks: Float[Array, "*n H W"], points: Float[Array, "*n P 2"]) -> JaxArray:
    index, weights, row = _corners(points, *masks.shape[-2:])
    flat = _framed(masks, 0)
    value = jnp.zeros(index.shape, masks.dtype)
    for offset, weight in zip((0, 1, row, row + 1), weights, strict=True):
        value += _take(flat, index + offset) * weight.astype(masks.dtype)
    return value


def sample_masks_at_shared_points(
    masks: Float[Array, "*n Q H W"], points: Float[Array, "*n P 2"]
) -> Float[Array, "*n Q P"]:
    """Values of all Q masks of a frame at the frame's points."""
    index, weights, row = _corners(points, *masks.shape[-2:])
    # With the masks last a corner is one row, which a TPU, too, reads at once.
    flat = jnp.moveaxis(_framed(masks, 0), -2, -1)
    value = jnp.zeros((*points.shape[:-1], masks.shape[-3]), masks.dtype)
    for offset, weight in zip((0, 1, row, row + 1), weights, strict=True):
        corner = _take(flat, (index + offset)[..., None], axis=-2)
        value += corner * weight[..., None].astype(masks.dtype)
    return jnp.moveaxis(value, -1, -2)


def sample_classes(
    labels: UInt8[Array, "*n H W"],
    classes: Int[Array, "*n M"],
    points: Float[Array, "*n #M P 2"],
) -> Float[Array, "*n M P"]:
    """Bilinear samples of the one-hot masks `labels == class`, without building these masks.

    Classes < 0 give 0. Leading dimensions of `labels` of size 1 are broadcast.
    """
    return jax.lax.platform_dependent(
        labels, classes, points, tpu=point_products.sample_classes, default=_gather_classes
    )


def _gather_classes(labels: JaxArray, classes: JaxArray, points: JaxArray) -> JaxArray:
    # A bilinear sample of a one-hot mask is the sum of the corner weights whose pixel has the
    # class, so four labels per point are enough.
    index, weights, row = _corners(points, *labels.shape[-2:])
    flat = _framed(labels, OUTSIDE)[..., None, :]
    value = jnp.zeros((), points.dtype)
    for offset, weight in zip((0, 1, row, row + 1), weights, strict=True):
        corner = _take(flat, index + offset).astype(classes.dtype)
        value += jnp.where(corner == classes[..., None], weight, 0)
    return value


def least(values: Float[Array, "*n C"], count: int) -> Int[Array, "*n count"]:
    """Indices, ascending, of the `count` smallest of values >= 0; of equal ones the first.

    The same set as `jax.lax.top_k(-values, count)`, unsorted, which is all that a choice of points
    needs, and quicker: 10 against 17 ms on a CPU core for 128 rows of 3,072, a quarter chosen. But
    values that differ by no more than 8e-6 of their size are equal.
    """
    position = jnp.cumsum(among_least(values, count), -1)
    find = jnp.vectorize(jnp.searchsorted, signature="(c),(k)->(k)")
    found = find(position, jnp.arange(1, count + 1)[(None,) * (position.ndim - 1)])
    return jnp.minimum(found, values.shape[-1] - 1)  # should all the same one be missing


def among_least(values: Float[Array, "*n C"], count: int) -> Bool[Array, "*n C"]:
    """Whether each is one of those that `least` finds."""
    # Floats >= 0 are ordered as their bits are, so 31 bits of the threshold can be found in turn.
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)

    def settle(step: JaxArray, threshold: JaxArray) -> JaxArray:
        higher = threshold | (1 << (30 - step))
        enough = (bits < higher[..., None]).sum(-1) >= count
        return jnp.where(enough, threshold, higher)

    threshold = jax.lax.fori_loop(0, 31, settle, jnp.zeros_like(bits[..., 0]))[..., None]
    # XLA may compute `values` anew for this comparison, rounded otherwise than for the threshold,
    # which is itself one of them. So what is as near as rounding counts as equal.
    below = bits < threshold - _ROUNDING
    at = (bits <= threshold + _ROUNDING) & ~below
    room = count - below.sum(-1, keepdims=True)
    return below | (at & (jnp.cumsum(at, -1) <= room))


def _corners(points: JaxArray, height: int, width: int) -> tuple[JaxArray, list[JaxArray], int]:
    """Index of a point's upper left corner in the flattened map framed by one pixel on each side,
    the four corner weights (row-major), and the framed map's row length."""
    x = points[..., 0] * width - 0.5
    y = points[..., 1] * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    right_weight, low_weight = x - left, y - top
    column = jnp.clip(left.astype(jnp.int32) + 1, 0, width)
    line = jnp.clip(top.astype(jnp.int32) + 1, 0, height)
    weights = [
        (1 - low_weight) * (1 - right_weight),
        (1 - low_weight) * right_weight,
        low_weight * (1 - right_weight),
        low_weight * right_weight,
    ]
    return line * (width + 2) + column, weights, width + 2


def _framed(maps: Shaped[Array, "*n H W"], value: int) -> JaxArray:
    frame = [(0, 0)] * (maps.ndim - 2) + [(1, 1), (1, 1)]
    framed = jnp.pad(maps, frame, constant_values=value)
    return framed.reshape(*maps.shape[:-2], -1)


def _take(flat: JaxArray, index: JaxArray, axis: int = -1) -> JaxArray:
    # Four scalar gathers beat both one gather of 2 x 2 patches and dense interpolation matrices,
    # forward and backward (measured on CPU at 32 x 32 masks, 1,024 and 3,072 points).
    return jnp.take_along_axis(flat, index, axis=axis, mode="promise_in_bounds")
