"""Swin encoder (method 3.1)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ssp_jax.models.activations import GELUS, gelu
from ssp_jax.models.adapters import Adapter, apply_layer, trunc_normal
from ssp_jax.models.attention import attend, attend_tokens_last
from ssp_jax.models.linear import Linear
from ssp_jax.models.promotion import LayerNorm, add, promoted

_MLP_RATIO = 4
_OTHER_REGION = -100.0  # added to the logits of pairs that only the cyclic shift made neighbours
# Of maps up to so many tokens a TPU makes windows by a product with zeros and ones: 2,304 tokens of
# 256 channels take it a third of the time of moving them. The product grows with their square.
_PRODUCT_TOKENS = 2304


@functools.lru_cache(maxsize=32)
def relative_index(window: int) -> Int[np.ndarray, " L*L"]:
    """Row of the bias table for each pair of positions in a window."""
    position = np.arange(window)
    offset = position[:, None] - position[None, :] + window - 1
    index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return index.reshape(-1)


@functools.lru_cache(maxsize=64)
def _shift_mask(
    height: int, width: int, window: int, shift: int
) -> Float[np.ndarray, "windows L L"]:
    """Additive mask of shifted windows: keeps regions apart that touch only by wrapping around."""

    def region(length):
        position = np.arange(length)
        return (position >= length - window).astype(int) + (position >= length - shift)

    regions = region(height)[:, None] * 3 + region(width)[None, :]
    regions = regions.reshape(height // window, window, width // window, window)
    regions = regions.transpose(0, 2, 1, 3).reshape(-1, window * window)
    apart = regions[:, :, None] != regions[:, None, :]
    return np.where(apart, _OTHER_REGION, 0.0).astype(np.float32)


def _to_windows(
    x: Float[Array, "N H W C"], window: int, shift: int
) -> Float[Array, "N windows L C"]:
    """Windows of the map, filled up with zeros and shifted by `shift` in both axes."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // window), -(-width // window)
    x = jnp.pad(x, ((0, 0), (0, -height % window), (0, -width % window), (0, 0)))
    if shift:
        x = jnp.roll(x, (-shift, -shift), axis=(1, 2))
    x = x.reshape(batch, rows, window, columns, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, window**2, channels)


