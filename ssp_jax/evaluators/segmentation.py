"""Scores of one data set under one protocol, for a model or for any predictor of label maps."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ssp_jax.batch import AVBatch
from ssp_jax.evaluators.trivial import binary_scores
from ssp_jax.metrics_binary import BinaryState, binary_frame_stats
from ssp_jax.metrics_semantic import SemanticState, semantic_frame_stats
from ssp_jax.protocols import Protocol
from ssp_jax.sharding import own_rows

# (params, batch on devices) -> class scores (N, K, h, w) at the batch's label size.
Predict = Callable[[dict, AVBatch], jax.Array]


@dataclasses.dataclass(frozen=True)
class SegmentationEvaluator:
    """mIoU, F-score and share of activated pixels of one task; `run` yields (name, value).

    Attributes:
      binary: S4/MS3's metrics on (background, object) scores, else AVSS's on label maps.
      num_classes: K, background included.
    """

    protocol: Protocol
    binary: bool
    num_classes: int

    def run(
        self,
        predict: Predict,
        params: dict,
        batches: Iterable[AVBatch],
        put: Callable[[AVBatch], AVBatch],
    ) -> Iterator[tuple[str, float]]:
        """Score a model on all annotated frames of `batches` (host arrays; `put` feeds devices)."""
        state = self.empty()
        for batch in batches:
            placed = put(batch)
            state = state.merge(self.score(predict(params, placed), placed, batch))
        yield from self.results(state)

    def empty(self) -> BinaryState | SemanticState:
        """The state before any frame."""
        return BinaryState.empty() if self.binary else SemanticState.empty()

    def score(
        self, scores: jax.Array, placed: AVBatch, batch: AVBatch
    ) -> BinaryState | SemanticState:
        """The state of this process's frames of one batch, from class scores (N, K, h, w)."""
        if self.binary:
            counts = binary_frame_stats(
                scores, placed.labels, placed.annotated, rule=self.protocol.score_rule
            )
            return BinaryState.from_stats(own_rows(placed, counts), batch.clip, batch.second)
        counts = semantic_frame_stats(
            jnp.argmax(scores, axis=1), placed.labels, placed.annotated, num_classes=scores.shape[1]
        )
        return SemanticState.from_stats(own_rows(placed, counts), batch.clip, batch.second)

    def score_labels(self, prediction: np.ndarray, batch: AVBatch) -> BinaryState | SemanticState:
        """The state of one batch from predicted label maps (N, h, w), for trivial predictors."""
        if self.binary:
            prediction = binary_scores(prediction)
        # Of the batch this is all that scoring reads.
        scored = jax.device_put((prediction, batch.labels, batch.annotated))
        if self.binary:
            placed = dataclasses.replace(batch, labels=scored[1], annotated=scored[2])
            return self.score(scored[0], placed, batch)
        counts = semantic_frame_stats(*scored, num_classes=self.num_classes)
        return SemanticState.from_stats(jax.device_get(counts), batch.clip, batch.second)

    def results(self, state: BinaryState | SemanticState) -> Iterator[tuple[str, float]]:
        """(name, value) of what the protocol reports, and the share of activated pixels; 0..1, of
        all processes."""
        result = state.compute(self.protocol)
        yield "miou", result.miou
        yield "fscore", result.fscore
        yield "activated", result.activated
