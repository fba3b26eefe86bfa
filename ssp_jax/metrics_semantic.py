"""mIoU and F-score of AVSS: what sounds where (avsbench.md 5.4).

    state = SemanticState.empty()
    for batch in batches:
        stats = semantic_frame_stats(pred, batch.labels, valid, num_classes=71)
        state = state.merge(SemanticState.from_stats(stats, batch.clip, batch.second))
    result = state.compute(protocol)

IoU and F are taken per frame and class, then averaged over the frames in which the class occurs in
target or prediction. That is neither per video nor pooled over pixels.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from ssp_jax.metrics_counts import FrameCounts, joint_histogram
from ssp_jax.protocols import Protocol

BETA_SQUARED = 0.3


@functools.partial(jax.jit, static_argnames="num_classes")
def semantic_frame_stats(
    pred: Integer[Array, "N h w"],
    target: Integer[Array, "N h w"],
    valid: Bool[Array, " N"],
    *,
    num_classes: int,
) -> dict[str, Array]:
    """Pixel counts of N frames per class, from which `SemanticState` takes all values; jitted.

    Args:
      pred, target: class index per pixel, 0 = background. `jnp.argmax` breaks ties as the
        repositories do (lowest index). Pixels whose target is no class (-1, say) are ignored.
      valid: frames to score (`AVBatch.annotated`); `SemanticState.from_stats` drops the others.
      num_classes: K, background included.

    Returns:
      int32 arrays `intersection`, `predicted`, `target` [N K], and `valid` [N] as given.
    """
    num_frames, pixels = target.shape[0], target.shape[1] * target.shape[2]
    pred = pred.astype(jnp.int32)
    # A prediction outside the classes gets a row of its own: it hits nothing but is not ignored.
    pred = jnp.where((pred >= 0) & (pred < num_classes), pred, num_classes)
    confusion = joint_histogram(
        pred.reshape(num_frames, pixels),
        target.reshape(num_frames, pixels),
        num_classes + 1,
        num_classes,
    )
    return {
        "intersection": jnp.diagonal(confusion, axis1=1, axis2=2),
        "predicted": confusion.sum(axis=2)[:, :num_classes],
        "target": confusion.sum(axis=1),
        "valid": valid,
    }


@dataclasses.dataclass(frozen=True)
class SemanticResult:
    """What AVSS reports; all values are fractions, 0..1.

    Attributes:
      miou, fscore: the reported values: means over all K classes, background included. A class
        that never occurs counts as 0, so perfect predictions can read below 1.
      miou_nobg, fscore_nobg: over K - 1 classes, without the entry that the protocol drops.
      miou_nobg_drop_first, ..._drop_last: both ways: without background, without the last class.
      miou_per_class, fscore_per_class: 0 for a class that never occurs.
      iou_sum, fscore_sum, class_count: their numerators, and frames in which the class occurs in
        target or prediction.
      num_classes_counted: classes that occur at all.
      frame_miou: per scored frame, ordered by clip, then second: sum of IoUs / classes with
        IoU > 0; NaN where no class overlaps (the repositories' vid_miou_list; nobody reports it).
      activated: share of pixels predicted to be of another class than background, mean over frames.
      num_clips, num_frames: scored. num_padded_frames: counted as background on top of them.
    """

    miou: float
    fscore: float
    miou_nobg: float
    fscore_nobg: float
    miou_nobg_drop_first: float
    fscore_nobg_drop_first: float
    miou_nobg_drop_last: float
    fscore_nobg_drop_last: float
    miou_per_class: Float[np.ndarray, " K"]
    fscore_per_class: Float[np.ndarray, " K"]
    iou_sum: Float[np.ndarray, " K"]
    fscore_sum: Float[np.ndarray, " K"]
    class_count: Int[np.ndarray, " K"]
    num_classes_counted: int
    frame_miou: Float[np.ndarray, " M"]
    activated: float
    num_clips: int
    num_frames: int
    num_padded_frames: int


class SemanticState(FrameCounts):
    """Counts of all frames scored so far: about 0.9 kB a frame at 71 classes."""

    def compute(self, protocol: Protocol) -> SemanticResult:
        """Values as section 5.4 of avsbench.md defines them.

        With `protocol.count_padded_frames` every clip is filled up to `padded_clip_length` frames
        whose prediction and target are background, as the official loader does in validation and
        test; only class 0 changes.

        Raises:
          UserError: no frame was scored. ValueError: a frame was scored twice.
        """
        frames = self.frames()
        iou, fscore, occurs = frame_class_scores(frames)
        iou_sum, fscore_sum, class_count = iou.sum(axis=0), fscore.sum(axis=0), occurs.sum(axis=0)
        clip_lengths = np.unique(frames["clip"], return_counts=True)[1]
        padded = 0
        if protocol.count_padded_frames:
            padded = int(np.maximum(protocol.padded_clip_length - clip_lengths, 0).sum())
            iou_sum[0] += padded
            fscore_sum[0] += padded
            class_count[0] += padded
        miou_per_class = iou_sum / np.maximum(class_count, 1)
        fscore_per_class = fscore_sum / np.maximum(class_count, 1)
        overlapping = (iou > 0).sum(axis=1)
        with np.errstate(invalid="ignore"):
            frame_miou = iou.sum(axis=1) / overlapping
        pixels = np.maximum(frames["target"].sum(axis=1), 1)
        kept = slice(1, None) if protocol.nobg_drop == "first" else slice(None, -1)
        return SemanticResult(
            miou=float(miou_per_class.mean()),
            fscore=float(fscore_per_class.mean()),
            miou_nobg=float(miou_per_class[kept].mean()),
            fscore_nobg=float(fscore_per_class[kept].mean()),
            miou_nobg_drop_first=float(miou_per_class[1:].mean()),
            fscore_nobg_drop_first=float(fscore_per_class[1:].mean()),
            miou_nobg_drop_last=float(miou_per_class[:-1].mean()),
            fscore_nobg_drop_last=float(fscore_per_class[:-1].mean()),
            miou_per_class=miou_per_class,
            fscore_per_class=fscore_per_class,
            iou_sum=iou_sum,
            fscore_sum=fscore_sum,
            class_count=class_count,
            num_classes_counted=int((class_count > 0).sum()),
            frame_miou=frame_miou,
            activated=float((1 - frames["predicted"][:, 0] / pixels).mean()),
            num_clips=len(clip_lengths),
            num_frames=len(iou),
            num_padded_frames=padded,
        )


def frame_class_scores(
    counts: Mapping[str, np.ndarray],
) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "N K"], Bool[np.ndarray, "N K"]]:
    """IoU and F (beta squared 0.3) per frame and class, float64, and whether the class occurs.

    Both are 0 for a class that is missing from target or prediction; it occurs when it is in one of
    them. Source: `calc_color_miou_fscore` of OpenNLPLab/AVSBench (avsbench.md 5.4).
    """
    hits = counts["intersection"].astype(np.float64)
    predicted, target = counts["predicted"], counts["target"]
    union = predicted + target - hits
    occurs = union > 0
    # With P = hits/predicted and R = hits/target, 1.3 P R / (0.3 P + R) is the ratio below.
    weighted = BETA_SQUARED * target + predicted
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=occurs)
    fscore = np.divide((1 + BETA_SQUARED) * hits, weighted, out=np.zeros_like(hits), where=occurs)
    return iou, fscore, occurs
