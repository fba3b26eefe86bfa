"""Sampling of deformable attention on a TPU: two Pallas kernels, forward and backward.

A TPU reads single rows at computed addresses one by one; it multiplies matrices well. So for each
block of queries the interpolation map (how much of every pixel each query takes) is built in the
chip's own memory from hat functions, and multiplied with the values. Nothing is gathered or
scattered, no map is written out, and gradients are summed in float32, always in one order.

Queries lie along the lanes. A row of a level takes a multiple of 16 places in the map, which
keeps stores aligned in both precisions; the places too many meet values of zero.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

Sizes = Sequence[tuple[int, int]]

_ROW = 16  # places; what a bfloat16 tile has of rows
_FORWARD_BLOCK, _BACKWARD_BLOCK = 256, 128  # queries
# Bytes of the memory that a kernel may use on the smallest of the chips, v5e, less what the
# compiler itself takes.
_MEMORY = 12 * 2**20
# Words of JAX's `jax_default_matmul_precision` for a single bfloat16 pass on a TPU.
_ONE_PASS = (None, "default", "fastest", "bfloat16", "BF16_BF16_F32")


def fits(sizes: Sizes) -> bool:
    """Tell if the maps of a block of queries have room on the chip: frames up to about 600 px."""
    places = sum(height * _padded(width) for height, width in sizes)
    forward, backward = _FORWARD_BLOCK * 4, _BACKWARD_BLOCK * 8
    return places * max(forward, backward) <= _MEMORY


def sample(
    sizes: Sizes,
    values: Float[Array, "N heads S D"],
    points: Float[Array, "N heads levels P 2 T"],
    weights: Float[Array, "N heads levels P T"],
    *,
    interpret: bool = False,
) -> Float[Array, "N heads T D"]:
    """Sample as `deformable_sampling.Sampler.forward`."""
    call = functools.partial(_sample, tuple(sizes), interpret)
    return _on_each_device(call)(values, points, weights)


def gradients(
    sizes: Sizes,
    values: Float[Array, "N heads S D"],
    points: Float[Array, "N heads levels P 2 T"],
    weights: Float[Array, "N heads levels P T"],
    gradient: Float[Array, "N heads T D"],
    *,
    interpret: bool = False,
) -> tuple[Array, Array, Array]:
    """Differentiate as `deformable_sampling.Sampler.backward`."""
    call = functools.partial(_gradients, tuple(sizes), interpret)
    return _on_each_device(call)(values, points, weights, gradient)


def _on_each_device(call: Callable) -> Callable:
    """`call` for the frames of each device of the mesh that is set: a kernel cannot be split."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return call
    frames = jax.P(tuple(mesh.axis_names))
    return jax.shard_map(call, in_specs=frames, out_specs=frames, check_vma=False)


