"""Predicted masks as PNG files, as `python -m ssp_jax.score` reads them."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from ssp_jax.batch import AVBatch
from ssp_jax.errors import UserError
from ssp_jax.metrics_binary import object_score
from ssp_jax.processes import in_turn, is_first
from ssp_jax.protocols import ScoreRule
from tfds_builders.classes import palette
from tfds_builders.pictures import encode_png
from tfds_builders.tables import unsafe_name


def soft_masks(scores, rule: ScoreRule) -> UInt8[np.ndarray, "N h w"]:
    """The score that the F-score reads, 0..255 for 0..1; 128 or more where the IoU says object.

    Args:
      scores: (background, object), N x 2 x h x w.
    """
    score, foreground = jax.device_get(_score(jax.device_put(scores), rule))
    rounded = np.rint(255 * score)
    return np.where(foreground, np.maximum(rounded, 128), np.minimum(rounded, 127)).astype(np.uint8)


_score = jax.jit(object_score, static_argnums=1)


def palette_picture(labels: Integer[np.ndarray, "h w"]) -> Image.Image:
    """Class indices as a picture in AVSBench's colours."""
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(palette(256).tobytes())
    return picture


def save_masks(
    folder: Path,
    batches: Iterable[AVBatch],
    pictures: Callable[[AVBatch], Iterable[Image.Image]],
    uids: Sequence[str],
    first: int,
) -> None:
    """`folder`/<uid>/<n>.png of every annotated frame, all of them or none.

    Args:
      pictures: one per slot of a batch. uids: of the clips. first: number of a clip's first frame.

    Raises:
      UserError: a uid that cannot name a folder.
    """
    for uid in uids:
        if reason := unsafe_name(uid):
            raise UserError(f"masks of clip {uid!r}: its name {reason}; prepare the data again")
    partial = folder.with_name(folder.name + ".partial")
    in_turn(lambda: is_first() and shutil.rmtree(partial, ignore_errors=True))
    for batch in batches:
        for slot, picture in enumerate(pictures(batch)):
            if batch.annotated[slot]:
                home = partial / uids[batch.clip[slot]]
                home.mkdir(parents=True, exist_ok=True)
                path = home / f"{batch.second[slot] + first}.png"
                path.write_bytes(encode_png(picture))

    def finish():
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    in_turn(lambda: None)  # until every process has written its frames
    in_turn(lambda: is_first() and finish())
