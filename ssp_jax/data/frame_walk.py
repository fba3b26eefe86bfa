"""Every annotated frame of prepared clips, once and in order, through an encoder."""

import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from ssp_jax.data.transforms import decode_frame

# Of a batch of frames, to what is kept of each.
Encoder = Callable[[UInt8[np.ndarray, "N s s 3"]], Shaped[np.ndarray, "N *kept"]]


def annotated_frames(part, first: int) -> Iterator[tuple[bytes, str]]:
    """Encoded annotated frames of a split's clips from `first` on, and where each is."""
    for index in range(first, len(part)):
        clip = part[index]
        for second, encoded in enumerate(clip.frames[: len(clip.labels)]):
            yield encoded, f"{clip.where}: clip {clip.uid}, frame {second}"


def encode_frames(
    frames: Iterator[tuple[bytes, str]],
    encoder: Encoder,
    *,
    size: int,
    batch_size: int,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Iterator[Shaped[np.ndarray, "*kept"]]:
    """Yield what the encoder makes of each frame, in order, decoded by `transforms.decode_frame`.

    Always `batch_size` frames of `size` pixels go through it, so that it compiles once.

    Raises:
      UserError: a frame cannot be decoded.
    """

    def decode(frame):
        return decode_frame(frame[0], size, where=frame[1], resample=resample)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
        while batch := list(itertools.islice(frames, batch_size)):
            filled = np.zeros((batch_size, size, size, 3), np.uint8)
            filled[: len(batch)] = list(executor.map(decode, batch))
            yield from encoder(filled)[: len(batch)]
