"""Multi-scale deformable self-attention (method 3.3; Deformable DETR, eq. 3)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.adapters import ProjectionWithAdapter

Sizes = Sequence[tuple[int, int]]

# Up to this many tokens in all levels (those of 224 x 224 pixels) a dense map per query is cheaper
# than gathers, whose reverse is a scatter.
DENSE_TOKENS = 1100


def reference_points(sizes: Sizes) -> Float[np.ndarray, "S 2"]:
    """Centres (x, y) in [0, 1] of every token of every level, levels in order, row by row."""
    points = []
    for height, width in sizes:
        rows, columns = np.meshgrid(
            (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
        )
        points.append(np.stack([columns.ravel(), rows.ravel()], axis=-1))
    return np.concatenate(points).astype(np.float32)


def _split_levels(values: Array, sizes: Sizes, axis: int) -> list[Array]:
    bounds = np.cumsum([height * width for height, width in sizes])[:-1]
    return jnp.split(values, bounds, axis=axis)


def sample_dense(
    values: Float[Array, "N heads S D"],
    sizes: Sizes,
    points: Float[Array, "N heads T levels P 2"],
    weights: Float[Array, "N heads T levels P"],
) -> Float[Array, "N heads T D"]:
    """Weighted bilinear samples as a product of an interpolation map (T x S) with the values.

    A bilinear sample at x weighs pixel i with max(0, 1 - |x - i|), in each axis, and pixels
    outside count as zero: so no corner needs to be looked up, and nothing is scattered in reverse.

    Args:
      points: (x, y) in pixels of their level, 0 = centre of the first pixel.
    """
    maps = []
    for level, (height, width) in enumerate(sizes):
        point = points[:, :, :, level]
        in_row = jax.nn.relu(1 - jnp.abs(point[..., 0, None] - np.arange(width)))
        in_column = jax.nn.relu(1 - jnp.abs(point[..., 1, None] - np.arange(height)))
        in_column *= weights[:, :, :, level, :, None]
        weight = (in_column[..., :, None] * in_row[..., None, :]).sum(3)
        maps.append(weight.reshape(*weight.shape[:3], height * width))
    return jnp.einsum("nhts,nhsd->nhtd", jnp.concatenate(maps, axis=-1), values)


def sample_gather(
    values: Float[Array, "N heads S D"],
    sizes: Sizes,
    points: Float[Array, "N heads T levels P 2"],
    weights: Float[Array, "N heads T levels P"],
) -> Float[Array, "N heads T D"]:
    """The same by one gather of the four corners per level: memory linear in S."""
    batch, heads, queries, _, number, _ = points.shape
    total = 0.0
    for level, value in enumerate(_split_levels(values, sizes, axis=2)):
        height, width = sizes[level]
        point = points[:, :, :, level]
        corner = jnp.floor(point)
        fraction = point - corner
        corner = corner.astype(jnp.int32)
        indices, corner_weights = [], []
        for down in (0, 1):
            for right in (0, 1):
                x, y = corner[..., 0] + right, corner[..., 1] + down
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                share_x = fraction[..., 0] if right else 1 - fraction[..., 0]
                share_y = fraction[..., 1] if down else 1 - fraction[..., 1]
                weight = share_x * share_y * weights[:, :, :, level]
                corner_weights.append(jnp.where(inside, weight, 0.0))
                indices.append(jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1))
        index = jnp.stack(indices, axis=-1).reshape(batch, heads, -1, 1)
        corners = jnp.take_along_axis(value, index, axis=2)
        corners = corners.reshape(batch, heads, queries, number * 4, -1)
        weight = jnp.stack(corner_weights, axis=-1).reshape(batch, heads, queries, number * 4)
        total += jnp.einsum("nhtk,nhtkd->nhtd", weight, corners)
    return total


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
      sampling: 'dense', 'gather', or 'auto' (dense for small maps, see `DENSE_TOKENS`); they
        differ in cost only.

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
        if sampling not in ("auto", "dense", "gather"):
            raise ValueError(f"sampling is 'auto', 'dense' or 'gather', not {sampling!r}")
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads, self.levels, self.points, self.sampling = heads, levels, points, sampling
        zeros = nnx.initializers.zeros_init()
        samples = heads * levels * points
        self.offsets = nnx.Linear(
            channels,
            samples * 2,
            kernel_init=zeros,
            bias_init=lambda key, shape, dtype=jnp.float32, **_: jnp.asarray(
                _ring_offsets(heads, levels, points), dtype
            ),
            rngs=rngs,
        )
        self.weights = nnx.Linear(channels, samples, kernel_init=zeros, rngs=rngs)
        self.value = nnx.Linear(
            channels, channels, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs
        )
        self.output = ProjectionWithAdapter(channels, mode=decoder_adapter, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N S C"], positions: Float[Array, "S C"], sizes: Sizes
    ) -> Float[Array, "N S C"]:
        """Tokens (levels one after the other) and their positions, added to the queries only."""
        batch, tokens, channels = x.shape
        query = x + positions
        grid = (self.heads, self.levels, self.points)
        offsets = self.offsets(query).reshape(batch, tokens, *grid, 2)
        logits = self.weights(query).reshape(batch, tokens, self.heads, -1)
        weights = jax.nn.softmax(logits, axis=-1).reshape(batch, tokens, *grid)
        extent = np.array([(width, height) for height, width in sizes], np.float32)
        base = reference_points(sizes)[:, None] * extent - 0.5
        points = (base[None, :, None, :, None] + offsets).transpose(0, 2, 1, 3, 4, 5)
        values = self.value(x).reshape(batch, tokens, self.heads, channels // self.heads)
        dense = self.sampling == "dense" or (self.sampling == "auto" and tokens <= DENSE_TOKENS)
        sampled = (sample_dense if dense else sample_gather)(
            values.transpose(0, 2, 1, 3), sizes, points, weights.transpose(0, 2, 1, 3, 4)
        )
        return self.output(sampled.transpose(0, 2, 1, 3).reshape(batch, tokens, channels))
