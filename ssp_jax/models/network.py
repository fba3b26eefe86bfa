"""What is trained: the network and the heads that only its training uses."""

from flax import nnx

from ssp_jax.models.audio_visual_map import AudioVisualMap
from ssp_jax.models.sizes import SIZES
from ssp_jax.models.ssp import SSP
from ssp_jax.models.vggish import EMBEDDING

COMMON_CHANNELS = 64


class TrainedNetwork(nnx.Module):
    """`SSP` with the heads of its auxiliary losses; parameters `network/...` and others.

    Attributes:
      network: what predicts.
      sound_classifier: sound classes from the audio features.
      audio_visual_map: only where the network has none of its own (`heard_prompt`).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        size: str,
        num_queries: int,
        num_sounds: int,
        overrides: dict | None = None,
        rngs: nnx.Rngs,
    ):
        """Build `SIZES[size]` with `overrides` of `SSP`'s arguments."""
        arguments = SIZES[size] | (overrides or {})
        self.network = SSP(num_classes, num_queries, **arguments, rngs=rngs)
        self.sound_classifier = nnx.Linear(EMBEDDING, max(num_sounds, 1), rngs=rngs)
        if not arguments.get("heard_prompt", False):
            self.audio_visual_map = AudioVisualMap(arguments["hidden"], COMMON_CHANNELS, rngs=rngs)
