"""What the networks read of a clip that is of no data set.

By the same functions by which `data.reader` and `data.companions` make it of one that is.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ssp_jax.batch import AVBatch
from ssp_jax.clip_tokens import make_encoder
from ssp_jax.data import log_mel
from ssp_jax.data.companions import flow_settings
from ssp_jax.data.transforms import resize_frame, resize_labels
from ssp_jax.flow.mask import flow_masks
from ssp_jax.flow.store import as_stored, neighbour_flows
from ssp_jax.predict.clips import SECONDS, PlainClip
from ssp_jax.prompts.texts import Texts
from ssp_jax.stage import REFERENCES, Stage


@dataclasses.dataclass(frozen=True)
class ClipInputs:
    """What all stages share of a clip of T seconds; None where none of them reads it.

    Attributes:
      pictures: frames, at the side that the training data were stored at if they were.
      windows: log-mel windows, as many as the sound has. flow_masks: M_O, 0 or 255.
      texts: 'text_ids', 'text_types', 'text_mask'. visual_tokens: CLIP's, float16.
    """

    pictures: Sequence[Image.Image]
    windows: Float[np.ndarray, "k 96 64"]
    flow_masks: UInt8[np.ndarray, "T h w"] | None
    texts: dict[str, np.ndarray] | None
    visual_tokens: Float[np.ndarray, "T g k E"] | None


class InputMaker:
    """Clips as inputs of stages of one run."""

    def __init__(self, stages: Sequence[Stage]):
        """`stages`: those whose batches will be asked for."""
        self._config, mesh = stages[0].config, stages[0].mesh
        self._slots = -(-SECONDS // mesh.size) * mesh.size
        self._reads_flow = any(stage.flow_used for stage in stages)
        self._with_texts = next((stage for stage in stages if stage.reads_texts), None)
        self._clip = next((stage.clip for stage in stages if stage.clip), None)

    def read(self, clip: PlainClip, texts: Texts) -> ClipInputs:
        """Return what the stages share of a clip.

        Raises:
          UserError: weights of flow or CLIP are missing or damaged.
        """
        side = self._config.data.stored_size
        stored = [Image.fromarray(frame) for frame in clip.frames]
        if side:
            stored = [Image.fromarray(resize_frame(image, side)) for image in stored]
        return ClipInputs(
            stored,
            log_mel.log_mel_windows(clip.waveform),
            self._flow_masks(clip, stored) if self._reads_flow else None,
            self._tokens_of(texts) if self._with_texts else None,
            self._visual_tokens(stored) if self._clip else None,
        )

    def batch(
        self, stage: Stage, inputs: ClipInputs, stage1: UInt8[np.ndarray, "T s s"] | None
    ) -> AVBatch:
        """A stage's batch, always of as many slots: the last frame fills those left over.

        `stage1`: what prompts a stage that is prompted by stage 1.
        """
        spec, count = stage.spec, len(inputs.pictures)
        size = spec.label_size
        nothing = np.zeros((count, size, size), np.uint8)
        slots: dict[str, Any] = {
            "frames": np.stack([resize_frame(p, spec.frame_size) for p in inputs.pictures]),
            "log_mel": log_mel.windows_for_frames(inputs.windows, count, spec.short_audio),
            "labels": nothing,
            "valid": np.ones(count, bool),
            "annotated": np.zeros(count, bool),
            "clip": np.zeros(count, np.int32),
            "second": np.arange(count, dtype=np.int32),
            "sounds": np.zeros((count, len(spec.sound_names)), np.float32),
            "sounds_known": np.zeros(count, bool),
        }
        if spec.reference:
            own = REFERENCES[stage.stage.prompt.source] == "own"
            slots["reference"] = nothing if stage1 is None else stage1
            slots["own_reference"] = np.full(count, own)
        if spec.flow_mask:
            slots["flow_mask"] = np.stack([resize_labels(m, size) for m in inputs.flow_masks])
        if spec.text_length:
            for name, row in inputs.texts.items():
                slots[name] = np.tile(row, (count, 1))
        if spec.visual_tokens:
            slots["visual_tokens"] = inputs.visual_tokens
        return AVBatch(**{name: _filled(array, self._slots) for name, array in slots.items()})

    @functools.cached_property
    def _flow(self):
        estimator, size, settings = flow_settings(self._config)
        return estimator.make(), size, settings

    def _flow_masks(self, clip: PlainClip, stored: list[Image.Image]):
        """With the flow from the frame before the clip and to the one after it."""
        estimate, size, settings = self._flow
        side, around = self._config.data.stored_size, []
        for frame in (clip.before, clip.after):
            if frame is not None and side:
                frame = resize_frame(Image.fromarray(frame), side)
            around.append([] if frame is None else [frame])
        frames = [*around[0], *map(np.asarray, stored), *around[1]]
        flows = neighbour_flows(frames, estimate, size, where="the video")
        masks = flow_masks(as_stored(flows).astype(np.float32), **settings)
        return masks[len(around[0]) : len(masks) - len(around[1])]

    def _tokens_of(self, texts: Texts) -> dict[str, np.ndarray]:
        tokeniser = self._with_texts.companions.tokeniser
        pairs = tokeniser.encode_pairs([texts], self._config.texts.max_length)
        return {f"text_{name}": array[0] for name, array in pairs.items()}

    @functools.cached_property
    def _encode(self):
        return make_encoder(Path(self._config.clip.weights))

    def _visual_tokens(self, stored: list[Image.Image]) -> Float[np.ndarray, "T g k E"]:
        size = self._clip["model"]["image_size"]
        frames = [resize_frame(image, size, Image.Resampling.BICUBIC) for image in stored]
        return self._encode(_filled(np.stack(frames), self._slots))[: len(stored)]


def _filled(array: np.ndarray, slots: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], slots - len(array), axis=0)])
