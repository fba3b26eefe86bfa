"""An axis of an array in blocks, for loops that take some of it at a time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def in_blocks(array: Array, axis: int, most: int) -> Array:
    """Return equal blocks of at most `most` along an axis, as a new first axis; the last one is
    filled up with zeros."""
    axis %= array.ndim
    number = array.shape[axis]
    count = max(1, -(-number // most))
    size = -(-number // count)
    more = [(0, 0)] * array.ndim
    more[axis] = (0, count * size - number)
    shape = (*array.shape[:axis], count, size, *array.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(array, more).reshape(shape), axis, 0)


def out_of_blocks(blocks: Array, axis: int, number: int) -> Array:
    """Return what `in_blocks` was given, `number` long in that axis."""
    axis %= blocks.ndim - 1
    moved = jnp.moveaxis(blocks, 0, axis)
    joined = moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])
    return jax.lax.slice_in_dim(joined, 0, number, axis=axis)
