"""Bilinear samples of masks and of label maps at points, as `grid_sample` takes them.

Points are (x, y) in [0, 1] over the whole image, so a point means the same place in maps of every
size. Pixel centres lie at (i + 0.5) / size (no corner alignment) and everything outside a map
counts as 0 (PyTorch's `grid_sample(..., align_corners=False, padding_mode="zeros")`).

Where a CPU gathers single numbers, what is lowered for a TPU takes products (`point_products`);
what is lowered for a GPU gathers or adds all corners at once, where these would be written one by
one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array as JaxArray
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8, UInt32

from ssp_jax.losses import point_products

# Matches no class: what a label map is framed with. Class indices end at 254.
OUTSIDE = 255

# Last places of a float32, 8e-6 of a value, by which two computations of a sample may differ.
_ROUNDING = 64

_WORD = 32  # bits


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
    masks, points = inputs

    def scattered(masks, points, gradient):
        return jax.vjp(lambda masks: _gather_masks(masks, points), masks)[1](gradient)[0]

    to_masks = jax.lax.platform_dependent(
        *(masks, points, gradient),
        tpu=point_products.masks_gradient,
        cpu=scattered,
        default=_scatter_at_once,
    )
    return to_masks, jnp.zeros_like(points)


sample_masks.defvjp(_sample_masks_forward, _sample_masks_backward)


def _gather_masks(masks: Float[Array, "*n H W"], points: Float[Array, "*n P 2"]) -> JaxArray:
    index, weights, row = _corners(points, *masks.shape[-2:])
    flat = _framed(masks, 0)
    value = jnp.zeros(index.shape, masks.dtype)
    for offset, weight in zip((0, 1, row, row + 1), weights, strict=True):
        value += _take(flat, index + offset) * weight.astype(masks.dtype)
    return value


def _scatter_at_once(
    masks: Float[Array, "*n H W"], points: Float[Array, "*n P 2"], gradient: Float[Array, "*n P"]
) -> Float[Array, "*n H W"]:
    """Gradient of `sample_masks` with respect to the masks, on a GPU.

    One scatter, which computes its indices and weights itself: four would read and write the masks
    four times, and if XLA shared the indices with the samples they would be written, too.
    """
    height, width = masks.shape[-2:]
    index, weights = _corner_axis(jax.lax.optimization_barrier(points), height, width)
    added = weights * gradient[..., None, :].astype(weights.dtype)
    size = (height + 2) * (width + 2)

    def add(index: JaxArray, added: JaxArray) -> JaxArray:
        zeros = jnp.zeros(size, added.dtype)
        return zeros.at[index].add(added, mode="promise_in_bounds")

    for _ in range(masks.ndim - 2):
        add = jax.vmap(add)
    flat = add(*(x.reshape(*x.shape[:-2], -1) for x in (index, added)))
    framed = flat.reshape(*masks.shape[:-2], height + 2, width + 2)
    return framed[..., 1:-1, 1:-1].astype(masks.dtype)


def sample_masks_at_shared_points(
    masks: Float[Array, "*n Q H W"], points: Float[Array, "*n P 2"]
) -> Float[Array, "*n Q P"]:
    """Values of all Q masks of a frame at the frame's points."""
    return jax.lax.platform_dependent(
        masks,
        points,
        cpu=_gather_rows_at_shared_points,
        tpu=_gather_rows_at_shared_points,
        default=_gather_all_at_shared_points,
    )


def _gather_rows_at_shared_points(masks: JaxArray, points: JaxArray) -> JaxArray:
    index, weights, row = _corners(points, *masks.shape[-2:])
    # With the masks last a corner is one row, which a TPU, too, reads at once.
    flat = jnp.moveaxis(_framed(masks, 0), -2, -1)
    value = jnp.zeros((*points.shape[:-1], masks.shape[-3]), masks.dtype)
    for offset, weight in zip((0, 1, row, row + 1), weights, strict=True):
        corner = _take(flat, (index + offset)[..., None], axis=-2)
        value += corner * weight[..., None].astype(masks.dtype)
    return jnp.moveaxis(value, -1, -2)


