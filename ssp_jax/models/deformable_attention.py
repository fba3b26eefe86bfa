"""Multi-scale deformable self-attention (method 3.3; Deformable DETR, eq. 3)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.adapters import ProjectionWithAdapter
from ssp_jax.models.deformable_sampling import SAMPLERS, Sizes, sample
from ssp_jax.models.linear import Linear


def reference_points(sizes: Sizes) -> Float[np.ndarray, "S 2"]:
    """Centres (x, y) in [0, 1] of every token of every level, levels in order, row by row."""
    points = []
    for height, width in sizes:
        rows, columns = np.meshgrid(
            (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
        )
        points.append(np.stack([columns.ravel(), rows.ravel()], axis=-1))
    return np.concatenate(points).astype(np.float32)


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
      sampling: a name of `SAMPLERS`, or 'auto'; they differ in cost only.

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
        if sampling not in ("auto", *SAMPLERS):
            raise ValueError(f"sampling is 'auto' or one of {list(SAMPLERS)}, not {sampling!r}")
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
        query = x + positions[None].astype(x.dtype)
        grid = (self.heads, self.levels, self.points)

        def of_queries(projected, *shape):
            # Queries last: accelerators compute on 128 numbers of the last axis at a time. And
            # places in pixels need more than bfloat16's eight bits.
            return projected.swapaxes(1, 2).astype(jnp.float32).reshape(batch, *shape, tokens)

        logits = of_queries(self.weights(query), self.heads, self.levels * self.points)
        weights = jax.nn.softmax(logits, axis=2).reshape(batch, *grid, tokens)
        extent = np.array([(width, height) for height, width in sizes], np.float32)
        base = reference_points(sizes).T * extent[..., None] - 0.5
        points = base[None, None, :, None] + of_queries(self.offsets(query), *grid, 2)
        values = self.value(x).reshape(batch, tokens, self.heads, channels // self.heads)
        sampled = sample(
            self.sampling, tuple(map(tuple, sizes)), values.transpose(0, 2, 1, 3), points, weights
        )
        return self.output(sampled.transpose(0, 2, 1, 3).reshape(batch, tokens, channels))
