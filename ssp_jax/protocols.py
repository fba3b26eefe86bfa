"""How four public repositories score AVSBench, as data.

The numbers of two papers compare only under one protocol: the repositories differ in score map,
resolution, ground truth, grouping of clips and padded frames. `ssp_jax.metrics_binary` and
`ssp_jax.metrics_semantic` read from here how to score, the input pipeline reads sizes and
resizing. Source: avsbench.md sections 3, 5.2 to 5.5, commit by commit.
"""

import dataclasses
from typing import Any, Literal

from ssp_jax.errors import UserError

ScoreRule = Literal["logit", "margin", "softmax"]
DEFAULT_PROTOCOL = "official"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """One repository's evaluation. Sizes are the side of a square, in pixels.

    Attributes:
      name: what `get_protocol` knows it by. source: repository @ commit.
      score_rule: how the scores of a pixel become a score in 0..1 for the F-score and a
        foreground decision for the IoU (binary task); see `metrics_binary.object_score`.
      videos_per_group: clips whose frames share one F-score maximum (binary task). The repository's
        evaluation batch size; the F-score depends on it.
      binary_input_size, semantic_input_size: frames are resized to it, not keeping the aspect.
      binary_score_size, semantic_score_size: predictions and targets are compared at it.
      binary_targets: S4 and MS3 are scored against AVSBench-object's `gt_masks` (object_masks) or
        against AVSBench-semantic's v1s and v1m labels reduced to labelled or not (semantic_labels).
      binary_target_resize: `nearest`, or `bilinear_above_zero`: the colour image bilinearly, then
        every pixel that is not black, which dilates masks slightly.
      semantic_targets: folder that the class labels come from. semantic_target_resize: likewise.
      frame_geometry: of validation and test frames. training_geometry: of AVSS training frames.
      count_padded_frames: 5-frame clips are filled up to `padded_clip_length` frames that
        are predicted and labelled background and count as such (AVSS).
      nobg_drop: the entry that "noBg" values leave out: `first` is background, `last` is the class
        woman, an oversight that three repositories share.
      notes: what a reader of the numbers should know.
    """

    name: str
    source: str
    score_rule: ScoreRule
    videos_per_group: int = 1
    binary_input_size: int = 224
    semantic_input_size: int = 224
    binary_score_size: int = 224
    semantic_score_size: int = 224
    binary_targets: Literal["object_masks", "semantic_labels"] = "object_masks"
    binary_target_resize: Literal["nearest", "bilinear_above_zero"] = "nearest"
    semantic_targets: Literal["labels_rgb", "labels_semantic"] = "labels_rgb"
    semantic_target_resize: Literal["nearest"] = "nearest"
    frame_geometry: Literal["squash"] = "squash"
    training_geometry: Literal["centre_crop", "random_crop", "squash"] = "squash"
    count_padded_frames: bool = False
    padded_clip_length: int = 10
    nobg_drop: Literal["first", "last"] = "last"
    notes: tuple[str, ...] = ()


_PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="official",
            source="OpenNLPLab/AVSBench@f7414aff",
            score_rule="logit",
            training_geometry="centre_crop",
            count_padded_frames=True,
            notes=(
                "videos_per_group: test.py defaults to 1, test.sh passes 4",
                "S4 and MS3 masks are used at 224 as stored",
                "padded frames of AVSS raise mIoU by 0.00364 * (1 - background IoU) on test",
                "two-channel scores (background, object) count as the logit log(object/background)",
            ),
        ),
        Protocol(
            name="stepping_stones",
            source="GeWu-Lab/Stepping-Stones@de6a17bc",
            score_rule="margin",
            binary_input_size=384,
            semantic_input_size=384,
            binary_targets="semantic_labels",
            binary_target_resize="bilinear_above_zero",
            nobg_drop="first",
            notes=(
                "S4 and MS3 are scored on AVSBench-semantic's v1s and v1m labels, not on gt_masks",
                "scores are computed at 384, resized bilinearly to 224",
            ),
        ),
        Protocol(
            name="avsegformer",
            source="vvvb-github/AVSegFormer@7083cb65",
            score_rule="logit",
            videos_per_group=2,
            binary_input_size=512,
            binary_score_size=512,
            training_geometry="centre_crop",
            count_padded_frames=True,
            notes=("S4 and MS3 at 512 x 512: the 224 of its configs is not used",),
        ),
        Protocol(
            name="combo",
            source="yannqi/COMBO-AVS@cb8af1cf",
            score_rule="softmax",
            semantic_targets="labels_semantic",
            training_geometry="random_crop",
            notes=(
                "the repository rounds to 4 decimals; unrounded here",
                "on several GPUs the repository averages per-rank means; one mean over all here",
            ),
        ),
    )
}


def protocol_names() -> tuple[str, ...]:
    """Names that `get_protocol` knows, the default first."""
    return tuple(_PROTOCOLS)


def get_protocol(name: str = DEFAULT_PROTOCOL, /, **overrides: Any) -> Protocol:
    """The protocol called `name`, with single facts replaced on request.

    For example `get_protocol("official", videos_per_group=4)` scores as the official test.sh does.

    Raises:
      UserError: the name or a field is unknown, or a replaced value cannot be.
    """
    if name not in _PROTOCOLS:
        raise UserError(
            f"unknown protocol {name!r}: expected one of {', '.join(_PROTOCOLS)}; "
            "set it to one of these"
        )
    replaceable = [field.name for field in dataclasses.fields(Protocol) if field.name != "name"]
    if unknown := sorted(set(overrides) - set(replaceable)):
        raise UserError(
            f"protocol {name!r} has no field {', '.join(unknown)}: "
            f"expected one of {', '.join(replaceable)}"
        )
    for field in dataclasses.fields(Protocol):
        if field.name in overrides:
            _check_override(name, field, overrides[field.name])
    return dataclasses.replace(_PROTOCOLS[name], **overrides)


def _check_override(name: str, field: dataclasses.Field, value: Any) -> None:
    choices = getattr(field.type, "__args__", ()) if field.name != "notes" else ()
    if choices and value not in choices:
        raise UserError(
            f"protocol {name!r}: {field.name} = {value!r}: expected one of {', '.join(choices)}"
        )
    if field.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(
            f"protocol {name!r}: {field.name} = {value!r}: expected a whole number of 1 or more"
        )
    if field.type is bool and not isinstance(value, bool):
        raise UserError(f"protocol {name!r}: {field.name} = {value!r}: expected True or False")
