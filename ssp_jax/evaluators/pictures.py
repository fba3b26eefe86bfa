"""A picture of predictions beside the truth."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ssp_jax.batch import AVBatch
from ssp_jax.files import write_whole
from tfds_builders.classes import palette


def overlay(
    frame: UInt8[np.ndarray, "h w 3"], labels: Integer[np.ndarray, "h w"], num_classes: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with every class but background tinted in its palette colour."""
    size = frame.shape[0]
    rows = (np.arange(size) * labels.shape[0]) // size
    labels = labels[rows][:, rows]
    tint = palette(max(num_classes, 2))[labels].astype(np.float32)
    mixed = np.where(labels[..., None] > 0, 0.35 * frame + 0.65 * tint, 0.6 * frame)
    return mixed.astype(np.uint8)


def save_picture(
    path: Path,
    batch: AVBatch,
    predicted: Integer[np.ndarray, "N h w"],
    class_names: Sequence[str],
    columns: int = 10,
) -> None:
    """PNG with the first frames of a batch: frame, truth and prediction with class names."""
    count = min(columns, int(batch.annotated.sum()))
    figure = Figure(figsize=(1.6 * count, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, count, squeeze=False)
    for column in range(count):
        frame = batch.frames[column]
        shown = (
            ("frame", None),
            ("truth", batch.labels[column]),
            ("prediction", predicted[column]),
        )
        for axis, (row, labels) in zip(axes[:, column], shown, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(row)
            if labels is None:
                axis.imshow(frame)
                axis.set_title(f"clip {batch.clip[column]}, {batch.second[column]} s", fontsize=8)
                continue
            axis.imshow(overlay(frame, labels, len(class_names)))
            present = [class_names[c] for c in np.unique(labels) if c > 0]
            axis.set_xlabel(", ".join(present) or "silence", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    write_whole(path, picture.getvalue())
