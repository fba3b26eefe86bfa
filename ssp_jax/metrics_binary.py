"""mIoU and F-score of S4 and MS3: where is the sounding object (avsbench.md 5.1 to 5.3).

    state = BinaryState.empty()
    for batch in batches:
        stats = binary_frame_stats(scores, batch.labels, valid, rule=protocol.score_rule)
        state = state.merge(BinaryState.from_stats(stats, batch.clip, batch.second))
    result = state.compute(protocol)

The device counts pixels; the F-score's 255 thresholds cost one histogram, not 255 passes.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from ssp_jax.metrics_counts import FrameCounts, joint_histogram
from ssp_jax.protocols import Protocol, ScoreRule

BETA_SQUARED = 0.3
_NUM_THRESHOLDS = 255


def _thresholds() -> Float[np.ndarray, " 255"]:
    # torch.linspace(0, 1 - 1e-10, 255) to the last bit: a float32 step, counted from the nearer
    # end, rounded once. The end itself rounds to 1.
    index = np.arange(_NUM_THRESHOLDS)
    step = np.float64(np.float32(1) / np.float32(_NUM_THRESHOLDS - 1))
    from_start, from_end = step * index, 1.0 - step * index[::-1]
    return np.where(index < _NUM_THRESHOLDS // 2, from_start, from_end).astype(np.float32)


THRESHOLDS = _thresholds()


def object_score(
    scores: Float[Array, "N C h w"], rule: ScoreRule
) -> tuple[Float[Array, "N h w"], Bool[Array, "N h w"]]:
    """The F-score's score per pixel (float32) and the IoU's foreground decision.

    One channel is a logit. Two channels are (background, object) maps, in our models
    non-negative sums over queries (method 3.5).

    - logit (official, AVSegFormer): sigmoid(logit); foreground where it exceeds 0.5, strictly.
      Two channels count as the logit log(object / background), whose sigmoid is
      object / (object + background): no softmax, so the scale of the maps does not matter and the
      foreground is the arg-max. A pixel that nobody claims (0, 0) has logit 0.
    - margin (Stepping Stones): sigmoid(2 * object - background); foreground is the arg-max, a tie
      is background. Two channels only.
    - softmax (COMBO): softmax over the two channels; foreground where the object's exceeds 0.5.

    Raises:
      ValueError: the rule is unknown or does not fit the number of channels.
    """
    channels = scores.shape[1]
    if channels == 1 and rule == "logit":
        score = jax.nn.sigmoid(scores[:, 0].astype(jnp.float32))
        return score, score > 0.5
    if channels != 2:
        raise ValueError(f"{channels} channels do not fit the rule {rule!r}: expected 2")
    background, object_ = scores[:, 0].astype(jnp.float32), scores[:, 1].astype(jnp.float32)
    if rule == "logit":
        total = background + object_
        score = jnp.where(total > 0, object_ / jnp.where(total > 0, total, 1), 0.5)
        return score, object_ > background
    if rule == "margin":
        return jax.nn.sigmoid(2 * object_ - background), object_ > background
    if rule == "softmax":
        score = jax.nn.softmax(jnp.stack([background, object_]), axis=0)[1]
        return score, score > 0.5
    raise ValueError(f"unknown score rule {rule!r}: expected logit, margin or softmax")


@functools.partial(jax.jit, static_argnames="rule")
def binary_frame_stats(
    scores: Float[Array, "N C h w"],
    target: Bool[Array, "N h w"] | Integer[Array, "N h w"],
    valid: Bool[Array, " N"],
    *,
    rule: ScoreRule,
) -> dict[str, Array]:
    """Pixel counts of N frames, from which `BinaryState` takes all values; jitted.

    Args:
      scores: one logit channel, or (background, object), at the size of the target.
      target: foreground where not 0.
      valid: frames to score (`AVBatch.annotated`); `BinaryState.from_stats` drops the others.
      rule: how scores are read, see `object_score`; `Protocol.score_rule`.

    Returns:
      int32 arrays: `intersection`, `predicted`, `target`, `pixels` [N] of the IoU's decision;
      `hits`, `positives` [N 255]: pixels with score >= threshold inside the target, and anywhere.
      `valid` [N] as given.
    """
    num_frames, pixels = target.shape[0], target.shape[1] * target.shape[2]
    score, foreground = object_score(scores, rule)
    inside = (target > 0) if target.dtype != bool else target
    # The nearest threshold decides alone which thresholds a score reaches: no search. A NaN
    # reaches none, as it would in score >= threshold.
    nearest = jnp.clip(jnp.round(score * (_NUM_THRESHOLDS - 1)), 0, _NUM_THRESHOLDS - 1)
    nearest = jnp.where(jnp.isnan(score), 0, nearest).astype(jnp.int32)
    reached = nearest + (score >= jnp.asarray(THRESHOLDS)[nearest]).astype(jnp.int32)
    histogram = joint_histogram(
        reached.reshape(num_frames, pixels),
        inside.reshape(num_frames, pixels),
        _NUM_THRESHOLDS + 1,
        2,
    )
    at_least = jnp.cumsum(histogram[:, ::-1], axis=1, dtype=jnp.int32)[:, ::-1][:, 1:]

    def area(mask: Bool[Array, "N h w"]) -> Int[Array, " N"]:
        return jnp.sum(mask, axis=(1, 2), dtype=jnp.int32)

    return {
        "intersection": area(foreground & inside),
        "predicted": area(foreground),
        "target": area(inside),
        "pixels": jnp.full(num_frames, pixels, jnp.int32),
        "hits": at_least[:, :, 1],
        "positives": at_least.sum(axis=2),
        "valid": valid,
    }


@dataclasses.dataclass(frozen=True)
class BinaryResult:
    """What S4 and MS3 report; all values are fractions, 0..1.

    Attributes:
      miou, fscore: the reported values, means over groups.
      group_miou, group_fscore: per group of `videos_per_group` clips, in clip order.
      frame_iou: per frame, ordered by clip, then second.
      activated: share of pixels predicted foreground, mean over frames.
      num_clips, num_frames: scored. num_empty_frames: of these, with an empty target.
    """

    miou: float
    fscore: float
    group_miou: Float[np.ndarray, " G"]
    group_fscore: Float[np.ndarray, " G"]
    frame_iou: Float[np.ndarray, " M"]
    activated: float
    num_clips: int
    num_frames: int
    num_empty_frames: int


class BinaryState(FrameCounts):
    """Counts of all frames scored so far: about 2 kB a frame."""

    def compute(self, protocol: Protocol) -> BinaryResult:
        """Values as section 5 of avsbench.md defines them, grouped by `videos_per_group` clips.

        The F-score of a group is the maximum over thresholds of the mean F over its frames that
        have a target; a group without any counts as 0. The last group may be smaller.

        Raises:
          UserError: no frame was scored. ValueError: a frame was scored twice.
        """
        frames = self.frames()
        iou, curves, nonempty = frame_iou(frames), frame_fscore(frames), frames["target"] > 0
        clips, clip_rank = np.unique(frames["clip"], return_inverse=True)
        group = clip_rank // protocol.videos_per_group
        bounds = np.flatnonzero(np.diff(group, prepend=-1))
        group_miou = np.add.reduceat(iou, bounds) / np.add.reduceat(np.ones_like(iou), bounds)
        curve_sum = np.add.reduceat(curves * nonempty[:, None], bounds)
        counted = np.add.reduceat(nonempty.astype(np.int64), bounds)
        group_fscore = curve_sum.max(axis=1) / np.maximum(counted, 1)
        return BinaryResult(
            miou=float(group_miou.mean()),
            fscore=float(group_fscore.mean()),
            group_miou=group_miou,
            group_fscore=group_fscore,
            frame_iou=iou,
            activated=float((frames["predicted"] / frames["pixels"]).mean()),
            num_clips=len(clips),
            num_frames=len(iou),
            num_empty_frames=int((~nonempty).sum()),
        )


def frame_iou(counts: Mapping[str, np.ndarray]) -> Float[np.ndarray, " N"]:
    """IoU per frame, float64; the share of pixels predicted background where the target is empty.

    Source: `mask_iou` of OpenNLPLab/AVSBench (avsbench.md 5.1).
    """
    predicted, target = counts["predicted"].astype(np.float64), counts["target"]
    union = predicted + target - counts["intersection"]
    of_object = counts["intersection"] / (union + 1e-7)
    of_silence = (counts["pixels"] - predicted) / (counts["pixels"] + 1e-7)
    return np.where(target > 0, of_object, of_silence)


def frame_fscore(counts: Mapping[str, np.ndarray]) -> Float[np.ndarray, "N 255"]:
    """F-score (beta squared 0.3) per frame and threshold, float64; 0 where the target is empty.

    Source: `_eval_pr` of OpenNLPLab/AVSBench (avsbench.md 5.2).
    """
    hits = counts["hits"].astype(np.float64)
    precision = hits / (counts["positives"] + 1e-20)
    recall = hits / (counts["target"][:, None] + 1e-20)
    divisor = BETA_SQUARED * precision + recall
    product = (1 + BETA_SQUARED) * precision * recall
    return np.divide(product, divisor, out=np.zeros_like(product), where=divisor > 0)