def _from_windows(
    x: Float[Array, "N windows L C"], height: int, width: int, window: int, shift: int
) -> Float[Array, "N height width C"]:
    """Return what `_to_windows` was given."""
    batch, rows, columns = x.shape[0], -(-height // window), -(-width // window)
    x = x.reshape(batch, rows, columns, window, window, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * window, columns * window, -1)
    if shift:
        x = jnp.roll(x, (shift, shift), axis=(1, 2))
    return x[:, :height, :width]


@functools.lru_cache(maxsize=64)
def _window_tokens(height: int, width: int, window: int, shift: int) -> Int[np.ndarray, " places"]:
    """Token of the map, row-major, at each place of its windows in turn; -1 where it is padded."""
    tokens = np.arange(height * width).reshape(height, width)
    tokens = np.pad(tokens, ((0, -height % window), (0, -width % window)), constant_values=-1)
    tokens = np.roll(tokens, (-shift, -shift), axis=(0, 1))
    rows, columns = tokens.shape[0] // window, tokens.shape[1] // window
    return tokens.reshape(rows, window, columns, window).transpose(0, 2, 1, 3).reshape(-1)


class WindowAttention(nnx.Module):
    """Multi-head self-attention within windows, with a relative position bias."""

    def __init__(self, channels: int, heads: int, window: int, *, rngs: nnx.Rngs):
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads, self.window = heads, window
        self.qkv = Linear(channels, 3 * channels, kernel_init=trunc_normal, rngs=rngs)
        self.projection = Linear(channels, channels, kernel_init=trunc_normal, rngs=rngs)
        self.position_bias = nnx.Param(
            trunc_normal(rngs.params(), ((2 * window - 1) ** 2, heads), jnp.float32)
        )

    def __call__(
        self,
        x: Float[Array, "N windows L C"],
        mask: Float[np.ndarray, "windows L L"] | None,
        *,
        tokens_last: bool,
    ) -> Float[Array, "N windows L C"]:
        """The same numbers with tokens or channels as the last axis of queries, keys and values.

        A head's 32 channels would fill a quarter of a TPU's lanes, and be padded.
        """
        batch, windows, length, channels = x.shape
        bias = self.position_bias[...][relative_index(self.window)]
        bias = bias.reshape(length, length, self.heads).transpose(2, 0, 1)
        if mask is not None:
            bias = add(bias[None], mask[:, None])
        heads = self.heads, channels // self.heads
        if tokens_last:
            qkv = _channels_first("...lc,ce->...el", x, self.qkv, (-1, 1))
            parts = (x.reshape(*x.shape[:-2], *heads, -1) for x in jnp.split(qkv, 3, axis=-2))
            attended = attend_tokens_last(*parts, bias).reshape(batch, windows, channels, length)
            return _channels_first("...cl,ce->...le", attended, self.projection, (-1,))
        qkv = self.qkv(x).reshape(batch, windows, length, 3, *heads)
        attended = attend(*qkv.transpose(3, 0, 1, 4, 2, 5), bias)
        attended = attended.transpose(0, 1, 3, 2, 4)
        return self.projection(attended.reshape(batch, windows, length, channels))


def _channels_first(
    axes: str, x: Float[Array, "..."], layer: Linear, bias_shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """A linear layer of which input or output have their channels ahead of the tokens."""
    x, kernel, bias = promoted(x, layer.kernel[...], layer.bias[...])
    product = jnp.einsum(axes, x, kernel)
    return product + jnp.expand_dims(bias.reshape(bias_shape), range(x.ndim - len(bias_shape)))


class SwinBlock(nnx.Module):
    """One pre-norm Swin block; odd blocks of a stage shift their windows."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        shift: int,
        gelu: str,
        adapters: bool,
        rngs: nnx.Rngs,
    ):
        self.window, self.shift, self.adapters = window, shift, adapters
        self.gelu = gelu
        inner = _MLP_RATIO * channels
        self.attention_norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.attention = WindowAttention(channels, heads, window, rngs=rngs)
        self.mlp_norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.mlp_in = Linear(channels, inner, kernel_init=trunc_normal, rngs=rngs)
        self.mlp_out = Linear(inner, channels, kernel_init=trunc_normal, rngs=rngs)
        if adapters:
            self.attention_adapter = Adapter(channels, rngs=rngs)
            self.mlp_adapter = Adapter(channels, rngs=rngs)

    def _attend(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        return jax.lax.platform_dependent(
            x, tpu=self._attend_by_products, default=self._attend_by_moves
        )

    def _attend_by_moves(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        height, width = x.shape[1:3]
        x = _to_windows(x, self.window, self.shift)
        x = self._within(x, height, width, tokens_last=False)
        return _from_windows(x, height, width, self.window, self.shift)

    def _attend_by_products(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        batch, height, width, channels = x.shape
        if height * width > _PRODUCT_TOKENS:
            windows = _to_windows(x, self.window, self.shift)
            windows = self._within(windows, height, width, tokens_last=True)
            return _from_windows(windows, height, width, self.window, self.shift)
        tokens = _window_tokens(height, width, self.window, self.shift)
        # Compared within the program: as a constant it would have megabytes.
        places = jnp.asarray(tokens.reshape(-1, self.window**2, 1))
        places = places == jnp.arange(height * width)[None, None]
        exact = jax.lax.Precision.HIGHEST
        x = x.reshape(batch, -1, channels)
        windows = jnp.einsum("wlt,ntc->nwlc", places.astype(x.dtype), x, precision=exact)
        x = self._within(windows, height, width, tokens_last=True)
        x = jnp.einsum("wlt,nwlc->ntc", places.astype(x.dtype), x, precision=exact)
        return x.reshape(batch, height, width, channels)

    def _within(
        self, x: Float[Array, "N windows L C"], height: int, width: int, *, tokens_last: bool
    ) -> Float[Array, "N windows L C"]:
        """Attention within the windows of a map of (height, width)."""
        mask = None
        if self.shift:
            padded = (length + -length % self.window for length in (height, width))
            mask = _shift_mask(*padded, self.window, self.shift)
        x = self.attention(x, mask, tokens_last=tokens_last)
        return self.attention_adapter(x) if self.adapters else x

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        x = add(x, self._attend(self.attention_norm(x)))
        hidden = gelu(self.mlp_in(self.mlp_norm(x)), self.gelu)
        hidden = self.mlp_out(hidden)
        return add(x, self.mlp_adapter(hidden) if self.adapters else hidden)


class PatchMerging(nnx.Module):
    """Halves a map: 2 x 2 neighbours are concatenated, normalised and projected to 2 C."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * channels, epsilon=1e-5, rngs=rngs)
        self.reduction = Linear(
            4 * channels, 2 * channels, use_bias=False, kernel_init=trunc_normal, rngs=rngs
        )

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        batch, height, width, channels = x.shape
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        x = x.reshape(batch, rows, 2, columns, 2, channels)
        # Swin's order of the four neighbours: column-major.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, rows, columns, 4 * channels)
        return self.reduction(self.norm(x))


class SwinStage(nnx.Module):
    """`depth` blocks at one resolution."""

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        *,
        window: int,
        gelu: str,
        adapters: bool,
        rngs: nnx.Rngs,
    ):
        self.blocks = nnx.List(
            SwinBlock(
                channels,
                heads,
                window=window,
                shift=window // 2 if block % 2 else 0,
                gelu=gelu,
                adapters=adapters,
                rngs=rngs,
            )
            for block in range(depth)
        )

    def __call__(self, x: Float[Array, "N H W C"], *, remat: bool) -> Float[Array, "N H W C"]:
        for block in self.blocks:
            x = apply_layer(block, x, remat=remat)
        return x


class Swin(nnx.Module):
    """Swin transformer that returns its four stages, each with a LayerNorm (method 3.1).

    Args:
      embed_dim: channels of the first stage; each further stage has twice as many.
      depths, num_heads: blocks and attention heads of each stage.
      window: side of the attention windows, in tokens. Maps are padded to whole windows, and the
        windows of odd blocks shift, however small the map: as in Mask2Former's backbone, unlike
        the Swin classifier, which shrinks windows to the map.
      patch: side of a patch in pixels.
      gelu: see `activations.gelu`.
      adapters: two residual bottleneck adapters a block.
      remat: recompute blocks in the backward pass.

    Raises:
      ValueError: unknown gelu, or depths and num_heads of different lengths.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 12,
        patch: int = 4,
        gelu: str = "exact",
        adapters: bool = True,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if gelu not in GELUS:
            raise ValueError(f"gelu is one of {GELUS}, not {gelu!r}")
        if len(depths) != len(num_heads):
            raise ValueError(f"{len(depths)} depths but {len(num_heads)} numbers of heads")
        self.patch, self.remat = patch, remat
        self.channels = tuple(embed_dim * 2**stage for stage in range(len(depths)))
        self.patch_embedding = Linear(3 * patch**2, embed_dim, kernel_init=trunc_normal, rngs=rngs)
        self.patch_norm = LayerNorm(embed_dim, epsilon=1e-5, rngs=rngs)
        self.stages = nnx.List(
            SwinStage(
                channels, depth, heads, window=window, gelu=gelu, adapters=adapters, rngs=rngs
            )
            for channels, depth, heads in zip(self.channels, depths, num_heads, strict=True)
        )
        self.mergings = nnx.List(
            PatchMerging(channels, rngs=rngs) for channels in self.channels[:-1]
        )
        self.output_norms = nnx.List(
            LayerNorm(channels, epsilon=1e-5, rngs=rngs) for channels in self.channels
        )

    def __call__(self, frames: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
        """Normalised frames of any size (padded to whole patches) to maps of strides 4..32."""
        patch = self.patch
        batch, height, width, _ = frames.shape
        x = jnp.pad(frames, ((0, 0), (0, -height % patch), (0, -width % patch), (0, 0)))
        rows, columns = x.shape[1] // patch, x.shape[2] // patch
        # A convolution of stride = size as one matrix product.
        x = x.reshape(batch, rows, patch, columns, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = self.patch_embedding(x.reshape(batch, rows, columns, 3 * patch**2))
        x = self.patch_norm(x)
        outputs = []
        for index, stage in enumerate(self.stages):
            if index:
                x = self.mergings[index - 1](x)
            x = stage(x, remat=self.remat)
            outputs.append(self.output_norms[index](x))
        return outputs
