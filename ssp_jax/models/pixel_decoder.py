"""Mask2Former's pixel decoder (method 3.3)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.adapters import apply_layer
from ssp_jax.models.convolution import Conv3x3
from ssp_jax.models.deformable_attention import DeformableAttention, Sizes
from ssp_jax.models.linear import Linear
from ssp_jax.models.positions import sine_positions
from ssp_jax.models.promotion import GroupNorm, LayerNorm, add
from ssp_jax.models.resize import resize_bilinear

_GROUPS = 32
_LEVELS = 3

xavier_uniform = nnx.initializers.xavier_uniform()
_conv_init = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")


class PixelDecoderLayer(nnx.Module):
    """Deformable self-attention and feed-forward network, post-norm."""

    def __init__(
        self,
        channels: int,
        heads: int,
        ffn: int,
        *,
        decoder_adapter: str,
        sampling: str,
        rngs: nnx.Rngs,
    ):
        self.attention = DeformableAttention(
            channels, heads, decoder_adapter=decoder_adapter, sampling=sampling, rngs=rngs
        )
        self.attention_norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.ffn_in = Linear(channels, ffn, kernel_init=xavier_uniform, rngs=rngs)
        self.ffn_out = Linear(ffn, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.ffn_norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N S C"], positions: Float[Array, "S C"], sizes: Sizes
    ) -> Float[Array, "N S C"]:
        x = self.attention_norm(add(x, self.attention(x, positions, sizes)))
        return self.ffn_norm(add(x, self.ffn_out(jax.nn.relu(self.ffn_in(x)))))


class PixelDecoder(nnx.Module):
    """From the encoder's four maps to three refined ones and the mask features.

    Args:
      feature_channels: channels of the encoder's maps, strides 4, 8, 16, 32.
      channels: C; a multiple of 32, the groups of its GroupNorms.
      heads, layers, ffn: of the deformable encoder on strides 32, 16 and 8.
      decoder_adapter: 'none', 'replace' (AAVS stage 1) or 'after' (stage 2).
      sampling: see `DeformableAttention`.
      remat: recompute layers in the backward pass.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        channels: int = 256,
        *,
        heads: int = 8,
        layers: int = 6,
        ffn: int = 1024,
        decoder_adapter: str = "none",
        sampling: str = "auto",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if channels % _GROUPS:
            raise ValueError(f"the pixel decoder's channels are a multiple of 32, not {channels}")
        self.remat = remat

        def group_norm():
            return GroupNorm(channels, num_groups=_GROUPS, epsilon=1e-5, rngs=rngs)

        coarse_first = list(feature_channels)[:0:-1]
        self.input_projections = nnx.List(
            Linear(source, channels, kernel_init=xavier_uniform, rngs=rngs)
            for source in coarse_first
        )
        self.input_norms = nnx.List(group_norm() for _ in coarse_first)
        self.level_embedding = nnx.Param(jax.random.normal(rngs.params(), (_LEVELS, channels)))
        self.layers = nnx.List(
            PixelDecoderLayer(
                channels,
                heads,
                ffn,
                decoder_adapter=decoder_adapter,
                sampling=sampling,
                rngs=rngs,
            )
            for _ in range(layers)
        )
        self.lateral = Linear(
            feature_channels[0], channels, use_bias=False, kernel_init=_conv_init, rngs=rngs
        )
        self.lateral_norm = group_norm()
        self.fusion = Conv3x3(channels, channels, use_bias=False, kernel_init=_conv_init, rngs=rngs)
        self.fusion_norm = group_norm()
        self.mask_projection = Linear(channels, channels, kernel_init=_conv_init, rngs=rngs)

    def __call__(
        self, features: Sequence[Float[Array, "N h w D"]]
    ) -> tuple[Float[Array, "N H W C"], list[Float[Array, "N h w C"]]]:
        """Returns the mask features (stride 4) and the maps of strides 32, 16, 8."""
        coarse_first = list(features)[:0:-1]
        sizes = tuple(feature.shape[1:3] for feature in coarse_first)
        tokens, positions = [], []
        for level, feature in enumerate(coarse_first):
            x = self.input_norms[level](self.input_projections[level](feature))
            tokens.append(x.reshape(x.shape[0], -1, x.shape[-1]))
            position = jnp.asarray(sine_positions(*sizes[level], x.shape[-1]))
            embedding = self.level_embedding[...][level][None]
            positions.append(add(position.reshape(-1, x.shape[-1]), embedding))
        x, position = jnp.concatenate(tokens, axis=1), jnp.concatenate(positions)
        for layer in self.layers:
            x = apply_layer(layer, x, position, sizes=sizes, remat=self.remat)
        maps, start = [], 0
        for height, width in sizes:
            level = x[:, start : start + height * width]
            maps.append(level.reshape(x.shape[0], height, width, -1))
            start += height * width
        fine = self.lateral_norm(self.lateral(features[0]))
        fine = add(fine, resize_bilinear(maps[-1], fine.shape[1:3], axes=(1, 2)))
        fine = jax.nn.relu(self.fusion_norm(self.fusion(fine)))
        return self.mask_projection(fine), maps
