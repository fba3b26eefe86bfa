"""CLIP's tokens of the annotated frames, computed once and kept beside the prepared data (4.5).

`<version folder>/clip-<first 8 digits of the weights' SHA-256>/<split>/`; record = float16 array
(A, g, g, E). A frame takes 2 g g E bytes: 301 KB with ViT-B/16 (14 x 14 x 768).
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float
from PIL import Image

from ssp_jax.data.frame_walk import Encoder, annotated_frames, encode_frames
from ssp_jax.data.saved_arrays import array_bytes, read_array
from ssp_jax.data.source_store import Records, SourceStore
from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError
from ssp_jax.models.clip_vision import ClipVision, clip_input
from ssp_jax.weights import clip_vision
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import WEIGHTS, load_arguments, load_model
from ssp_jax.weights.shapes import abstract
from tfds_builders.facts import sha256_of

CLIPS_PER_SHARD = 64
HOW_TO_GET = (
    "a folder made by python -m ssp_jax.weights import --source=clip_vision, of the files of "
    "openai/clip-vit-base-patch16"
)
_FORMAT = 1
_KIND = ("clip_vision", "CLIP's image encoder", clip_vision.shapes)


@dataclasses.dataclass(frozen=True)
class ClipTokenStore(SourceStore):
    """Tokens of a source's clips.

    Attributes:
      shape: (g, g, E) of a frame's.
    """

    shape: tuple[int, int, int]

    def read(self, clip: int) -> Float[np.ndarray, "A g g E"]:
        """Read the tokens of a clip's annotated frames, float16: the patches after the last layer.

        Raises:
          IndexError, UserError: see `SourceStore.read_record`.
        """
        return self.read_record(clip, read_array)


def clip_facts(weights: Path) -> dict[str, Any]:
    """Return what the tokens depend on besides the frames: 'format', 'weights' (SHA-256), 'model'.

    Raises:
      UserError: not a weight folder of CLIP's image encoder.
    """
    model, _ = load_arguments(weights, *_KIND)
    return {"format": _FORMAT, "weights": sha256_of(Path(weights) / WEIGHTS), "model": model}


def open_clip_tokens(source: ClipSource, weights: Path) -> ClipTokenStore:
    """The tokens of a source's clips, which `add_clip_tokens` stored.

    Raises:
      UserError: see `clip_facts`, `Records.open`.
    """
    facts = clip_facts(weights)
    return ClipTokenStore(_records(facts).open(source), token_shape(facts))


def add_clip_tokens(
    source: ClipSource, weights: Path, *, batch_size: int = 16, progress: bool = True
) -> None:
    """Compute the tokens of a source's clips and keep them beside its data, see `Records.add`.

    Args:
      weights: folder of python -m ssp_jax.weights import --source=clip_vision.
      batch_size: frames at once. progress: show a progress bar.

    Raises:
      UserError: see `clip_facts`, `Records.add`; damaged weights, or a frame that cannot be
        decoded.
    """
    facts = clip_facts(weights)
    shape, size = token_shape(facts), facts["model"]["image_size"]
    make = functools.cache(lambda: make_encoder(weights))

    def records(part, first: int) -> Iterator[bytes]:
        counts = part.table().num_annotated[first:].tolist()
        tokens = encode_frames(
            annotated_frames(part, first),
            make(),
            size=size,
            batch_size=batch_size,
            # Here and not in `clip_input`: frames come in many sizes.
            resample=Image.Resampling.BICUBIC,
        )
        for index, count in enumerate(counts, first):
            record = np.array(list(itertools.islice(tokens, count)), np.float16)
            if not np.isfinite(record).all():
                raise UserError(
                    f"{part.folder}: clip {part[index].uid}: its tokens do not fit float16. Check "
                    f"{weights}"
                )
            yield array_bytes(record.reshape(-1, *shape))

    _records(facts).add(source, facts, records, progress=progress)


def lacking_clip_tokens(source: ClipSource, weights: Path) -> int:
    """Count the clips of which `add_clip_tokens` would compute the tokens."""
    facts = clip_facts(weights)
    return _records(facts).lacking(source, facts)


def token_shape(facts: dict[str, Any]) -> tuple[int, int, int]:
    """(g, g, E) of a frame's tokens by `clip_facts`."""
    model = facts["model"]
    side = model["image_size"] // model["patch"]
    return side, side, model["width"]


def _records(facts: dict[str, Any]) -> Records:
    def how(folder: str, split: str) -> str:
        return "run python -m ssp_jax.main again, which computes them"

    return Records(f"clip-{facts['weights'][:8]}", "CLIP's tokens", CLIPS_PER_SHARD, how)


def make_encoder(weights: Path) -> Encoder:
    """CLIP's image encoder of a weight folder; compiles once for each number of frames.

    Raises:
      UserError: see `clip_facts`; or damaged weights.
    """
    arguments, params = load_model(weights, *_KIND, clip_vision.ROOT)
    model = abstract(lambda rngs: ClipVision(**arguments, rngs=rngs))
    graphdef, _ = nnx.split(model, nnx.Param)
    params = jax.device_put(nested(params))
    side = model.image_size // model.patch

    @jax.jit
    def encode(params, frames):
        tokens, _ = nnx.merge(graphdef, params)(clip_input(frames, model.image_size))
        return tokens[:, 1:].reshape(len(frames), side, side, -1).astype("float16")

    return lambda frames: jax.device_get(encode(params, jax.device_put(frames)))
