"""CLIP's image encoder (Radford et al. 2021): visual tokens of frames (method 4.5)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from ssp_jax.models.adapters import apply_layer, trunc_normal
from ssp_jax.models.attention import Attention
from ssp_jax.models.linear import Linear
from ssp_jax.models.promotion import LayerNorm, add, promoted

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_input(frames: UInt8[Array, "N H W 3"], size: int = 224) -> Float[Array, "N size size 3"]:
    """Frames as CLIP sees images: bicubic to a square, float32 with CLIP's mean and deviation.

    The resizing is PIL's of a square: antialiased, columns before rows, each to whole levels of
    0..255. CLIP crops what is not square; here it is squeezed, as for Swin (method 3.5).
    """
    batch, height, _, _ = frames.shape
    levels = frames.astype(jnp.float32)
    for rows in (height, size):
        levels = jax.image.resize(levels, (batch, rows, size, 3), "cubic")
        levels = jnp.clip(jnp.floor(levels + 0.5), 0.0, 255.0)
    mean, deviation = (jnp.array(x)[None, None, None] for x in (CLIP_MEAN, CLIP_STD))
    return (levels / 255.0 - mean) / deviation


class ClipLayer(nnx.Module):
    """Self-attention and feed-forward network with CLIP's quick GELU, pre-norm."""

    def __init__(self, width: int, heads: int, ffn: int, *, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.attention = Attention(width, heads, rngs=rngs)
        self.ffn_norm = LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.ffn_in = Linear(width, ffn, kernel_init=trunc_normal, rngs=rngs)
        self.ffn_out = Linear(ffn, width, kernel_init=trunc_normal, rngs=rngs)

    def __call__(self, x: Float[Array, "N L D"]) -> Float[Array, "N L D"]:
        normed = self.attention_norm(x)
        x = add(x, self.attention(normed, normed, normed))
        hidden = self.ffn_in(self.ffn_norm(x))
        return add(x, self.ffn_out(hidden * jax.nn.sigmoid(1.702 * hidden)))


class ClipVision(nnx.Module):
    """CLIP's vision transformer without its projection to the text's space.

    The defaults are ViT-B/16; ViT-L/14 has width 1024, 24 layers, 16 heads, ffn 4096, patch 14.

    Args:
      width, layers, heads, ffn: D and the sizes of the encoder.
      patch: side of a patch, image_size: side of the image, in pixels.
      remat: recompute layers in the backward pass.

    Raises:
      ValueError: a width that does not divide into the heads, an image not into patches.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        patch: int = 16,
        image_size: int = 224,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if image_size % patch:
            raise ValueError(f"{image_size} pixels do not divide into patches of {patch}")
        self.patch, self.image_size, self.remat = patch, image_size, remat
        self.patch_embedding = Linear(
            3 * patch**2, width, use_bias=False, kernel_init=trunc_normal, rngs=rngs
        )
        self.class_embedding = nnx.Param(trunc_normal(rngs.params(), (width,), jnp.float32))
        tokens = 1 + (image_size // patch) ** 2
        self.position_embedding = nnx.Param(
            trunc_normal(rngs.params(), (tokens, width), jnp.float32)
        )
        self.input_norm = LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.layers = nnx.List(ClipLayer(width, heads, ffn, rngs=rngs) for _ in range(layers))
        self.output_norm = LayerNorm(width, epsilon=1e-5, rngs=rngs)

    def __call__(
        self, images: Float[Array, "N H W 3"]
    ) -> tuple[Float[Array, "N 1+P D"], Float[Array, "N D"]]:
        """Images of `image_size` from `clip_input`.

        Returns:
          The tokens after the last layer, not normalised: the class token, then the P patches row
          by row; and the class token normalised.

        Raises:
          ValueError: images of another size.
        """
        batch, height, width, _ = images.shape
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"images of {height} x {width} pixels, expected {self.image_size} x "
                f"{self.image_size}: see clip_input"
            )
        patch, rows = self.patch, self.image_size // self.patch
        # A convolution of stride = size as one matrix product.
        x = images.reshape(batch, rows, patch, rows, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = self.patch_embedding(x.reshape(batch, rows**2, 3 * patch**2))
        first = jnp.broadcast_to(self.class_embedding[...], (batch, 1, x.shape[-1]))
        x = jnp.concatenate(promoted(first, x), axis=1)
        x = add(x, self.position_embedding[...][None])
        x = self.input_norm(x)
        for layer in self.layers:
            x = apply_layer(layer, x, remat=self.remat)
        return x, self.output_norm(x[:, 0])
