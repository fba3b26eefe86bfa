"""What is trained: the network and the heads that only its training uses."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from ssp_jax.models.audio_visual_map import AudioVisualMap
from ssp_jax.models.promotion import PlainLinear
from ssp_jax.models.sizes import SIZES
from ssp_jax.models.ssp import SSP
from ssp_jax.models.vggish import EMBEDDING

COMMON_CHANNELS = 64


class TrainedNetwork(nnx.Module):
    """`SSP` with the heads of its auxiliary losses; parameters `network/...` and others.

    Attributes:
      network: what predicts.
      sound_classifier: sound classes from the audio features; only where its loss has a weight.
      audio_visual_map: likewise, and only where the network has no map of its own.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        size: str,
        num_queries: int,
        num_sounds: int,
        listen: Mapping[str, float],
        overrides: Mapping[str, Any] | None = None,
        rngs: nnx.Rngs,
    ):
        """Build `SIZES[size]` with `overrides` of `SSP`'s arguments; `listen` as in `Loss`."""
        arguments = SIZES[size] | dict(overrides or {})
        self.network = SSP(num_classes, num_queries, **arguments, rngs=rngs)
        if listen["sounds"]:
            self.sound_classifier = PlainLinear(EMBEDDING, max(num_sounds, 1), rngs=rngs)
        mapped = listen["map"] or listen["contrast"]
        if mapped and not arguments.get("audio_visual_map", False):
            self.audio_visual_map = AudioVisualMap(arguments["hidden"], COMMON_CHANNELS, rngs=rngs)
