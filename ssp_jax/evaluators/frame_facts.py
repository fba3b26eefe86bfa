"""What an evaluation sees of every frame besides its scores, for the report."""

import dataclasses

import numpy as np
from jaxtyping import Int, Integer

from ssp_jax.batch import AVBatch
from ssp_jax.metrics_counts import FrameCounts
from ssp_jax.processes import gather_rows


@dataclasses.dataclass(frozen=True)
class FrameFacts:
    """Facts of all annotated frames so far.

    Attributes:
      frames: per frame `sources`, how many classes are heard in its second, -1 where the data set
        does not say; `moving`, the share of the truth's pixels that move, -1 where nothing sounds
        or nobody knows.
      confusion: pixels by (true class, predicted class).
    """

    frames: FrameCounts
    confusion: Int[np.ndarray, "K K"]

    @classmethod
    def empty(cls, num_classes: int) -> "FrameFacts":
        """Before any frame; K = `num_classes`, background included."""
        return cls(FrameCounts.empty(), np.zeros((num_classes, num_classes), np.int64))

    def add(
        self,
        predicted: Integer[np.ndarray, "N h w"],
        batch: AVBatch,
        moving: Integer[np.ndarray, "N h w"] | None = None,
    ) -> "FrameFacts":
        """Add the frames of a host batch.

        Args:
          predicted: class per pixel. moving: not 0 where something moves, if that is known.
        """
        labels, rows = batch.labels, batch.annotated
        known = batch.sounds_known & (batch.sounds.shape[1] > 0)
        share = np.full(len(labels), -1.0)
        if moving is not None:
            area = (labels > 0).sum(axis=(1, 2))
            moves = ((labels > 0) & (moving != 0)).sum(axis=(1, 2))
            share = np.where(area > 0, moves / np.maximum(area, 1), -1.0)
        facts = {
            "sources": np.where(known, batch.sounds.sum(axis=1), -1).astype(np.int64),
            "moving": share,
            "valid": rows,
        }
        count = len(self.confusion)
        true, guess = labels[rows].astype(np.int64), predicted[rows]
        pairs = (true * count + guess)[true < count]  # what is no class is not scored either
        pixels = np.bincount(pairs, minlength=count * count).reshape(count, count)
        return FrameFacts(
            self.frames.merge(FrameCounts.from_stats(facts, batch.clip, batch.second)),
            self.confusion + pixels,
        )

    def confusion_of_all(self) -> Int[np.ndarray, "K K"]:
        """Return the confusion of all processes together; each has to ask."""
        return gather_rows({"pixels": self.confusion[None]})["pixels"].sum(axis=0)
