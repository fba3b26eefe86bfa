"""Where does it look like it sounds: pixels and sound compared in a common space (ours)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class AudioVisualMap(nnx.Module):
    """Cosine of every pixel with the sound of its frame, scaled: logits of a sounding map.

    Not part of AAVS. Trained from scratch, AAVS's queries learn to segment every object long
    before they hear; this direct comparison hears early. Supervised by
    `losses.listening.audio_visual_map`, it can serve as the network's own mask prompt (method 3.6).
    """

    def __init__(self, hidden: int, channels: int, *, rngs: nnx.Rngs):
        self.pixels = nnx.Linear(hidden, channels, rngs=rngs)
        self.sound = nnx.Linear(hidden, channels, rngs=rngs)
        self.log_scale = nnx.Param(jnp.full((), jnp.log(10.0)))
        self.bias = nnx.Param(jnp.full((), -2.0))

    def __call__(
        self, pixel_features: Float[Array, "N h w C"], audio_embedding: Float[Array, "N C"]
    ) -> dict[str, Array]:
        """Compare mask features with the audio embedding.

        Returns:
          'pixels' (N, h, w, D) and 'sound' (N, D), unit vectors; 'scale' and 'bias' (); 'logits'
          (N, h, w) = scale * cosine + bias.
        """
        pixels, sound = _unit(self.pixels(pixel_features)), _unit(self.sound(audio_embedding))
        scale, bias = jnp.exp(self.log_scale[...]), self.bias[...]
        logits = scale * jnp.einsum("nhwd,nd->nhw", pixels, sound) + bias
        return {"pixels": pixels, "sound": sound, "scale": scale, "bias": bias, "logits": logits}


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)
