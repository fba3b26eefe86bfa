"""Weighted sums of bilinear samples of several maps, the core of deformable attention.

Three ways with one result; what they cost differs by backend and size, see `choose`.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Sizes = Sequence[tuple[int, int]]

# Up to this many tokens in all levels (those of 224 x 224 pixels) an interpolation map per query
# is cheaper than gathering its samples. The maps' memory grows with their square.
MAP_TOKENS = 1100


def choose(sampling: str, tokens: int) -> Callable[..., Float[Array, "N heads T D"]]:
    """The way to sample `tokens` tokens: 'map', 'gather', 'fused', or what is cheapest, 'auto'.

    Raises:
      KeyError: another word.
    """
    if sampling == "auto":
        if jax.default_backend() == "cpu":
            sampling = "fused"
        else:
            sampling = "map" if tokens <= MAP_TOKENS else "gather"
    return SAMPLERS[sampling]


def _corners(
    sizes: Sizes,
    points: Float[Array, "*n T levels P 2"],
    weights: Float[Array, "*n T levels P"],
) -> tuple[list[Int[Array, "*n T levels P"]], list[Float[Array, "*n T levels P"]]]:
    """The four tokens around each point that a query reads, and their weights.

    Args:
      points: (x, y) in pixels of their level, 0 = centre of the first pixel. Pixels outside of
        the level count as zeros: their weight is 0.
    """

    def of_levels(numbers):
        return np.array(numbers, np.int32).reshape(*[1] * (points.ndim - 3), -1, 1)

    width = of_levels([width for _, width in sizes])
    height = of_levels([height for height, _ in sizes])
    start = of_levels(np.cumsum([0] + [height * width for height, width in sizes[:-1]]))
    corner = jnp.floor(points)
    fraction = points - corner
    corner = corner.astype(jnp.int32)
    tokens, shares = [], []
    for down in (0, 1):
        for right in (0, 1):
            x, y = corner[..., 0] + right, corner[..., 1] + down
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            share_x = fraction[..., 0] if right else 1 - fraction[..., 0]
            share_y = fraction[..., 1] if down else 1 - fraction[..., 1]
            shares.append(jnp.where(inside, share_x * share_y * weights, 0.0))
            x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
            tokens.append(start + y * width + x)
    return tokens, shares


def _shares_first(sizes, points, weights):
    tokens, shares = _corners(sizes, points, weights)
    return shares, tokens


def _stacked(corners: list[Array]) -> Float[Array, "N heads T K"]:
    return jnp.stack(corners, axis=-1).reshape(*corners[0].shape[:3], -1)


def _maps(
    sizes: Sizes,
    points: Float[Array, "N heads T levels P 2"],
    weights: Float[Array, "N heads T levels P"],
) -> list[Float[Array, "N heads T s"]]:
    """Weight of every token of a level for each query, level by level.

    A bilinear sample at x weighs pixel i with max(0, 1 - |x - i|) in each axis, so nothing has to
    be scattered.
    """
    maps = []
    for level, (height, width) in enumerate(sizes):
        point = points[:, :, :, level]
        in_row, in_column = (
            jax.nn.relu(1 - jnp.abs(point[..., axis, None] - _pixels(size, point)))
            for axis, size in ((0, width), (1, height))
        )
        in_column *= weights[:, :, :, level, :, None]
        # Without the barrier XLA's CPU backend computes them anew for every pixel of the map.
        in_row, in_column = jax.lax.optimization_barrier((in_row, in_column))
        level_map = sum(
            in_column[:, :, :, point, :, None] * in_row[:, :, :, point, None, :]
            for point in range(points.shape[4])
        )
        maps.append(level_map.reshape(*level_map.shape[:3], height * width))
    return jax.lax.optimization_barrier(maps)


def _pixels(size: int, like: Array) -> Float[np.ndarray, "..."]:
    return np.arange(size, dtype=like.dtype).reshape(*[1] * (like.ndim - 1), size)


def _split_levels(sizes: Sizes, values: Float[Array, "N heads S D"]) -> list[Array]:
    return jnp.split(values, np.cumsum([height * width for height, width in sizes])[:-1], axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sample_by_map(
    sizes: Sizes,
    values: Float[Array, "N heads S D"],
    points: Float[Array, "N heads T levels P 2"],
    weights: Float[Array, "N heads T levels P"],
) -> Float[Array, "N heads T D"]:
    """Weighted sums of bilinear samples, as (T x S) interpolation maps times the values.

    Forwards and backwards without a scatter, hence also deterministic on every backend.

    Args:
      sizes: (height, width) of the levels that `values` holds one after the other.
      points: (x, y) in pixels of their level, 0 = centre of the first pixel. Pixels outside of
        the level count as zeros.
    """
    return _map_forward(sizes, values, points, weights)[0]


def _map_forward(sizes, values, points, weights):
    maps = [level_map.astype(values.dtype) for level_map in _maps(sizes, points, weights)]
    sampled = sum(
        jnp.einsum("nhts,nhsd->nhtd", level_map, level)
        for level_map, level in zip(maps, _split_levels(sizes, values), strict=True)
    )
    return sampled, (values, points, weights, maps)


def _map_backward(sizes, residuals, gradient):
    values, points, weights, maps = residuals
    turned = gradient.swapaxes(2, 3)
    to_values = [jnp.einsum("nhdt,nhts->nhds", turned, level_map) for level_map in maps]
    to_maps = jnp.einsum("nhtd,nhsd->nhts", gradient, values).astype(weights.dtype)
    # A map is its queries' corner weights at their tokens: their gradients stand at these tokens.
    _, pull, tokens = jax.vjp(
        functools.partial(_shares_first, sizes), points, weights, has_aux=True
    )
    number = values.shape[2]
    rows = np.arange(to_maps.size // number, dtype=np.int32) * number
    rows = rows.reshape(*points.shape[:3], 1, 1)
    to_shares = [
        to_maps.reshape(-1).at[(token + rows).reshape(-1)].get(mode="promise_in_bounds")
        for token in tokens
    ]
    to_values = jnp.concatenate(to_values, axis=3).swapaxes(2, 3)
    return to_values, *pull([share.reshape(weights.shape) for share in to_shares])


sample_by_map.defvjp(_map_forward, _map_backward)


def sample_by_gather(
    sizes: Sizes,
    values: Float[Array, "N heads S D"],
    points: Float[Array, "N heads T levels P 2"],
    weights: Float[Array, "N heads T levels P"],
) -> Float[Array, "N heads T D"]:
    """The same by one gather of all corners: memory linear in S."""
    tokens, shares = map(_stacked, _corners(sizes, points, weights))
    index = tokens.reshape(*tokens.shape[:2], -1, 1)
    gathered = jnp.take_along_axis(values, index, axis=2, mode="promise_in_bounds")
    gathered = gathered.reshape(*tokens.shape, -1)
    return jnp.einsum("nhtk,nhtkd->nhtd", shares.astype(values.dtype), gathered)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sample_fused(
    sizes: Sizes,
    values: Float[Array, "N heads S D"],
    points: Float[Array, "N heads T levels P 2"],
    weights: Float[Array, "N heads T levels P"],
) -> Float[Array, "N heads T D"]:
    """The same as one sum of many small gathers, which XLA's CPU backend fuses into one loop.

    At 384 x 384 pixels the gathered samples are 149 MB a frame and layer: not writing them makes
    the CPU several times faster (benchmarks/README.md).
    """
    return _fused_forward(sizes, values, points, weights)[0]


def _fused_forward(sizes, values, points, weights):
    # Head by head, since a loop's body is compiled by itself: else forward and backward pass would
    # share gathers, which are then written out, or compute one another's results again.
    inputs = values, points, weights
    sampled = jax.lax.map(functools.partial(_sample_head, sizes), _heads_first(inputs))
    return sampled.swapaxes(0, 1), inputs


def _fused_backward(sizes, inputs, gradient):
    inputs = _heads_first((*inputs, gradient))
    return _heads_first(jax.lax.map(functools.partial(_head_gradients, sizes), inputs))


def _heads_first(arrays: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(x.swapaxes(0, 1) for x in arrays)


def _taken(values: Float[Array, "N S D"], token: Int[Array, "N T"]) -> Float[Array, "N T D"]:
    return jnp.take_along_axis(values, token[..., None], axis=1, mode="promise_in_bounds")


def _sample_head(sizes: Sizes, inputs) -> Float[Array, "N T D"]:
    values, points, weights = inputs
    tokens, shares = _corners(sizes, points, weights)
    return sum(
        share[..., level, point, None].astype(values.dtype)
        * _taken(values, token[..., level, point])
        for level, point in np.ndindex(points.shape[-3:-1])
        for token, share in zip(tokens, shares, strict=True)
    )


def _head_gradients(sizes: Sizes, inputs) -> tuple[Array, Array, Array]:
    values, points, weights, gradient = inputs
    shares, pull, tokens = jax.vjp(
        functools.partial(_shares_first, sizes), points, weights, has_aux=True
    )
    kind, corners = weights.dtype, range(len(tokens))

    def products(level, point):
        return tuple(
            (gradient * _taken(values, token[..., level, point])).astype(kind) for token in tokens
        )

    def add(xs, ys):
        return tuple(x + y for x, y in zip(xs, ys, strict=True))

    # One reduction of four arrays, since XLA's CPU backend fuses no gather into that of one.
    zeros = (np.zeros((), kind),) * len(tokens)
    to_points = [
        jax.lax.reduce(products(*at), zeros, add, [2]) for at in np.ndindex(points.shape[-3:-1])
    ]
    to_shares = [
        jnp.stack([of_corner[corner] for of_corner in to_points], axis=-1).reshape(weights.shape)
        for corner in corners
    ]

    def scatter(total, corners):
        token, share = corners
        added = share[..., None].astype(values.dtype) * gradient[:, :, None]
        added = added.reshape(len(added), -1, added.shape[-1])
        token = token.reshape(len(token), -1)
        return jax.vmap(lambda x, at, y: x.at[at].add(y, mode="promise_in_bounds"))(
            total, token, added
        ), None

    # Point by point, so that what is added stays in the cache.
    by_point = [
        jnp.stack(corner, axis=-1)
        .reshape(*weights.shape[:2], -1, len(corners))
        .transpose(2, 0, 1, 3)
        for corner in (tokens, shares)
    ]
    to_values = jax.lax.scan(scatter, jnp.zeros_like(values), by_point)[0]
    return to_values, *pull(to_shares)


sample_fused.defvjp(_fused_forward, _fused_backward)

SAMPLERS = {"map": sample_by_map, "gather": sample_by_gather, "fused": sample_fused}
