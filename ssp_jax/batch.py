"""The contract between data and model: one batch of frames."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LOG_MEL_FRAMES, LOG_MEL_BANDS = 96, 64  # one VGGish window: 0.96 s
PROMPTS = (
    "reference",
    "own_reference",
    "flow_mask",
    "text_ids",
    "text_types",
    "text_mask",
    "visual_tokens",
)
BACKBONE = ("backbone_4", "backbone_8", "backbone_16", "backbone_32")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AVBatch:
    """N frames with the sound of their second, from one or several clips.

    The network works frame by frame (method 2), so a batch is a flat list of frame slots: clips of
    5 and of 10 frames, or a single annotated frame of S4, fill it without gaps. Slots that are
    left over have valid = False and count nowhere.

    Attributes:
      frames: RGB, 0..255, resized to the model's input size; see `normalised`.
      log_mel: log-mel window of the frame's second (natural log of mel + 0.01).
      labels: class index per pixel at the scored size, 0 = background; all 0 where not annotated.
      valid: the slot holds a frame. annotated: the frame has labels (implies valid).
      clip: index of the clip in its evaluation or training source, -1 in empty slots.
      second: position of the frame in its clip, 0-based.
      sounds: multi-hot over S sound classes heard in this clip or second (S may be 0).
      sounds_known: False where the data set does not say what sounds (MS3).

    What prompts the network is None for models without, so that it costs them nothing:
      reference: where it sounds as far as that is known beforehand (R of method 4.2, or the prompt
        of 3.6 itself), 0..255 for 0..1, at the scored size.
      own_reference: the network's own first guess takes the place of the slot's reference.
      flow_mask: where something moves (M_O of method 4.1), 0 or 255, at the scored size.
      text_ids, text_types, text_mask: the clip's two texts as a BERT pair of L tokens; the mask is
        True at tokens, False at padding.
      visual_tokens: CLIP's of the frame, g x k of width E, row by row (method 4.5); float16, to
        spare memory. 0 where not annotated.

    And, in a training whose encoder is frozen, what it makes of the frames may be given, which then
    are not read and all 0:
      backbone_4 .. backbone_32: its maps of these strides, in the precision they are kept in.
    """

    frames: UInt8[Array, "N H W 3"]
    log_mel: Float[Array, "N 96 64"]
    labels: UInt8[Array, "N h w"]
    valid: Bool[Array, " N"]
    annotated: Bool[Array, " N"]
    clip: Int[Array, " N"]
    second: Int[Array, " N"]
    sounds: Float[Array, "N S"]
    sounds_known: Bool[Array, " N"]
    reference: UInt8[Array, "N h w"] | None = None
    own_reference: Bool[Array, " N"] | None = None
    flow_mask: UInt8[Array, "N h w"] | None = None
    text_ids: Int[Array, "N L"] | None = None
    text_types: Int[Array, "N L"] | None = None
    text_mask: Bool[Array, "N L"] | None = None
    visual_tokens: Float[Array, "N g k E"] | None = None
    backbone_4: Float[Array, "N h4 w4 C"] | None = None
    backbone_8: Float[Array, "N h8 w8 2*C"] | None = None
    backbone_16: Float[Array, "N h16 w16 4*C"] | None = None
    backbone_32: Float[Array, "N h32 w32 8*C"] | None = None

    def normalised(self) -> Float[Array, "N H W 3"]:
        """Frames as `normalised_frames`."""
        return normalised_frames(self.frames)

    def backbone(self) -> list[Array] | None:
        """The encoder's maps as float32, where the batch has them."""
        if self.backbone_4 is None:
            return None
        return [getattr(self, name).astype(jnp.float32) for name in BACKBONE]

    def prompts(self) -> dict[str, Array]:
        """The prompts that the batch has, as keyword arguments of `SSP`.

        Maps are float32 in [0, 1], visual tokens float32.
        """
        given = {name: getattr(self, name) for name in PROMPTS}
        prompts = {
            name: value.astype(jnp.float32) / 255.0 if value.dtype == jnp.uint8 else value
            for name, value in given.items()
            if value is not None
        }
        if self.visual_tokens is not None:
            prompts["visual_tokens"] = self.visual_tokens.astype(jnp.float32)
        return prompts


def normalised_frames(frames: UInt8[Array, "N H W 3"]) -> Float[Array, "N H W 3"]:
    """Convert to float32 with ImageNet mean and deviation (method 3.5)."""
    scaled = frames.astype(jnp.float32) / 255.0
    mean, deviation = (jnp.array(x)[None, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (scaled - mean) / deviation


def fake_batch(
    num_frames: int = 4,
    *,
    frame_size: int = 64,
    label_size: int = 56,
    num_classes: int = 2,
    num_sounds: int = 3,
    reference: bool = False,
    flow_mask: bool = False,
    text_length: int = 0,
    visual_tokens: tuple[int, int, int] | None = None,
    backbone: Sequence[tuple[int, int, int]] | None = None,
    seed: int = 0,
) -> AVBatch:
    """A random, valid batch (host arrays) with one rectangle of a random class per frame.

    The reference, where asked for, is the rectangle; the flow mask its left half of the image.
    `visual_tokens`: (g, k, E). `backbone`: (h, w, C) of each of the four maps.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros((num_frames, label_size, label_size), np.uint8)
    for label in labels:
        top, left = rng.integers(0, label_size // 2, 2)
        label[top : top + label_size // 3, left : left + label_size // 3] = rng.integers(
            1, num_classes
        )
    prompts = {}
    if reference:
        prompts["reference"] = np.uint8(255) * (labels > 0)
        prompts["own_reference"] = np.zeros(num_frames, bool)
    if flow_mask:
        prompts["flow_mask"] = np.uint8(255) * (labels > 0)
        prompts["flow_mask"][:, :, label_size // 2 :] = 0
    if text_length:
        lengths = rng.integers(3, text_length + 1, (num_frames, 1))
        place = np.arange(text_length)
        prompts["text_mask"] = place < lengths
        prompts["text_ids"] = rng.integers(5, 20, (num_frames, text_length)).astype(np.int32)
        prompts["text_types"] = (place >= lengths // 2).astype(np.int32)
    if visual_tokens:
        prompts["visual_tokens"] = rng.normal(size=(num_frames, *visual_tokens)).astype(np.float16)
    if backbone:
        for name, shape in zip(BACKBONE, backbone, strict=True):
            prompts[name] = rng.normal(size=(num_frames, *shape)).astype(np.float32)
    return AVBatch(
        **prompts,
        frames=rng.integers(0, 256, (num_frames, frame_size, frame_size, 3), dtype=np.uint8),
        log_mel=rng.normal(-2, 1.5, (num_frames, 96, 64)).astype(np.float32),
        labels=labels,
        valid=np.ones(num_frames, bool),
        annotated=np.ones(num_frames, bool),
        clip=(np.arange(num_frames) // 5).astype(np.int32),
        second=(np.arange(num_frames) % 5).astype(np.int32),
        sounds=rng.integers(0, 2, (num_frames, num_sounds)).astype(np.float32),
        sounds_known=np.ones(num_frames, bool),
    )
