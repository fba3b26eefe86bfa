"""Predicted masks as PNG files, as `python -m ssp_jax.score` reads them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from ssp_jax.batch import AVBatch
from ssp_jax.errors import UserError
from ssp_jax.files import is_remote, move_folder, remove_folder
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


def start_masks(folder: Path, uids: Sequence[str], *, go_on: bool = False) -> Path:
    """Return the folder beside the new `folder` that masks are first written into.

    On gs://, where no folder is renamed, they are written where they stay, one after the other.

    Args:
      uids: of the clips. go_on: keep what an interrupted writing left there.

    Raises:
      UserError: a uid that cannot name a folder.
    """
    for uid in uids:
        if reason := unsafe_name(uid):
            raise UserError(f"masks of clip {uid!r}: its name {reason}; prepare the data again")
    partial = partial_folder(folder)
    if not go_on:
        in_turn(lambda: is_first() and remove_folder(partial))
    return partial


def write_masks(
    partial: Path, batch: AVBatch, pictures: Iterable[Image.Image], uids: Sequence[str], first: int
) -> None:
    """Write `partial`/<uid>/<n>.png of a batch's annotated frames.

    Args:
      pictures: one per slot of the batch. first: number of a clip's first frame.
    """
    for slot, picture in enumerate(pictures):
        if batch.annotated[slot]:
            home = partial / uids[batch.clip[slot]]
            home.mkdir(parents=True, exist_ok=True)
            path = home / f"{batch.second[slot] + first}.png"
            path.write_bytes(encode_png(picture))


def finish_masks(folder: Path) -> None:
    """Give what was written the name `folder`, in place of what is there."""

    partial = partial_folder(folder)
    in_turn(lambda: None)  # until every process has written its frames
    if partial != folder:
        in_turn(lambda: is_first() and move_folder(partial, folder))


def partial_folder(folder: Path) -> Path:
    """Return where the masks of `folder` lie until all are there."""
    return folder if is_remote(folder) else folder.with_name(folder.name + ".partial")
