"""Flows of neighbouring frames, estimated once for every clip and kept beside the prepared data.

`<version folder>/flow-<estimator>/<split>/`; record = float16 array (T - 1, h, w, 2).
"""

import bisect
import concurrent.futures
import dataclasses
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from ssp_jax.data.clip_store import ClipStore, differences, read_note, write_note
from ssp_jax.data.sources import Clip, ClipSource
from ssp_jax.errors import UserError
from ssp_jax.flow.estimators import Estimator, PairFlow

CLIPS_PER_SHARD = 64
# Vectors are stored in steps of 1 / _STEPS of the shorter side: where the smooth motion of a camera
# fills the field, float16 alone takes 4.6 times the bytes for the same error, 0.00012; 8 bits with
# a scale take half, with an error of 0.001 (benchmarks/README.md, Flow mask).
_STEPS = 4096
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class FlowStore:
    """Flows of a source's clips, in its index space; pickles, compares by its folders.

    Attributes:
      parts: the flows of each of its splits.
    """

    parts: tuple[ClipStore, ...]

    def read(self, clip: int) -> Float[np.ndarray, "flows h w 2"]:
        """Flows from each frame of a clip to the next, float32, T - 1 of them (perhaps none).

        x, then y, in units of the frame's shorter side.

        Raises:
          IndexError: no such clip.
          UserError: its shard is missing or damaged.
        """
        ends = list(itertools.accumulate(part.num_clips for part in self.parts))
        part = bisect.bisect_right(ends, clip)
        if clip < 0 or part == len(ends):
            raise IndexError(f"clip {clip} of {ends[-1] if ends else 0}")
        return self.parts[part].read(clip - (ends[part - 1] if part else 0), _decode)


def open_flow(source: ClipSource, estimator: str) -> FlowStore:
    """The flows of a source's clips, which `add_flow` stored.

    Raises:
      UserError: of one split or more they are missing, incomplete or of other data, or they were
        not made alike; names the folders and the command that mends it.
    """
    problems, first = [], None
    stores = tuple(_store(part, estimator) for part in source.parts)
    for store, part in zip(stores, source.parts, strict=True):
        note = read_note(store.folder)
        if note is None:
            problems.append(f"{store.folder}: no flow here yet. Run: {_command(part, estimator)}")
            continue
        made = {key: note.get(key) for key in ("format", "settings", "size")}
        first = first or (store.folder, made)
        if note.get("data") != part.fingerprint():
            problems.append(_of_other_data(store, part, estimator))
        elif (done := store.next_clip()) < len(part):
            problems.append(
                f"{store.folder}: half written, {done} of {len(part)} clips. To go on, run: "
                + _command(part, estimator)
            )
        elif differ := differences(made, first[1]):
            problems.append(
                f"{store.folder}: not made like {first[0]} ({differ}). Delete one of them and "
                f"run: {_command(part, estimator)}"
            )
    if problems:
        raise UserError("\n".join(problems))
    return FlowStore(stores)


def add_flow(
    source: ClipSource, estimator: Estimator, *, size: int = 112, progress: bool = True
) -> None:
    """Estimate the flows of a source's clips and keep them beside its data, unless they are there.

    May be stopped at any time: called again, it goes on. Other processes that want the same wait.

    Args:
      estimator: see `make_estimator`.
      size: longer side of the stored fields, pixels, at most; they are never larger than the
        frames, and keep their aspect.
      progress: show a progress bar.

    Raises:
      UserError: an impossible size, a folder that cannot be written or holds flows of other data or
        settings, a frame that cannot be decoded.
    """
    if size < 16:
        raise UserError(f"size of stored flow: expected at least 16 pixels, got {size}")
    estimate = None
    for part in source.parts:
        store = _store(part, estimator.name)
        facts = _facts(part, estimator, size)
        _check_note(store, part, facts)
        if store.next_clip() == len(part):
            continue  # before any lock: a finished store may be read-only
        try:
            with store.lock():
                _check_note(store, part, facts)  # of whoever had the lock
                write_note(store.folder, facts)
                first = store.next_clip()
                estimate = estimate or estimator.make()
                clips = _estimated(part, first, estimate, size, estimator.threads)
                store.write(
                    tqdm(
                        clips,
                        desc=f"flow of {part.split}",
                        unit="clip",
                        initial=first,
                        total=len(part),
                        disable=not progress,
                        mininterval=1.0,
                    )
                )
        except OSError as error:
            raise UserError(
                f"{store.folder}: cannot be written ({error}). What was written is kept; once "
                f"there is room or permission, run: {_command(part, estimator.name)}"
            ) from error


def _store(part, estimator: str) -> ClipStore:
    folder = Path(part.folder) / f"flow-{estimator}" / part.split
    remedy = f"Delete {folder} and run: {_command(part, estimator)}"
    return ClipStore(folder, len(part), CLIPS_PER_SHARD, "the stored flow", remedy)


def _command(part, estimator: str) -> str:
    weights = " --weights=DIR" if estimator == "perceiver" else ""
    return (
        f"python -m ssp_jax.flow --prepared={part.folder} --split={part.split} "
        f"--estimator={estimator}{weights}"
    )


def _of_other_data(store: ClipStore, part, estimator: str) -> str:
    return (
        f"{store.folder}: made from other data than are here now: the data set was prepared anew, "
        "or copied without its files' times (cp -a keeps them). Delete that folder and run: "
        + _command(part, estimator)
    )


def _facts(part, estimator: Estimator, size: int) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "data": part.fingerprint(),
        "split": part.split,
        "estimator": estimator.name,
        "settings": estimator.settings,
        "size": size,
    }


def _check_note(store: ClipStore, part, facts: dict[str, Any]) -> None:
    note = read_note(store.folder)
    if note is None:
        return
    if note.get("data") != facts["data"]:
        raise UserError(_of_other_data(store, part, facts["estimator"]))
    if differ := differences(note, facts):
        raise UserError(
            f"{store.folder}: made with other settings ({differ}). Use it as it is, or delete it "
            "and run the same command again"
        )


def _estimated(
    part, first: int, estimate: PairFlow, size: int, threads: int | None
) -> Iterator[bytes]:
    """Records of the clips from `first` on, in order."""
    # Threads go to clips, of which there are many: OpenCV's own would only be in their way.
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    executor = concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        yield from executor.map(
            lambda index: _encode(clip_flows(part[index], estimate, size)), range(first, len(part))
        )
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
                f"{clip.where}: clip {clip.uid}: the flow from frame {second} to the next is not "
                "finite. Check the estimator's weights"
            )
        smaller = flow.shape[1] > stored[0]
        interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        flows[second] = cv2.resize(flow, stored, interpolation=interpolation) / min(height, width)
    return flows


def _frame(clip: Clip, second: int) -> UInt8[np.ndarray, "H W 3"]:
    try:
        return np.asarray(Image.open(io.BytesIO(clip.frames[second])).convert("RGB"))
    # What Pillow raises for a damaged file, depending on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{clip.where}: clip {clip.uid}, frame {second}: cannot be decoded ({error}). Replace "
            "the file in the data set's source folder and prepare it again"
        ) from error


def _encode(flows: Float[np.ndarray, "flows h w 2"]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, (np.rint(_STEPS * flows) / _STEPS).astype(np.float16), allow_pickle=False)
    return buffer.getvalue()


def _decode(record: bytes) -> Float[np.ndarray, "flows h w 2"]:
    return np.load(io.BytesIO(record), allow_pickle=False).astype(np.float32)