def _padded(width: int) -> int:
    return -(-width // _ROW) * _ROW


def _starts(sizes: Sizes) -> list[int]:
    """Of every level in the map; last, the places of all."""
    return np.cumsum([0] + [height * _padded(width) for height, width in sizes]).tolist()


def _lanes(sizes: Sizes, values: Float[Array, "N heads S D"]) -> Float[Array, "B D places"]:
    """Values with their places along the lanes, rows filled up with zeros."""
    n, heads, _, channels = values.shape
    levels = jnp.split(values.swapaxes(2, 3), np.cumsum([h * w for h, w in sizes])[:-1], axis=3)
    filled = [
        jnp.pad(
            level.reshape(n * heads, channels, height, width),
            ((0, 0), (0, 0), (0, 0), (0, _padded(width) - width)),
        ).reshape(n * heads, channels, -1)
        for level, (height, width) in zip(levels, sizes, strict=True)
    ]
    return jnp.concatenate(filled, axis=2)


def _from_lanes(sizes: Sizes, values: Float[Array, "B D places"], shape: tuple[int, ...]) -> Array:
    """Return what `_lanes` was given."""
    levels = [
        values[:, :, start : start + height * _padded(width)]
        .reshape(*values.shape[:2], height, -1)[..., :width]
        .reshape(*values.shape[:2], -1)
        for start, (height, width) in zip(_starts(sizes), sizes, strict=False)
    ]
    n, heads, tokens, channels = shape
    return jnp.concatenate(levels, axis=2).reshape(n, heads, channels, tokens).swapaxes(2, 3)


def _whole_blocks(array: Array, block: int) -> Array:
    """With so many queries more, of zeros, that blocks are full."""
    more = -array.shape[-1] % block
    return jnp.pad(array, ((0, 0),) * (array.ndim - 1) + ((0, more),))


def _blocks(*arrays: Array, block: int) -> list[pl.BlockSpec]:
    """Of arrays (B, ..., queries): one of B and one block of queries at a time."""
    return [
        pl.BlockSpec((1, *x.shape[1:-1], block), lambda i, j, n=x.ndim: (i, *(0,) * (n - 2), j))
        for x in arrays
    ]


def _whole(array: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
    """Of an array (B, ...): one of B at a time."""
    return pl.BlockSpec((1, *array.shape[1:]), lambda i, j: (i, *(0,) * (array.ndim - 1)))


def _hats(at: Float[Array, "queries"], size: int) -> Float[Array, "size queries"]:
    """Shares of pixels 0..size-1 in a linear sample at each place, 0 outside."""
    return jnp.maximum(1 - jnp.abs(_distance(at, size)), 0.0)


def _distance(at: Float[Array, "queries"], size: int) -> Float[Array, "size queries"]:
    pixel = jax.lax.broadcasted_iota(jnp.int32, (size, at.shape[-1]), 0).astype(jnp.float32)
    return at[None] - pixel


def _slope(distance: Array) -> Array:
    """Derivative of the hat function with respect to the place."""
    return jnp.where(jnp.abs(distance) < 1, jnp.where(distance > 0, -1.0, 1.0), 0.0)


def _product(a: Array, b: Array, *axes: int) -> Array:
    """Summed over one axis of each, in float32."""
    contracted = ((axes[:1], axes[1:]), ((), ()))
    # A kernel knows one bfloat16 pass and float32: of what lies between, float32.
    one_pass = a.dtype == jnp.bfloat16 or jax.config.jax_default_matmul_precision in _ONE_PASS
    precision = jax.lax.Precision.DEFAULT if one_pass else jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(
        a, b, contracted, precision=precision, preferred_element_type=jnp.float32
    )


def _fill_map(sizes: Sizes, points_ref, weights_ref, map_ref, columns_ref) -> None:
    """Write the block's interpolation map (places, queries)."""
    for level, (start, (height, width)) in enumerate(zip(_starts(sizes), sizes, strict=False)):
        number, padded = points_ref.shape[2], _padded(width)
        rows = [_hats(points_ref[0, level, k, 0], padded) for k in range(number)]
        for k in range(number):
            column = _hats(points_ref[0, level, k, 1], height) * weights_ref[0, level, k][None]
            columns_ref[k, :height] = column

        def fill(line, _, start=start, padded=padded, rows=rows):
            shares = sum(row * columns_ref[k, pl.ds(line, 1)] for k, row in enumerate(rows))
            place = pl.multiple_of(start + line * padded, _ROW)
            map_ref[pl.ds(place, padded)] = shares.astype(map_ref.dtype)
            return _

        jax.lax.fori_loop(0, height, fill, 0)


def _forward_kernel(sizes, values_ref, points_ref, weights_ref, sampled_ref, map_ref, columns_ref):
    _fill_map(sizes, points_ref, weights_ref, map_ref, columns_ref)
    sampled = _product(values_ref[0], map_ref[...], 1, 0)
    sampled_ref[0] = sampled.astype(sampled_ref.dtype)


def _one_of_all(array: Array) -> Array:
    """(N, heads, ...) as (B, ...)."""
    return array.reshape(-1, *array.shape[2:])


def _scratch(sizes: Sizes, points: int, block: int, dtype) -> list:
    """The map, and a level's columns."""
    places, tallest = _starts(sizes)[-1], max(height for height, _ in sizes)
    return [
        pltpu.VMEM((places, block), dtype),
        pltpu.VMEM((points, tallest, block), jnp.float32),
    ]


def _sample(sizes: Sizes, interpret: bool, values: Array, points: Array, weights: Array) -> Array:
    n, heads, _, channels = values.shape
    queries, block = points.shape[-1], _FORWARD_BLOCK
    lanes = _lanes(sizes, values)
    places = [_whole_blocks(_one_of_all(x.astype(jnp.float32)), block) for x in (points, weights)]
    sampled = jax.ShapeDtypeStruct((n * heads, channels, places[0].shape[-1]), values.dtype)
    return (
        pl.pallas_call(
            functools.partial(_forward_kernel, sizes),
            grid=(n * heads, sampled.shape[-1] // block),
            in_specs=[_whole(lanes), *_blocks(*places, block=block)],
            out_specs=_blocks(sampled, block=block)[0],
            out_shape=sampled,
            scratch_shapes=_scratch(sizes, points.shape[3], block, values.dtype),
            interpret=interpret,
        )(lanes, *places)[..., :queries]
        .swapaxes(1, 2)
        .reshape(n, heads, queries, channels)
    )


def _backward_kernel(
    sizes,
    values_ref,
    points_ref,
    weights_ref,
    gradient_ref,
    to_values_ref,
    to_points_ref,
    to_weights_ref,
    map_ref,
    columns_ref,
    to_map_ref,
    to_columns_ref,
    to_rows_ref,
):
    _fill_map(sizes, points_ref, weights_ref, map_ref, columns_ref)
    to_map_ref[...] = _product(values_ref[0], gradient_ref[0], 0, 0)
    for level, (start, (height, width)) in enumerate(zip(_starts(sizes), sizes, strict=False)):
        number, padded = points_ref.shape[2], _padded(width)
        x, y = ([points_ref[0, level, k, axis] for k in range(number)] for axis in (0, 1))
        rows, columns = (
            [_hats(at, size) for at in axis] for axis, size in ((x, padded), (y, height))
        )
        for k in range(number):
            columns_ref[k, :height] = columns[k] * weights_ref[0, level, k][None]
            to_rows_ref[k, :padded] = jnp.zeros((padded, to_rows_ref.shape[-1]), jnp.float32)

        def add(line, _, start=start, padded=padded, rows=rows):
            place = pl.multiple_of(start + line * padded, _ROW)
            to_line = to_map_ref[pl.ds(place, padded)]
            for k, row in enumerate(rows):
                to_columns_ref[k, pl.ds(line, 1)] = (to_line * row).sum(0, keepdims=True)
                to_rows_ref[k, :padded] += to_line * columns_ref[k, pl.ds(line, 1)]
            return _

        jax.lax.fori_loop(0, height, add, 0)
        for k in range(number):
            to_column, slope = to_columns_ref[k, :height], _slope(_distance(y[k], height))
            to_row = to_rows_ref[k, :padded] * _slope(_distance(x[k], padded))
            to_points_ref[0, level, k, 0] = to_row.sum(0)
            weight = weights_ref[0, level, k]
            to_points_ref[0, level, k, 1] = (to_column * slope).sum(0) * weight
            to_weights_ref[0, level, k] = (to_column * columns[k]).sum(0)

    @pl.when(pl.program_id(1) == 0)
    def _():
        to_values_ref[...] = jnp.zeros(to_values_ref.shape, to_values_ref.dtype)

    to_values_ref[0] += _product(gradient_ref[0], map_ref[...], 1, 1)


def _gradients(
    sizes: Sizes,
    interpret: bool,
    values: Array,
    points: Array,
    weights: Array,
    gradient: Array,
) -> tuple[Array, Array, Array]:
    queries, block = points.shape[-1], _BACKWARD_BLOCK
    lanes = _lanes(sizes, values)
    arrays = points.astype(jnp.float32), weights.astype(jnp.float32), gradient.swapaxes(2, 3)
    arrays = [_whole_blocks(_one_of_all(x), block) for x in arrays]
    places, tallest = _starts(sizes)[-1], max(height for height, _ in sizes)
    widest = max(_padded(width) for _, width in sizes)
    shapes = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (lanes, *arrays[:2])]
    to_values, to_points, to_weights = pl.pallas_call(
        functools.partial(_backward_kernel, sizes),
        grid=(len(lanes), arrays[0].shape[-1] // block),
        in_specs=[_whole(lanes), *_blocks(*arrays, block=block)],
        out_specs=[_whole(shapes[0]), *_blocks(*shapes[1:], block=block)],
        out_shape=shapes,
        scratch_shapes=[
            *_scratch(sizes, points.shape[3], block, values.dtype),
            pltpu.VMEM((places, block), jnp.float32),
            pltpu.VMEM((points.shape[3], tallest, block), jnp.float32),
            pltpu.VMEM((points.shape[3], widest, block), jnp.float32),
        ],
        interpret=interpret,
    )(lanes, *arrays)
    to_values = _from_lanes(sizes, to_values, values.shape).astype(values.dtype)
    to_points = to_points[..., :queries].reshape(points.shape).astype(points.dtype)
    return (
        to_values,
        to_points,
        to_weights[..., :queries].reshape(weights.shape).astype(weights.dtype),
    )
