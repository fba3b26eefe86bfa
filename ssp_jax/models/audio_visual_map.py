"""Where does it look like it sounds: pixels compared with the sound, and with words (ours)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ssp_jax.models.promotion import PlainLinear, add, promoted


class AudioVisualMap(nnx.Module):
    """Cosine of every pixel with the sound of its frame, scaled: logits of a sounding map.

    Not part of AAVS. Trained from scratch, AAVS's queries learn to segment every object long
    before they hear; this direct comparison hears early. Supervised by
    `losses.listening.audio_visual_map`, it can serve as the network's own mask prompt (method 3.6).
    """

    def __init__(self, hidden: int, channels: int, *, rngs: nnx.Rngs):
        self.pixels = PlainLinear(hidden, channels, rngs=rngs)
        self.sound = PlainLinear(hidden, channels, rngs=rngs)
        self.log_scale = nnx.Param(jnp.full((), jnp.log(10.0)))
        self.bias = nnx.Param(jnp.full((), -2.0))

    def __call__(
        self,
        pixel_features: Float[Array, "N h w C"],
        audio_embedding: Float[Array, "N C"],
        named: Float[Array, "N h w"] | None = None,
    ) -> dict[str, Array]:
        """Compare mask features with the audio embedding.

        Args:
          named: logits of `TextVisualMap`, which add to those of the sound.

        Returns:
          'pixels' (N, h, w, D) and 'sound' (N, D), unit vectors; 'scale' (); 'bias' (), or with
          `named` (N, h, w); 'logits' (N, h, w) = scale * cosine + bias.
        """
        pixels, sound = _unit(self.pixels(pixel_features)), _unit(self.sound(audio_embedding))
        pixels, sound = promoted(pixels, sound)
        scale, bias = (
            x.astype(pixels.dtype) for x in (jnp.exp(self.log_scale[...]), self.bias[...])
        )
        if named is not None:
            bias = add(bias, named)
        logits = add(scale * jnp.einsum("nhwd,nd->nhw", pixels, sound), bias)
        return {"pixels": pixels, "sound": sound, "scale": scale, "bias": bias, "logits": logits}


class TextVisualMap(nnx.Module):
    """Cosine of every pixel with every word, scaled, the closest counting most: what is named.

    Compared like this at the mask features' own stride, words find what they name in 150 steps;
    at the coarser strides of BERT's visual tokens less is found (`benchmarks.grounding`).
    Trained by the loss of the `AudioVisualMap` that its logits add to: it sounds where both say so.

    Args:
      hidden: C of the pixels. text_width: E of the words. channels: D of the common space.
    """

    def __init__(self, hidden: int, text_width: int, channels: int, *, rngs: nnx.Rngs):
        self.pixels = PlainLinear(hidden, channels, rngs=rngs)
        self.words = PlainLinear(text_width, channels, rngs=rngs)
        self.log_scale = nnx.Param(jnp.full((), jnp.log(10.0)))
        # With words that mean nothing yet, the sum over some five of them then adds about zero.
        self.bias = nnx.Param(jnp.full((), -2.0))

    def __call__(
        self,
        pixel_features: Float[Array, "N h w C"],
        words: Float[Array, "N L E"],
        counted: Bool[Array, "N L"],
    ) -> Float[Array, "N h w"]:
        """bias + logsumexp(scale * cosine) over the words that count; 0 where a clip has none."""
        pixels, words = _unit(self.pixels(pixel_features)), _unit(self.words(words))
        cosines = jnp.einsum("nhwd,nld->nhwl", *promoted(pixels, words))
        scaled = jnp.exp(self.log_scale[...]).astype(cosines.dtype) * cosines
        some = counted.any(1)
        # A clip without words sums over all of them, so that no gradient is NaN.
        counted = counted | ~some[:, None]
        named = jax.nn.logsumexp(scaled, axis=-1, where=counted[:, None, None])
        logits = self.bias[...].astype(named.dtype) + named
        return jnp.where(some[:, None, None], logits, 0)


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)
