"""Arrays of two precisions in one operation: they promote as in NNX's layers, and always aloud.

JAX's strict mode (JAX_NUMPY_DTYPE_PROMOTION=strict) refuses what promotes by itself. Here it is
meant: a network's parameters may be bfloat16 and its inputs float32, or the other way round.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def promoting(call: Callable) -> Callable:
    """Return `call` with JAX's own promotion inside of it, whatever the mode outside."""

    @functools.wraps(call)
    def run(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return call(*args, **kwargs)

    return run


@promoting
def promoted(*arrays: Float[Array, "..."]) -> tuple[Array, ...]:
    """Return the arrays in the precision that holds all of theirs."""
    dtype = jnp.result_type(*arrays)
    return tuple(array.astype(dtype) for array in arrays)


def add(first: Float[Array, "..."], second: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the sum of two arrays, of one rank or one of them a scalar, in the wider precision."""
    first, second = promoted(first, second)
    return first + second


class PlainLinear(nnx.Linear):
    """`nnx.Linear`, see `promoting`."""

    __call__ = promoting(nnx.Linear.__call__)


class LayerNorm(nnx.LayerNorm):
    """`nnx.LayerNorm`, see `promoting`: of bfloat16, too, it takes the mean in float32."""

    __call__ = promoting(nnx.LayerNorm.__call__)


class GroupNorm(nnx.GroupNorm):
    """`nnx.GroupNorm`, see `promoting`."""

    __call__ = promoting(nnx.GroupNorm.__call__)
