"""Scores by kind of frame, counted anew pixel by pixel."""

import numpy as np
import pytest

from ssp_jax.metrics_binary import BinaryState, binary_frame_stats
from ssp_jax.metrics_semantic import SemanticState, semantic_frame_stats
from ssp_jax.protocols import get_protocol
from ssp_jax.report.groups import clip_scores, frame_groups, score_frames

CLIPS = np.array([0, 0, 0, 2, 2, 3])
SECONDS = np.array([0, 1, 2, 0, 1, 0])


def blocks(rng, classes, count=len(CLIPS), size=16):
    """Label maps of a few rectangles."""
    maps = np.zeros((count, size, size), np.uint8)
    for one in maps:
        for _ in range(2):
            top, left = rng.integers(0, size - 4, 2)
            one[top : top + rng.integers(2, 9), left : left + 4] = rng.integers(classes)
    return maps


def tables(frames, binary):
    facts = {
        "sources": np.array([1, 2, 7, -1, 0, 1]),
        "moving": np.array([1.0, 0.4, -1, 0.5, 0.0, -1]),
    }
    groups = frame_groups(
        frames, binary=binary, subsets=["a", "?", "b", "b"], facts=facts, moving_from="the test"
    )
    return {group["title"]: {row["name"]: row for row in group["rows"]} for group in groups}


def test_binary_scores_are_the_protocol_s():
    rng = np.random.default_rng(0)
    truth, predicted = blocks(rng, 2), blocks(rng, 2)
    truth[4], predicted[4] = 0, 0
    scores = np.stack([1 - predicted, predicted], axis=1).astype(np.float32)
    stats = binary_frame_stats(scores, truth, np.ones(6, bool), rule="logit")
    state = BinaryState.from_stats(stats, CLIPS, SECONDS)
    result = state.compute(get_protocol("official"))
    scored = score_frames(state.frames(), binary=True)
    np.testing.assert_allclose(scored.iou, result.frame_iou)
    clips = clip_scores(scored, state.frames()["clip"])
    assert [(clip["clip"], clip["count"]) for clip in clips] == [(0, 3), (2, 2), (3, 1)]
    assert clips[0]["iou"] == pytest.approx(result.frame_iou[:3].mean())
    found = tables(state.frames(), binary=True)
    sounding = found["Sounding or silent"]
    silent = (truth == 0).all(axis=(1, 2))
    assert sounding["nothing sounds"]["count"] == silent.sum()
    assert sounding["something sounds"]["iou"] == pytest.approx(result.frame_iou[~silent].mean())
    assert sum(row["count"] for row in found["Object size"].values()) == (~silent).sum()
    assert {name: row["count"] for name, row in found["Number of sources"].items()} == {
        "1": 2,
        "2": 1,
        "4 or more": 1,
    }
    assert {name: row["count"] for name, row in found["Moving or still"].items()} == {
        "moves": 2,
        "stands still": 2,
    }
    assert found["Subset"]["a"]["iou"] == pytest.approx(result.frame_iou[:3].mean())


def test_semantic_scores_are_means_over_the_classes_there():
    rng = np.random.default_rng(1)
    truth, predicted = blocks(rng, 4), blocks(rng, 4)
    predicted[1:3] = truth[1:3]
    truth[4], predicted[4] = 0, 0
    truth[5], predicted[5, :3, :3] = 0, 2
    stats = semantic_frame_stats(predicted, truth, np.ones(6, bool), num_classes=4)
    frames = SemanticState.from_stats(stats, CLIPS, SECONDS).frames()
    scored = score_frames(frames, binary=False)
    regions = []
    for frame, (true, guess) in enumerate(zip(truth, predicted, strict=True)):
        ious = []
        for index in range(1, 4):
            both, either = (true == index) & (guess == index), (true == index) | (guess == index)
            if either.any():
                ious.append(both.sum() / either.sum())
            if (true == index).any():
                regions.append(((true == index).mean(), ious[-1]))
        assert scored.iou[frame] == pytest.approx(np.mean(ious) if ious else 1.0)
    assert scored.iou[4] == 1
    assert scored.iou[5] == 0
    sizes = tables(frames, binary=False)["Object size"]
    assert sum(row["count"] for row in sizes.values()) == len(regions)
    middle = [iou for share, iou in regions if 0.05 < share <= 0.15]
    assert middle
    assert sizes["5 to 15 %"]["iou"] == pytest.approx(np.mean(middle))
