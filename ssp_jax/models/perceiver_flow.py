"""Perceiver IO's optical flow (method 4.1).

A. Jaegle et al., "Perceiver IO: A General Architecture for Structured Inputs & Outputs", appendix
H; google-deepmind/deepmind-research, perceiver/colabs/optical_flow.ipynb; transformers'
`PerceiverForOpticalFlow`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.activations import gelu
from ssp_jax.models.adapters import trunc_normal
from ssp_jax.models.linear import Linear
from ssp_jax.models.promotion import LayerNorm, add, promoted

_FRAMES, _PATCH = 2, 3  # a pixel's features: the 3 x 3 pixels around it, in both frames
# The last layer's outputs are pixels * 5: DeepMind divides them by 100 inside of the decoder (all
# that transformers does) and multiplies by 20 in its demo (deepmind-research, issue 266).
PIXELS_PER_OUTPUT = 20 / 100
_LOGITS = 2**26  # attention logits held at once, 256 MB: a tile's pixels and latents have 374 M


def _attend(
    query: Float[Array, "N Q heads D"],
    key: Float[Array, "N M heads D"],
    value: Float[Array, "N M heads D"],
) -> Float[Array, "N Q heads D"]:
    """Softmax attention, of so many queries at a time as `_LOGITS` allows."""

    query, key, value = promoted(query, key, value)

    def rows(query):
        logits = jnp.einsum("nqhd,nmhd->nhqm", query * query.shape[-1] ** -0.5, key)
        return jnp.einsum("nhqm,nmhd->nqhd", jax.nn.softmax(logits, axis=-1), value)

    batch, queries, heads, _ = query.shape
    block = max(1, _LOGITS // (batch * heads * key.shape[1]))
    if block >= queries:
        return rows(query)
    attended = jax.lax.map(
        lambda row: rows(row[:, None])[:, 0], jnp.moveaxis(query, 1, 0), batch_size=block
    )
    return jnp.moveaxis(attended, 0, 1)


class PerceiverLayer(nnx.Module):
    """Pre-norm attention to a source (or to itself) and a one-layer-wide MLP.

    Args:
      channels: of what attends. inner: of query, key and value, all heads together.
      source_channels: of what is attended to; None: to itself.
      residual: add the input to the attention's result.

    Raises:
      ValueError: `inner` does not divide into `heads`.
    """

    def __init__(
        self,
        channels: int,
        *,
        inner: int,
        heads: int,
        source_channels: int | None = None,
        residual: bool = True,
        rngs: nnx.Rngs,
    ):
        if inner % heads:
            raise ValueError(f"{inner} channels do not divide into {heads} heads")
        self.heads, self.residual = heads, residual
        self.attends_to_itself = source_channels is None
        self.norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        if source_channels is None:
            source_channels = channels
        else:
            self.source_norm = LayerNorm(source_channels, epsilon=1e-5, rngs=rngs)
        self.query = Linear(channels, inner, rngs=rngs)
        self.key = Linear(source_channels, inner, rngs=rngs)
        self.value = Linear(source_channels, inner, rngs=rngs)
        self.output = Linear(inner, channels, rngs=rngs)
        self.mlp_norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.mlp_in = Linear(channels, channels, rngs=rngs)
        self.mlp_out = Linear(channels, channels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N Q C"], source: Float[Array, "N M S"] | None = None
    ) -> Float[Array, "N Q C"]:
        """`source` is for layers built with `source_channels`, and only for these."""
        normed = self.norm(x)
        source = normed if self.attends_to_itself else self.source_norm(source)

        def split(y):
            return y.reshape(*y.shape[:-1], self.heads, -1)

        attended = _attend(
            split(self.query(normed)), split(self.key(source)), split(self.value(source))
        )
        attended = self.output(attended.reshape(*attended.shape[:-2], -1))
        x = add(x, attended) if self.residual else attended
        # The exact form, as transformers has it; DeepMind's code has the tanh form.
        hidden = gelu(self.mlp_in(self.mlp_norm(x)), "exact")
        return add(x, self.mlp_out(hidden))


def fourier_positions(length: int, bands: int) -> Float[np.ndarray, "length 1+2*bands"]:
    """One axis' positions -1..1, sines and cosines of pi f position, f from 1 to length / 2."""
    position = np.linspace(-1, 1, length)[:, None]
    angle = np.pi * position * np.linspace(1, length / 2, bands)
    return np.concatenate([position, np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)


def _grid(size: tuple[int, int], bands: int) -> Float[Array, "H W C"]:
    """Of all pixels: row and column, then the sines of both, then the cosines."""
    axes = []
    for axis, length in enumerate(size):
        values = jnp.asarray(fourier_positions(length, bands))
        values = jnp.broadcast_to(jnp.expand_dims(values, 1 - axis), (*size, values.shape[-1]))
        axes.append(jnp.split(values, (1, 1 + bands), axis=-1))
    return jnp.concatenate([part for parts in zip(*axes, strict=True) for part in parts], axis=-1)


class PerceiverFlow(nnx.Module):
    """Optical flow of frame pairs of one size; the defaults are `deepmind/optical-flow-perceiver`.

    Args:
      size: height and width of the frames; what a position means depends on it.
      latents, channels: number and channels of the latents.
      layers, heads: self-attention of the latents.
      cross_heads: heads with which the latents attend to the pixels.
      bands: frequencies of a position along each axis. patch_channels: of a pixel's colours.

    Raises:
      ValueError: channels that do not divide into heads.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] = (368, 496),
        latents: int = 2048,
        channels: int = 512,
        layers: int = 24,
        heads: int = 16,
        cross_heads: int = 1,
        bands: int = 64,
        patch_channels: int = 64,
        rngs: nnx.Rngs,
    ):
        self.size, self.bands = tuple(size), bands
        pixel_channels = patch_channels + 2 * (1 + 2 * bands)
        self.patch_embedding = Linear(_FRAMES * _PATCH**2 * 3, patch_channels, rngs=rngs)
        self.latents = nnx.Param(trunc_normal(rngs.params(), (latents, channels), jnp.float32))
        self.encoder = PerceiverLayer(
            channels,
            inner=pixel_channels,
            heads=cross_heads,
            source_channels=pixel_channels,
            rngs=rngs,
        )
        self.layers = nnx.List(
            PerceiverLayer(channels, inner=channels, heads=heads, rngs=rngs) for _ in range(layers)
        )
        self.decoder = PerceiverLayer(
            pixel_channels,
            inner=channels,
            heads=1,
            source_channels=channels,
            residual=False,
            rngs=rngs,
        )
        zero = nnx.initializers.zeros_init()
        self.output = Linear(pixel_channels, 2, kernel_init=zero, rngs=rngs)

    def pixels(self, pairs: Float[Array, "N 2 H W 3"]) -> Float[Array, "N H*W C"]:
        """Every pixel's surroundings in both frames (zeros outside) and its position.

        Raises:
          ValueError: frames of another size than the model's.
        """
        batch, (height, width) = len(pairs), self.size
        if pairs.shape[1:] != (_FRAMES, *self.size, 3):
            raise ValueError(f"pairs of shape {pairs.shape}, expected (N, 2, {height}, {width}, 3)")
        padded = jnp.pad(pairs, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
        patches = [
            padded[:, frame, row : row + height, column : column + width]
            for frame in range(_FRAMES)
            for row in range(_PATCH)
            for column in range(_PATCH)
        ]
        colours = self.patch_embedding(jnp.concatenate(patches, axis=-1))
        grid = _grid(self.size, self.bands)
        positions = jnp.broadcast_to(grid, (batch, *grid.shape))
        x = jnp.concatenate(promoted(colours, positions), axis=-1)
        return x.reshape(batch, height * width, -1)

    def encode(self, pixels: Float[Array, "N P C"]) -> list[Float[Array, "N latents D"]]:
        """The latents after they have attended to the pixels, and after each further layer."""
        latents = self.latents[...]
        states = [self.encoder(jnp.broadcast_to(latents, (len(pixels), *latents.shape)), pixels)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states

    def __call__(self, pairs: Float[Array, "N 2 H W 3"]) -> Float[Array, "N H W 2"]:
        """Flow from the first to the second frame, in pixels (x to the right, y down).

        Args:
          pairs: RGB in -1..1 (x / 255 * 2 - 1), of the model's size.

        Raises:
          ValueError: frames of another size.
        """
        pixels = self.pixels(pairs)
        decoded = self.decoder(pixels, self.encode(pixels)[-1])
        flow = self.output(decoded) * PIXELS_PER_OUTPUT
        return flow.reshape(len(pairs), *self.size, 2)
