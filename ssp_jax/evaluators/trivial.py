"""Predictors that see no sound, as the floor that a model has to clear.

They know what no model is told: the built-in benchmark's maps of all visible objects and of what
moves. Scored by the same metrics on the same frames, they show what sight or motion alone can earn.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

TRIVIAL_NAMES = ("nothing", "everything", "moving", "visible")


def trivial_predictions(
    objects: Integer[np.ndarray, "N h w"],
    moving: Bool[np.ndarray, "N h w"] | Integer[np.ndarray, "N h w"],
    *,
    num_classes: int,
    frequent_class: int = 1,
) -> dict[str, UInt8[np.ndarray, "N h w"]]:
    """Label maps of the four trivial predictors, by name, in the order of `TRIVIAL_NAMES`.

    - nothing: background. everything: `frequent_class` at every pixel.
    - moving: every moving object; visible: every object, sounding or not; as its own class.

    Args:
      objects: class index of every visible object, 0 = none, at the scored size.
      moving: not 0 where that object moves.
      num_classes: 2 scores the binary task, in which every object is class 1; at more classes
        the objects keep their own.
      frequent_class: the best guess of a predictor that looks at nothing: the most frequent
        foreground class of the training labels (`most_frequent_class`); 1 in the binary task.

    Raises:
      ValueError: `frequent_class` is no foreground class, or an object's class is unknown.
    """
    if not 1 <= frequent_class < num_classes:
        raise ValueError(
            f"frequent_class {frequent_class}: expected a foreground class, 1..{num_classes - 1}"
        )
    visible = (objects > 0) if num_classes == 2 else objects
    if visible.size and not 0 <= visible.min() <= visible.max() < num_classes:
        raise ValueError(f"object class {visible.max()}: expected 0..{num_classes - 1}")
    visible = visible.astype(np.uint8)
    return {
        "nothing": np.zeros_like(visible),
        "everything": np.full_like(visible, frequent_class),
        "moving": np.where(moving != 0, visible, 0).astype(np.uint8),
        "visible": visible,
    }


def binary_scores(labels: Integer[np.ndarray, "N h w"]) -> Float[np.ndarray, "N 2 h w"]:
    """Label maps as (background, object) scores of 0 and 1, what `binary_frame_stats` reads."""
    object_ = (labels > 0).astype(np.float32)
    return np.stack([1 - object_, object_], axis=1)


def most_frequent_class(
    label_maps: Iterable[Integer[np.ndarray, "..."]], *, num_classes: int
) -> int:
    """The foreground class with the most pixels; the lowest of equals, 1 where there is none."""
    area: Int[np.ndarray, " K"] = np.zeros(num_classes, np.int64)
    for labels in label_maps:
        area += np.bincount(np.ravel(labels), minlength=num_classes)[:num_classes]
    return 1 + int(area[1:].argmax())
