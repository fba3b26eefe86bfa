"""Checksums of arrays, however they are spread over devices."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

from ssp_jax.train_state import path_name


def array_checksums(tree: Any) -> dict[str, str]:
    """Path name of every leaf -> 16 hexadecimal digits, the same for any sharding.

    A change of any one element changes its leaf's digits, many changes at once all but surely. The
    arrays stay on their devices; all processes have to ask.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # One small program a shape: one for a thousand leaves would take minutes to compile. One after
    # the other: of many at once that need not wait for each other, XLA's threads for CPU devices
    # take up parts, all wait for the parts that no thread is left for, and the process is aborted.
    arrays = (x if isinstance(x, jax.Array) else jax.device_put(x) for _, x in leaves)
    sums = [jax.device_get(_checksum(array)) for array in arrays]
    names = [path_name(path) for path, _ in leaves]
    return {n: f"{int(a):08x}{int(b):08x}" for n, (a, b) in zip(names, sums, strict=True)}


def digest_of(tree: Any) -> str:
    """Return 16 hexadecimal digits of all leaves' checksums; all processes have to ask."""
    sums = json.dumps(array_checksums(tree), sort_keys=True)
    return hashlib.sha256(sums.encode()).hexdigest()[:16]


@jax.jit
def _checksum(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Sums in whole numbers: no order of addition changes them. Factors are odd, so that no change
    # of one element is lost.
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).reshape(-1)
    place = jax.lax.iota(jnp.uint32, bits.size)
    one, two = place * jnp.uint32(2654435761), (place + 1) * jnp.uint32(2246822519)
    return tuple(jnp.sum((bits ^ x) * (x | 1), dtype=jnp.uint32) for x in (one, two))
