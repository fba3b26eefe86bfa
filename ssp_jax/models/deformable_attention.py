"""Multi-scale deformable self-attention (method 3.3; Deformable DETR, eq. 3)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ssp_jax.models.adapters import ProjectionWithAdapter
from ssp_jax.models.linear import Linear

Sizes = Sequence[tuple[int, int]]

# Up to this many tokens in all levels (those of 224 x 224 pixels) an interpolation map per query
# is cheaper than gathering its samples: at 336 tokens (128 x 128 pixels), forward and backward,
# 2.8 instead of 6.8 CPU-ms a frame and layer. The maps' memory grows with their square.
MAP_TOKENS = 1100


def reference_points(sizes: Sizes) -> Float[np.ndarray, "S 2"]:
    """Centres (x, y) in [0, 1] of every token of every level, levels in order, row by row."""
    points = []
    for height, width in sizes:
        rows, columns = np.meshgrid(
            (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
        )
        points.append(np.stack([columns.ravel(), rows.ravel()], axis=-1))
    return np.concatenate(points).astype(np.float32)


def _corners(
    sizes: Sizes,
    points: Float[Array, "N heads T levels P 2"],
    weights: Float[Array, "N heads T levels P"],
) -> tuple[Int[Array, "N heads T K"], Float[Array, "N heads T K"]]:
    """Tokens that each query reads (four around each point) and their weights.

    Args:
      points: (x, y) in pixels of their level, 0 = centre of the first pixel. Pixels outside of
        the level count as zeros: their weight is 0.
    """
    width = np.array([width for _, width in sizes], np.int32)[:, None]
    height = np.array([height for height, _ in sizes], np.int32)[:, None]
    start = np.cumsum([0] + [height * width for height, width in sizes[:-1]])
    start = start.astype(np.int32)[:, None]
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
    flat = (*points.shape[:3], -1)
    return jnp.stack(tokens, axis=-1).reshape(flat), jnp.stack(shares, axis=-1).reshape(flat)


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
        in_row = jax.nn.relu(1 - jnp.abs(point[..., 0, None] - np.arange(width)))
        in_column = jax.nn.relu(1 - jnp.abs(point[..., 1, None] - np.arange(height)))
        in_column *= weights[:, :, :, level, :, None]
        # Without the barrier XLA's CPU backend computes them anew for every pixel of the map.
        in_row, in_column = jax.lax.optimization_barrier((in_row, in_column))
        level_map = sum(
            in_column[:, :, :, point, :, None] * in_row[:, :, :, point, None, :]
            for point in range(points.shape[4])
        )
        maps.append(level_map.reshape(*level_map.shape[:3], height * width))
    return jax.lax.optimization_barrier(maps)


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

    def shares_first(points, weights):
        tokens, shares = _corners(sizes, points, weights)
        return shares, tokens

    # A map is its queries' corner weights at their tokens: their gradients stand at these tokens.
    _, pull, tokens = jax.vjp(shares_first, points, weights, has_aux=True)
    number = values.shape[2]
    rows = np.arange(to_maps.size // number, dtype=np.int32).reshape(tokens.shape[:3])
    index = (tokens + rows[..., None] * number).reshape(-1)
    to_shares = to_maps.reshape(-1).at[index].get(mode="promise_in_bounds")
    to_values = jnp.concatenate(to_values, axis=3).swapaxes(2, 3)
    return to_values, *pull(to_shares.reshape(tokens.shape))


sample_by_map.defvjp(_map_forward, _map_backward)


def sample_by_gather(
    sizes: Sizes,
    values: Float[Array, "N heads S D"],
    points: Float[Array, "N heads T levels P 2"],
    weights: Float[Array, "N heads T levels P"],
) -> Float[Array, "N heads T D"]:
    """The same by one gather of all corners: memory linear in S."""
    tokens, shares = _corners(sizes, points, weights)
    index = tokens.reshape(*tokens.shape[:2], -1, 1)
    gathered = jnp.take_along_axis(values, index, axis=2, mode="promise_in_bounds")
    gathered = gathered.reshape(*tokens.shape, -1)
    return jnp.einsum("nhtk,nhtkd->nhtd", shares.astype(values.dtype), gathered)


def _ring_offsets(heads: int, levels: int, points: int) -> Float[np.ndarray, " offsets"]:
    """Initial offsets: each head looks in its own direction, point p at distance p + 1."""
    angle = np.arange(heads) * 2 * np.pi / heads
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    distance = np.arange(1, points + 1)[:, None]
    offsets = direction[:, None, None, :] * distance
    return np.broadcast_to(offsets, (heads, levels, points, 2)).astype(np.float32).reshape(-1)


class DeformableAttention(nnx.Module):
    """Every token of every level attends to a few sampled points around it on all levels.

    Args:
      decoder_adapter: see `ProjectionWithAdapter`.
      sampling: 'map', 'gather', or 'auto' (map up to `MAP_TOKENS`); they differ in cost only.

    Raises:
      ValueError: unknown sampling, or channels that do not divide into heads.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        levels: int = 3,
        points: int = 4,
        decoder_adapter: str = "none",
        sampling: str = "auto",
        rngs: nnx.Rngs,
    ):
        if sampling not in ("auto", "map", "gather"):
            raise ValueError(f"sampling is 'auto', 'map' or 'gather', not {sampling!r}")
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads, self.levels, self.points, self.sampling = heads, levels, points, sampling
        zeros = nnx.initializers.zeros_init()
        samples = heads * levels * points
        self.offsets = Linear(
            channels,
            samples * 2,
            kernel_init=zeros,
            bias_init=lambda key, shape, dtype=jnp.float32, **_: jnp.asarray(
                _ring_offsets(heads, levels, points), dtype
            ),
            rngs=rngs,
        )
        self.weights = Linear(channels, samples, kernel_init=zeros, rngs=rngs)
        self.value = Linear(
            channels, channels, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs
        )
        self.output = ProjectionWithAdapter(channels, mode=decoder_adapter, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N S C"], positions: Float[Array, "S C"], sizes: Sizes
    ) -> Float[Array, "N S C"]:
        """Tokens (levels one after the other) and their positions, added to the queries only."""
        batch, tokens, channels = x.shape
        query = x + positions.astype(x.dtype)
        grid = (self.heads, self.levels, self.points)
        # Places in pixels need more than bfloat16's eight bits.
        offsets = self.offsets(query).astype(jnp.float32).reshape(batch, tokens, *grid, 2)
        logits = self.weights(query).astype(jnp.float32).reshape(batch, tokens, self.heads, -1)
        weights = jax.nn.softmax(logits, axis=-1).reshape(batch, tokens, *grid)
        extent = np.array([(width, height) for height, width in sizes], np.float32)
        base = reference_points(sizes)[:, None] * extent - 0.5
        points = base[None, :, None, :, None] + offsets
        values = self.value(x).reshape(batch, tokens, self.heads, channels // self.heads)
        by_map = self.sampling == "map" or (self.sampling == "auto" and tokens <= MAP_TOKENS)
        sample = sample_by_map if by_map else sample_by_gather
        sampled = sample(
            tuple(sizes),
            values.transpose(0, 2, 1, 3),
            points.transpose(0, 2, 1, 3, 4, 5),
            weights.transpose(0, 2, 1, 3, 4),
        )
        return self.output(sampled.transpose(0, 2, 1, 3).reshape(batch, tokens, channels))
