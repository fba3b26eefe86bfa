"""Scoring speed, against a straightforward NumPy implementation in the same run.

    python benchmarks/metrics.py

AVSS: the 11,520 frames of the test split at 224 x 224, 71 classes. S4: its test split's 740 clips x
5 frames, 255 thresholds. Label maps and scores are blobs like a model's output; they are drawn
before each batch, outside the timing, so that no frame is scored twice and memory stays
small. Timed: from arrays in host memory to the final values, without compilation (given beside).
The NumPy implementation runs on the first frames only and its time is scaled to all, as
the table says; on these frames both must give the same values.
"""

import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags
from tqdm import tqdm

from ssp_jax.metrics_binary import THRESHOLDS, BinaryState, binary_frame_stats
from ssp_jax.metrics_semantic import SemanticState, semantic_frame_stats
from ssp_jax.protocols import Protocol, get_protocol

_SIZE, _BATCH, _NUM_CLASSES, _FRAMES_PER_CLIP = 224, 20, 71, 5
_NUMPY_BATCHES = 5
_AVSS_FRAMES = flags.DEFINE_integer("avss_frames", 11_520, "frames of the AVSS test split", 1)
_S4_FRAMES = flags.DEFINE_integer("s4_frames", 3_700, "frames of the S4 test split", 1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the label maps")

Batch = tuple[np.ndarray, np.ndarray]
MakeBatch = Callable[[np.random.Generator], Batch]


def _blobs(rng: np.random.Generator, cells: int, levels: int) -> np.ndarray:
    """[_BATCH, 224, 224] whole numbers below `levels`, constant in wavy-edged cells."""
    wave = 6 * np.sin(np.arange(_SIZE) / rng.uniform(5, 20)) + rng.uniform(0, _SIZE)
    row = (np.arange(_SIZE)[:, None] + wave[None, :]).astype(int) * cells // _SIZE % cells
    column = (np.arange(_SIZE)[None, :] + wave[:, None]).astype(int) * cells // _SIZE % cells
    return rng.integers(0, levels, (_BATCH, cells, cells), dtype=np.uint8)[:, row, column]


def _semantic_batch(rng: np.random.Generator) -> Batch:
    """Predicted and true label maps: up to 6 classes a frame on background, mostly agreeing."""
    classes = rng.integers(1, _NUM_CLASSES, (_BATCH, 16), dtype=np.uint8)
    classes[:, 6:] = 0
    target = classes[np.arange(_BATCH)[:, None, None], _blobs(rng, 8, 16)]
    pred = np.where(_blobs(rng, 12, 5) == 0, np.roll(target, 9, axis=2), target)
    return pred, target


def _binary_batch(rng: np.random.Generator) -> Batch:
    """Logits with noise around a blobby true mask, a fifth of the frames silent."""
    target = (_blobs(rng, 6, 4) == 0).astype(np.uint8)
    target[rng.random(_BATCH) < 0.2] = 0
    noise = rng.standard_normal((_BATCH, 1, _SIZE, _SIZE), dtype=np.float32)
    return 3 * noise + 4 * target[:, None].astype(np.float32) - 2, target


def _stream(make: MakeBatch, num_frames: int, what: str) -> Iterator[tuple[Any, ...]]:
    """Batches with valid, clip and second; the last one is filled up with invalid frames."""
    rng = np.random.default_rng(_SEED.value)
    for start in tqdm(range(0, num_frames, _BATCH), desc=what, unit="batch", leave=False):
        frame = start + np.arange(_BATCH)
        yield (*make(rng), frame < num_frames, frame // _FRAMES_PER_CLIP, frame)


def _semantic_stats(pred: np.ndarray, target: np.ndarray, valid: np.ndarray) -> dict[str, Any]:
    return semantic_frame_stats(pred, target, valid, num_classes=_NUM_CLASSES)


def _binary_stats(logits: np.ndarray, target: np.ndarray, valid: np.ndarray) -> dict[str, Any]:
    return binary_frame_stats(logits, target, valid, rule="logit")


def _time_ours(
    stats_of: Callable[..., dict[str, Any]],
    state: Any,
    make: MakeBatch,
    num_frames: int,
    protocol: Protocol,
    what: str,
) -> tuple[Any, float, float]:
    """The result, seconds to score, seconds to compile."""
    compiling = time.perf_counter()
    first = make(np.random.default_rng(0))
    jax.block_until_ready(stats_of(*first, np.ones(_BATCH, bool)))
    compiling = time.perf_counter() - compiling
    seconds = 0.0
    for pred, target, valid, clip, second in _stream(make, num_frames, what):
        start = time.perf_counter()
        state = state.merge(state.from_stats(stats_of(pred, target, valid), clip, second))
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    result = state.compute(protocol)
    return result, seconds + time.perf_counter() - start, compiling


def numpy_semantic(pred: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and F of one frame per class; NaN where the class does not occur."""
    iou, fscore = np.full((2, _NUM_CLASSES), np.nan)
    for c in range(_NUM_CLASSES):
        in_pred, in_target = pred == c, target == c
        hits = np.sum(in_pred & in_target)
        predicted, labelled = in_pred.sum(), in_target.sum()
        if predicted + labelled == 0:
            continue
        iou[c] = hits / (predicted + labelled - hits)
        precision, recall = hits / max(predicted, 1), hits / max(labelled, 1)
        fscore[c] = 1.3 * precision * recall / (0.3 * precision + recall) if hits else 0.0
    return iou, fscore


def _numpy_binary(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray | None]:
    """IoU of one frame, and F per threshold unless the target is empty."""
    inside, score = target > 0, 1 / (1 + np.exp(-logits[0]))
    predicted = score > 0.5
    if not inside.any():
        return float(1 - predicted.mean()), None
    iou = np.sum(predicted & inside) / np.sum(predicted | inside)
    curve = np.zeros(len(THRESHOLDS))
    for i, threshold in enumerate(THRESHOLDS):
        positive = score >= threshold
        hits = np.sum(positive & inside)
        precision, recall = hits / max(positive.sum(), 1), hits / inside.sum()
        curve[i] = 1.3 * precision * recall / (0.3 * precision + recall) if hits else 0.0
    return float(iou), curve


def _time_numpy(
    score_frame: Callable[..., tuple[Any, Any]], make: MakeBatch, num_frames: int, what: str
) -> tuple[list[tuple[Any, Any]], float]:
    """Return what each of the first frames scores, and seconds for them."""
    frames, seconds = [], 0.0
    for pred, target, valid, *_ in _stream(make, num_frames, what):
        start = time.perf_counter()
        frames += [score_frame(*pair) for pair in zip(pred[valid], target[valid], strict=True)]
        seconds += time.perf_counter() - start
    return frames, seconds


def _numpy_avss_values(frames: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    def class_mean(values: np.ndarray) -> float:
        count = np.sum(~np.isnan(values), axis=0)
        return float(np.mean(np.nansum(values, axis=0) / np.maximum(count, 1)))

    return class_mean(np.array([f[0] for f in frames])), class_mean(
        np.array([f[1] for f in frames])
    )


def _numpy_s4_values(frames: list[tuple[float, np.ndarray | None]]) -> tuple[float, float]:
    best = []
    for start in range(0, len(frames), _FRAMES_PER_CLIP):
        curves = [f[1] for f in frames[start : start + _FRAMES_PER_CLIP] if f[1] is not None]
        best.append(np.mean(curves, axis=0).max() if curves else 0.0)
    return float(np.mean([f[0] for f in frames])), float(np.mean(best))


def _row(name: str, num_frames: int, ours: float, compiling: float, n: int, slow: float) -> str:
    scaled = slow * num_frames / n
    return (
        f"| {name} | {num_frames:,} | {ours:.1f} s | {1e3 * ours / num_frames:.2f} ms "
        f"| {compiling:.1f} s | {scaled:.0f} s (scaled from {n} frames) | {scaled / ours:.0f} x |"
    )


def main(argv: list[str]) -> None:
    """Times both metrics and prints the table."""
    del argv
    protocol = get_protocol("official", count_padded_frames=False)
    rows = []
    for name, num_frames, stats_of, state, make, score_frame, values in (
        (
            *("AVSS mIoU and F", _AVSS_FRAMES.value, _semantic_stats, SemanticState.empty()),
            *(_semantic_batch, numpy_semantic, _numpy_avss_values),
        ),
        (
            *("S4 mIoU and F", _S4_FRAMES.value, _binary_stats, BinaryState.empty()),
            *(_binary_batch, _numpy_binary, _numpy_s4_values),
        ),
    ):
        few = min(num_frames, _NUMPY_BATCHES * _BATCH)
        frames, slow = _time_numpy(score_frame, make, few, f"{name}, NumPy")
        check, _, compiling = _time_ours(stats_of, state, make, few, protocol, f"{name}, check")
        # NumPy's float32 sigmoid may put a score on the other side of a threshold.
        np.testing.assert_allclose((check.miou, check.fscore), values(frames), atol=1e-5)
        result, ours, _ = _time_ours(stats_of, state, make, num_frames, protocol, name)
        assert result.num_frames == num_frames
        rows.append(_row(name, num_frames, ours, compiling, few, slow))
    print("| | frames | ssp_jax | a frame | compilation | straightforward NumPy | faster |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(
        f"\njax {jax.__version__}, numpy {np.__version__}, Python {platform.python_version()}, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, batches of {_BATCH}, "
        f"{_SIZE} x {_SIZE}, {platform.machine()}"
    )


if __name__ == "__main__":
    app.run(main)
