"""Scores by kind of frame: how large the object is, whether it moves, how many things sound.

The score of a single frame is the protocol's in the binary task (IoU, and the F-score's curve over
thresholds). In the semantic task it is the mean over the classes that truth or prediction has,
background left out; 1 where neither has any.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from ssp_jax.metrics_binary import frame_fscore, frame_iou
from ssp_jax.metrics_semantic import frame_class_scores

SIZES = (0.0, 0.01, 0.05, 0.15, 0.3, 1.0)  # edges, shares of the picture
_MOST_SOURCES = 4  # and more are one group


@dataclasses.dataclass(frozen=True)
class Scored:
    """N frames, or N regions (one class in one frame), with their scores.

    Attributes:
      curves: F-score by threshold; a single one in the semantic task. counted: False where the
        F-score has no meaning, nothing being there.
    """

    iou: Float[np.ndarray, " N"]
    curves: Float[np.ndarray, "N T"]
    counted: Bool[np.ndarray, " N"]

    def of(self, rows: Bool[np.ndarray, " N"] | slice) -> dict[str, float | int | None]:
        """Means over some of them; the F-score is the best over thresholds of the mean."""
        iou, curves = self.iou[rows], self.curves[rows][self.counted[rows]]
        return {
            "count": len(iou),
            "iou": float(iou.mean()) if len(iou) else None,
            "fscore": float(curves.mean(axis=0).max()) if len(curves) else None,
        }


def score_frames(frames: Mapping[str, np.ndarray], *, binary: bool) -> Scored:
    """Score the counts of `BinaryState.frames` or `SemanticState.frames`."""
    if binary:
        return Scored(frame_iou(frames), frame_fscore(frames), frames["target"] > 0)
    iou, fscore, occurs = (values[:, 1:] for values in frame_class_scores(frames))
    number = occurs.sum(axis=1)

    def mean(values):
        return np.where(number > 0, values.sum(axis=1) / np.maximum(number, 1), 1.0)

    return Scored(mean(iou), mean(fscore)[:, None], np.ones(len(iou), bool))


def is_sounding(frames: Mapping[str, np.ndarray], *, binary: bool) -> Bool[np.ndarray, " N"]:
    """Frames whose truth is not empty."""
    target = frames["target"]
    return target > 0 if binary else (target[:, 1:] > 0).any(axis=1)


def frame_groups(
    frames: Mapping[str, np.ndarray],
    *,
    binary: bool,
    subsets: Sequence[str],
    facts: Mapping[str, np.ndarray],
    moving_from: str,
) -> list[dict]:
    """Tables {"title", "note", "rows": [{"name", "count", "iou", ...}]}; those that the data can
    fill.

    Args:
      subsets: of every clip. facts: `FrameFacts.frames`, of the same frames. moving_from: who knows
        what moves, for the note.
    """
    scored, sounding = score_frames(frames, binary=binary), is_sounding(frames, binary=binary)
    sources, moving = facts["sources"], facts["moving"]
    subset = np.asarray(subsets)[frames["clip"]]
    by_sources = {f"{n}": sources == n for n in range(1, _MOST_SOURCES)}
    by_sources[f"{_MOST_SOURCES} or more"] = sources >= _MOST_SOURCES
    tables = [
        _by_size(scored, frames, binary),
        _table(
            "Moving or still",
            f"Frames whose sounding pixels move for the greater part, or not; by {moving_from}.",
            scored,
            {"moves": moving >= 0.5, "stands still": (moving >= 0) & (moving < 0.5)},
        ),
        _table(
            "Sounding or silent",
            "Frames in which something sounds, or nothing does; there an IoU of 100 is a "
            "prediction that is empty, too.",
            scored,
            {"something sounds": sounding, "nothing sounds": ~sounding},
        ),
        _table(
            "Number of sources",
            "Classes that are heard in the frame's second, as far as the data set says.",
            scored,
            by_sources,
        ),
        _table("Subset", "", scored, {name: subset == name for name in sorted(set(subsets))}),
    ]
    return [table for table in tables if len(table["rows"]) > (table["title"] == "Subset")]


def _by_size(scored: Scored, frames: Mapping[str, np.ndarray], binary: bool) -> dict:
    if binary:
        rows, share = frames["target"] > 0, frames["target"] / frames["pixels"]
        regions = Scored(*(getattr(scored, f.name)[rows] for f in dataclasses.fields(scored)))
        share = share[rows]
    else:
        target = frames["target"][:, 1:]
        where = np.nonzero(target)
        iou, fscore, _ = frame_class_scores(frames)
        every = np.ones(len(where[0]), bool)
        regions = Scored(iou[:, 1:][where], fscore[:, 1:][where][:, None], every)
        share = (target / np.maximum(frames["target"].sum(axis=1), 1)[:, None])[where]
    what = "The sounding pixels of a frame" if binary else "One class in one frame"
    return _table(
        "Object size", f"{what}, by their share of the picture.", regions, _size_masks(share)
    )


def _size_masks(share: Float[np.ndarray, " N"]) -> dict[str, Bool[np.ndarray, " N"]]:
    masks = {}
    for low, high in itertools.pairwise(SIZES):
        if low == 0:
            name = f"up to {100 * high:g} %"
        else:
            name = f"{100 * low:g} to {100 * high:g} %" if high < 1 else f"above {100 * low:g} %"
        masks[name] = (share > low) & (share <= high)
    return masks


def _table(
    title: str, note: str, scored: Scored, masks: Mapping[str, Bool[np.ndarray, " N"]]
) -> dict:
    rows = [{"name": name, **scored.of(mask)} for name, mask in masks.items() if mask.any()]
    return {"title": title, "note": note, "rows": rows}


def clip_scores(
    scored: Scored, clip: Integer[np.ndarray, " N"]
) -> list[dict[str, float | int | None]]:
    """`Scored.of` every clip, in order; `clip` is that of each frame, ascending."""
    bounds = np.flatnonzero(np.diff(clip, prepend=-1, append=clip[-1] + 1))
    spans = itertools.pairwise(bounds)
    return [{"clip": int(clip[a])} | scored.of(slice(a, b)) for a, b in spans]
