"""Flows of neighbouring frames, estimated once for every clip and kept beside the prepared data.

`<version folder>/flow-<estimator>/<split>/`; record = float16 array (T - 1, h, w, 2).
"""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ssp_jax.data.saved_arrays import array_bytes, read_array
from ssp_jax.data.source_store import Records, SourceStore
from ssp_jax.data.sources import Clip, ClipSource
from ssp_jax.errors import UserError
from ssp_jax.flow.estimators import Estimator, PairFlow
from tfds_builders.pictures import decoded_picture

CLIPS_PER_SHARD = 64
# Vectors are stored in steps of 1 / _STEPS of the shorter side: where the smooth motion of a camera
# fills the field, float16 alone takes 4.6 times the bytes for the same error, 0.00012; 8 bits with
# a scale take half, with an error of 0.001 (benchmarks/README.md, Flow mask).
_STEPS = 4096
_FORMAT = 1
_BAD = b"no flow: "  # beginning of the record of a clip that could not be read


class FlowStore(SourceStore):
    """Flows of a source's clips."""

    def read(self, clip: int) -> Float[np.ndarray, "flows h w 2"]:
        """Flows from each frame of a clip to the next, float32, T - 1 of them (perhaps none).

        x, then y, in units of the frame's shorter side.

        Raises:
          IndexError, UserError: see `SourceStore.read_record`.
        """
        return self.read_record(clip, _decode)


def open_flow(source: ClipSource, estimator: str) -> FlowStore:
    """The flows of a source's clips, which `add_flow` stored.

    Raises:
      UserError: see `Records.open`.
    """
    return FlowStore(_records(estimator).open(source))


def lacking_flow(source: ClipSource, estimator: Estimator, size: int) -> int:
    """Count the clips of which `add_flow` would estimate the flow.

    Raises:
      UserError: a folder holds flows of other data or settings.
    """
    return _records(estimator.name).lacking(source, _facts(estimator, size))


def _facts(estimator: Estimator, size: int) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "estimator": estimator.name,
        "settings": estimator.settings,
        "size": size,
    }


def add_flow(
    source: ClipSource,
    estimator: Estimator,
    *,
    size: int = 112,
    note_bad_clips: bool = False,
    progress: bool = True,
) -> None:
    """Estimate the flows of a source's clips and keep them beside its data, see `Records.add`.

    Args:
      estimator: see `make_estimator`.
      size: longer side of the stored fields, pixels, at most; they are never larger than the
        frames, and keep their aspect.
      note_bad_clips: a clip that cannot be read gets a record that says so, and cannot be read.
      progress: show a progress bar.

    Raises:
      UserError: an impossible size, a folder that cannot be written or holds flows of other data or
        settings, a frame that cannot be decoded.
    """
    if size < 16:
        raise UserError(f"size of stored flow: expected at least 16 pixels, got {size}")
    facts = _facts(estimator, size)
    make = functools.cache(estimator.make)

    def flows(part, first: int) -> Iterator[bytes]:
        def record(index: int) -> bytes:
            try:
                return _encode(clip_flows(part[index], make(), size))
            except UserError as error:
                if not note_bad_clips:
                    raise
                return _BAD + str(error).encode()

        make()  # before the threads do
        return _estimated(record, range(first, len(part)), estimator.threads)

    _records(estimator.name).add(source, facts, flows, progress=progress)


def _records(estimator: str) -> Records:
    weights = " --weights=DIR" if estimator == "perceiver" else ""

    def how(folder: str, split: str) -> str:
        return (
            f"run: python -m ssp_jax.flow --prepared={folder} --split={split} "
            f"--estimator={estimator}{weights}"
        )

    return Records(f"flow-{estimator}", "flow", CLIPS_PER_SHARD, how)


def _estimated(
    record: Callable[[int], bytes], clips: Sequence[int], threads: int | None
) -> Iterator[bytes]:
    """Records of the clips, in order."""
    # Threads go to clips, of which there are many: OpenCV's own would only be in their way.
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    executor = concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        yield from executor.map(record, clips)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(before)


def clip_flows(clip: Clip, estimate: PairFlow, size: int) -> Float[np.ndarray, "flows h w 2"]:
    """Flows from each frame of a clip to the next, as `FlowStore.read` gives them.

    Frames of another size than the first are brought to it.

    Raises:
      UserError: a frame cannot be decoded, or the estimator does not give finite numbers.
    """
    frames = [_frame(clip, second) for second in range(len(clip.frames))]
    return neighbour_flows(frames, estimate, size, where=f"{clip.where}: clip {clip.uid}")


def neighbour_flows(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], estimate: PairFlow, size: int, *, where: str
) -> Float[np.ndarray, "flows h w 2"]:
    """`clip_flows` of frames that are decoded; `where` they are, for messages.

    Raises:
      UserError: the estimator does not give finite numbers.
    """
    height, width = frames[0].shape[:2]
    same = (height, width, 3)
    frames = [f if f.shape == same else cv2.resize(f, (width, height)) for f in frames]
    scale = min(1.0, size / max(height, width))
    stored = max(1, round(scale * width)), max(1, round(scale * height))
    flows = np.zeros((len(frames) - 1, *stored[::-1], 2), np.float32)
    for second, (one, two) in enumerate(itertools.pairwise(frames)):
        flow = estimate(one, two)
        if not np.isfinite(flow).all():
            raise UserError(
                f"{where}: the flow from frame {second} to the next is not finite. Check the "
                "estimator's weights"
            )
        smaller = flow.shape[1] > stored[0]
        interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        flows[second] = cv2.resize(flow, stored, interpolation=interpolation) / min(height, width)
    return flows


def _frame(clip: Clip, second: int) -> UInt8[np.ndarray, "H W 3"]:
    try:
        return np.asarray(decoded_picture(clip.frames[second]).convert("RGB"))
    except ValueError as error:
        raise UserError(
            f"{clip.where}: clip {clip.uid}, frame {second}: cannot be decoded ({error}). Replace "
            "the file in the data set's source folder and prepare it again"
        ) from error


def as_stored(flows: Float[np.ndarray, "flows h w 2"]) -> Float[np.ndarray, "flows h w 2"]:
    """The flows with the rounding of the store, float16."""
    return (np.rint(_STEPS * flows) / _STEPS).astype(np.float16)


def _encode(flows: Float[np.ndarray, "flows h w 2"]) -> bytes:
    return array_bytes(as_stored(flows))


def _decode(record: bytes) -> Float[np.ndarray, "flows h w 2"]:
    if record.startswith(_BAD):
        raise ValueError(record.removeprefix(_BAD).decode(errors="replace"))
    return read_array(record).astype(np.float32)