def _gather_all_at_shared_points(masks: JaxArray, points: JaxArray) -> JaxArray:
    # As one gather, since a GPU would write out each of four.
    index, weights = _corner_axis(points, *masks.shape[-2:])
    index = index.reshape(*index.shape[:-2], 1, -1)
    samples = _take(_framed(masks, 0), index).reshape(*masks.shape[:-2], *weights.shape[-2:])
    samples = samples.astype(weights.dtype) * weights[..., None, :, :]
    return samples.sum(-2).astype(masks.dtype)


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
    needs, and quicker: on a CPU core a third of the time. But values that differ by no more than
    8e-6 of their size are equal. All values are read nine times, and nothing of their size is
    written: whether a value is below the threshold, or at it, is a bit of a word of 32; what stands
    before a value is counted in the words before its own, and in the bits of its own.
    """
    sides = (_in_words(side) for side in _sides(values, count))
    (smaller, is_smaller), (equal, is_equal) = (_up_to_each(words) for words in sides)
    room = count - smaller[..., -1:, -1:]
    chosen = is_smaller | (is_equal & (equal <= room))
    index = np.arange(smaller.shape[-2] * _WORD, dtype=np.int32)
    # Each place once, also of those that are dropped: so a GPU needs no atomic operations.
    dropped = (count + index).reshape(*[1] * (values.ndim - 1), *smaller.shape[-2:])
    place = jnp.where(chosen, smaller + jnp.minimum(equal, room) - 1, dropped)

    def put(place: Int[Array, " C"]) -> Int[Array, " count"]:
        return jnp.zeros(count, jnp.int32).at[place].set(index, mode="drop", unique_indices=True)

    rows = jax.vmap(put)(place.reshape(-1, len(index)))
    return rows.reshape(*values.shape[:-1], count)


def among_least(values: Float[Array, "*n C"], count: int) -> Bool[Array, "*n C"]:
    """Tell whether each is one of those that `least` finds."""
    smaller, equal = _sides(values, count)
    room = count - smaller.sum(-1, keepdims=True)
    return smaller | (equal & (jnp.cumsum(equal, -1) <= room))


def _sides(
    values: Float[Array, "*n C"], count: int
) -> tuple[Bool[Array, "*n C"], Bool[Array, "*n C"]]:
    """Tell whether each is smaller than the `count`th smallest, and whether it is equal to that."""
    # Floats >= 0 are ordered as their bits are.
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    threshold = _threshold(bits, count)[..., None]
    # XLA may compute `values` anew for this comparison, rounded otherwise than for the threshold,
    # which is itself one of them. So what is as near as rounding counts as equal.
    smaller = bits < threshold - _ROUNDING
    return smaller, (bits <= threshold + _ROUNDING) & ~smaller


def _threshold(bits: Int[Array, "*n C"], count: int) -> Int[Array, "*n"]:
    """The `count`th smallest of numbers >= 0.

    Four bits in turn, since one reduction of fifteen comparisons takes no longer than one of one.
    """
    threshold = jnp.zeros_like(bits[..., 0])
    for shift in range(28, -1, -4):
        digits = range(1, 8 if shift == 28 else 16)
        smaller = (bits < threshold[..., None] + (digit << shift) for digit in digits)
        smaller = tuple(side.astype(jnp.int32) for side in smaller)
        zeros = (np.int32(0),) * len(digits)
        numbers = jax.lax.reduce(smaller, zeros, _add_each, [bits.ndim - 1])
        threshold += sum((number < count).astype(jnp.int32) for number in numbers) << shift
    return threshold


def _add_each(xs: tuple[JaxArray, ...], ys: tuple[JaxArray, ...]) -> tuple[JaxArray, ...]:
    return tuple(x + y for x, y in zip(xs, ys, strict=True))


def _in_words(flags: Bool[Array, "*n C"]) -> UInt32[Array, "*n words"]:
    """32 of them a word, the first the lowest bit; the last word filled up with False."""
    filled = jnp.pad(flags, [(0, 0)] * (flags.ndim - 1) + [(0, -flags.shape[-1] % _WORD)])
    bits = filled.reshape(*flags.shape[:-1], -1, _WORD).astype(jnp.uint32)
    return (bits << _places_of_bits(flags.ndim + 1)).sum(-1)


def _up_to_each(
    words: UInt32[Array, "*n words"],
) -> tuple[Int[Array, "*n words 32"], Bool[Array, "*n words 32"]]:
    """Count how many flags are set up to each, itself included, and whether it is."""
    numbers = jax.lax.population_count(words).astype(jnp.int32)
    before = (jnp.cumsum(numbers, -1) - numbers)[..., None]
    place = _places_of_bits(words.ndim + 1)
    own = words[..., None] & (np.uint32(0xFFFFFFFF) >> (_WORD - 1 - place))
    return before + jax.lax.population_count(own).astype(jnp.int32), (own >> place).astype(bool)


def _places_of_bits(ndim: int) -> UInt32[np.ndarray, "*ones 32"]:
    return np.arange(_WORD, dtype=np.uint32).reshape(*[1] * (ndim - 1), _WORD)


def _upper_left(points: Float[Array, "*n P 2"], height: int, width: int) -> tuple[JaxArray, ...]:
    """Column and line of a point's upper left corner in the map framed by one pixel on each side,
    and the shares of the corners to the right and below."""
    x = points[..., 0] * width - 0.5
    y = points[..., 1] * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    column = jnp.clip(left.astype(jnp.int32) + 1, 0, width)
    line = jnp.clip(top.astype(jnp.int32) + 1, 0, height)
    return column, line, x - left, y - top


def _corners(points: JaxArray, height: int, width: int) -> tuple[JaxArray, list[JaxArray], int]:
    """Index of a point's upper left corner in the flattened framed map, the four corner weights
    (row-major), and the framed map's row length."""
    column, line, right, low = _upper_left(points, height, width)
    weights = [(1 - low) * (1 - right), (1 - low) * right, low * (1 - right), low * right]
    return line * (width + 2) + column, weights, width + 2


def _corner_axis(
    points: Float[Array, "*n P 2"], height: int, width: int
) -> tuple[Int[Array, "*n 4 P"], Float[Array, "*n 4 P"]]:
    """Index in the flattened framed map, and weight, of each of a point's four corners."""
    corner = np.arange(4, dtype=np.int32).reshape(*[1] * (points.ndim - 2), 4, 1)
    to_right, below = corner % 2, corner // 2
    parts = _upper_left(points, height, width)
    column, line, right, low = (part[..., None, :] for part in parts)
    weights = jnp.where(below == 1, low, 1 - low) * jnp.where(to_right == 1, right, 1 - right)
    return (line + below) * (width + 2) + column + to_right, weights


def _framed(maps: Shaped[Array, "*n H W"], value: int) -> JaxArray:
    frame = [(0, 0)] * (maps.ndim - 2) + [(1, 1), (1, 1)]
    framed = jnp.pad(maps, frame, constant_values=value)
    return framed.reshape(*maps.shape[:-2], -1)


def _take(flat: JaxArray, index: JaxArray, axis: int = -1) -> JaxArray:
    # Four scalar gathers beat both one gather of 2 x 2 patches and dense interpolation matrices,
    # forward and backward (measured on CPU at 32 x 32 masks, 1,024 and 3,072 points).
    return jnp.take_along_axis(flat, index, axis=axis, mode="promise_in_bounds")
