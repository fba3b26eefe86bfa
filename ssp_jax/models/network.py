"""What is trained: the network and the heads that only its training uses."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.sizes import SIZES
from ssp_jax.models.ssp import SSP
from ssp_jax.models.vggish import EMBEDDING


class ListeningHeads(nnx.Module):
    """Heads of the auxiliary losses that make a network trained from scratch use its ears.

    Not part of AAVS. A class head on the audio features, and one projection each that brings
    pixels and sound into a common space of `channels` dimensions.
    """

    def __init__(self, hidden: int, num_sounds: int, channels: int, *, rngs: nnx.Rngs):
        self.sound_classifier = nnx.Linear(EMBEDDING, max(num_sounds, 1), rngs=rngs)
        self.pixels = nnx.Linear(hidden, channels, rngs=rngs)
        self.sound = nnx.Linear(hidden, channels, rngs=rngs)
        self.log_scale = nnx.Param(jnp.full((), jnp.log(10.0)))
        self.bias = nnx.Param(jnp.full((), -2.0))

    def sound_logits(self, audio_features: Float[Array, "N 128"]) -> Float[Array, "N S"]:
        return self.sound_classifier(audio_features)

    def common_space(
        self, pixel_features: Float[Array, "N h w C"], audio_embedding: Float[Array, "N C"]
    ) -> tuple[Float[Array, "N h w D"], Float[Array, "N D"]]:
        """Unit vectors of pixels and of sounds."""
        return _unit(self.pixels(pixel_features)), _unit(self.sound(audio_embedding))


class TrainedNetwork(nnx.Module):
    """`SSP` and its `ListeningHeads`; the parameter tree has `network/...` and `heads/...`."""

    def __init__(
        self,
        num_classes: int,
        *,
        size: str,
        num_queries: int,
        num_sounds: int,
        common_channels: int = 64,
        overrides: dict | None = None,
        rngs: nnx.Rngs,
    ):
        """Build `SIZES[size]` with `overrides` of `SSP`'s arguments."""
        arguments = SIZES[size] | (overrides or {})
        self.network = SSP(num_classes, num_queries, **arguments, rngs=rngs)
        self.heads = ListeningHeads(arguments["hidden"], num_sounds, common_channels, rngs=rngs)


def _unit(x: Array) -> Array:
    return x * jnp.reciprocal(jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6))
