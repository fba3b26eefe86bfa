"""What lies beside a source's clips, as a reader of frames asks for it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from ssp_jax.data import sounds


class ClipMaps(Protocol):
    """Maps of every frame of a clip, by the clip's index; comparable, so that it can be a key."""

    def read(self, clip: int) -> UInt8[np.ndarray, "frames h w"]:
        """0..255."""


class FrameFeatures(Protocol):
    """The encoder's maps of every annotated frame of a clip, by the clip's index."""

    shapes: tuple[tuple[int, int, int], ...]  # of a frame's, strides 4..32
    dtype: np.dtype

    def read(self, clip: int, second: int) -> Sequence[Float[np.ndarray, "h w C"]]:
        """Read the record of one frame, in this precision; IndexError where it is not annotated."""


class ClipTokens(Protocol):
    """CLIP's tokens of every annotated frame of a clip, by the clip's index."""

    shape: tuple[int, int, int]  # of a frame's

    def read(self, clip: int) -> Float[np.ndarray, "frames g k E"]:
        """float16."""


@dataclasses.dataclass(frozen=True)
class Beside:
    """What lies beside a source's clips, in their order; None where a run has no use for it.

    Attributes:
      masks: what stage 1 predicted by the sound that it heard, maps of the annotated frames.
      flow_masks: M_O, of all frames.
      texts: 'text_ids', 'text_types', 'text_mask', (2, clips + 1, L): as they are and as they would
        be of the mirrored clip; the last row is "no text".
      visual_tokens: CLIP's, of the annotated frames.
      features: the encoder's, of the annotated frames as they are. Slots then have them in place of
        the frames, and must be of annotated frames that no transform changes.
    """

    masks: Mapping[sounds.Sounds, ClipMaps] | None = None
    flow_masks: ClipMaps | None = None
    texts: dict[str, np.ndarray] | None = None
    visual_tokens: ClipTokens | None = None
    features: FrameFeatures | None = None
