"""S4 and MS3 metrics against the repositories' own functions and a literal restatement."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax import metrics_binary
from ssp_jax.errors import UserError
from ssp_jax.metrics_binary import BinaryState, binary_frame_stats, object_score
from ssp_jax.protocols import get_protocol

GOLDEN = np.load(pathlib.Path(__file__).parent / "data/golden/metrics_s4_ms3.npz")
CASES = [str(case) for case in GOLDEN["cases"]]
FRAMES_PER_VIDEO = 5
# (prefix of the stored values, protocol)
VARIANTS = [
    ("official", "official"),
    ("official", "avsegformer"),
    ("ss", "stepping_stones"),
    ("combo", "combo"),
]


def scored(scores, target, protocol, *, clip=None, batch=5):
    """The state of all frames, scored in batches."""
    num_frames = len(target)
    clip = np.arange(num_frames) // FRAMES_PER_VIDEO if clip is None else clip
    second = np.arange(num_frames)
    state = BinaryState.empty()
    for start in range(0, num_frames, batch):
        part = slice(start, start + batch)
        stats = binary_frame_stats(
            scores[part],
            target[part],
            np.ones(len(target[part]), bool),
            rule=protocol.score_rule,
        )
        state = state.merge(BinaryState.from_stats(stats, clip[part], second[part]))
    return state


def case_scores(case, prefix):
    if prefix == "official":
        return GOLDEN[f"{case}/logits"].astype(np.float32)[:, None]
    return GOLDEN[f"{case}/score2"].astype(np.float32)


def test_thresholds_are_the_stored_ones_bit_for_bit():
    np.testing.assert_array_equal(metrics_binary.THRESHOLDS, GOLDEN["thresholds"])
    assert metrics_binary.THRESHOLDS.dtype == np.float32


@pytest.mark.parametrize(("prefix", "name"), VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_golden_case(case, prefix, name):
    target = GOLDEN[f"{case}/target"]
    # One call of the repositories' functions is one group.
    protocol = get_protocol(name, videos_per_group=len(target) // FRAMES_PER_VIDEO)
    result = scored(case_scores(case, prefix), target, protocol).compute(protocol)
    assert result.miou == pytest.approx(float(GOLDEN[f"{case}/{prefix}_miou"]), abs=1e-5)
    assert result.fscore == pytest.approx(float(GOLDEN[f"{case}/{prefix}_fscore"]), abs=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if f"{c}/precision" in GOLDEN])
def test_golden_precision_and_recall(case):
    target = GOLDEN[f"{case}/target"]
    frames = scored(case_scores(case, "official"), target, get_protocol()).frames()
    kept = frames["target"] > 0
    hits = frames["hits"][kept].astype(float)
    precision = hits / (frames["positives"][kept] + 1e-20)
    recall = hits / (frames["target"][kept, None] + 1e-20)
    np.testing.assert_allclose(precision, GOLDEN[f"{case}/precision"], atol=1e-6)
    np.testing.assert_allclose(recall, GOLDEN[f"{case}/recall"], atol=1e-6)


@pytest.mark.parametrize("videos", [1, 2, 4])
def test_golden_grouping_of_videos(videos):
    target = GOLDEN["four_videos/target"]
    protocol = get_protocol("official", videos_per_group=videos)
    result = scored(case_scores("four_videos", "official"), target, protocol).compute(protocol)
    for value in ("miou", "fscore"):
        stored = float(GOLDEN[f"four_videos/dataset_{value}_batch{videos}"])
        assert getattr(result, value) == pytest.approx(stored, abs=1e-5)
    np.testing.assert_allclose(
        result.group_fscore, GOLDEN[f"four_videos/fscore_each_batch{videos}"], atol=1e-5
    )
    assert (result.num_clips, result.num_frames) == (4, 20)
    assert result.num_empty_frames == int((target.reshape(20, -1).max(1) == 0).sum())


def test_group_of_empty_targets_counts_as_zero():
    target = GOLDEN["four_videos/target"]
    result = scored(case_scores("four_videos", "official"), target, get_protocol()).compute(
        get_protocol()
    )
    assert result.group_fscore[1] == 0  # video 1 is silent throughout
    assert result.fscore == pytest.approx(result.group_fscore[[0, 2, 3]].sum() / 4)


def literal_fscore(score, target):
    """F per frame and threshold, a pass over the pixels for each threshold."""
    curves = []
    for frame, inside in zip(score, target > 0, strict=True):
        curve = []
        for threshold in metrics_binary.THRESHOLDS:
            positive = frame >= threshold
            hits = np.sum(positive & inside)
            precision, recall = hits / (positive.sum() + 1e-20), hits / (inside.sum() + 1e-20)
            divisor = 0.3 * precision + recall
            curve.append(1.3 * precision * recall / divisor if divisor else 0.0)
        curves.append(curve)
    return np.array(curves)


def test_scores_on_and_beside_a_threshold_fall_on_the_right_side():
    thresholds = metrics_binary.THRESHOLDS
    scores = np.concatenate(
        [thresholds, np.nextafter(thresholds, np.float32(2)), np.nextafter(thresholds, -1)]
    )
    scores = scores[(scores == 0) | ((scores > 1e-30) & (scores <= 1))]  # no denormal numbers
    # (1 - s, s) read by the logit rule would round; a total of exactly 1 keeps s as it is.
    background = np.float32(1) - scores
    exact = (background + scores) == 1
    pair = np.stack([background, scores])[:, exact].reshape(1, 2, 1, -1)
    target = np.arange(pair.shape[-1]).reshape(1, 1, -1) % 3 == 0
    score = np.asarray(object_score(pair, "logit")[0])
    np.testing.assert_array_equal(score[0, 0], scores[exact])
    assert np.isin(thresholds, score).sum() > 200
    stats = binary_frame_stats(pair, target, np.ones(1, bool), rule="logit")
    reached = score.reshape(-1, 1) >= thresholds
    np.testing.assert_array_equal(stats["positives"][0], reached.sum(0))
    np.testing.assert_array_equal(stats["hits"][0], reached[target.ravel()].sum(0))


@pytest.mark.parametrize("rule", ["logit", "margin", "softmax"])
def test_histogram_equals_a_pass_per_threshold(rule):
    rng = np.random.default_rng(3)
    scores = rng.gamma(1.0, 1.0, (3, 2, 20, 23)).astype(np.float32)
    target = rng.integers(0, 2, (3, 20, 23)).astype(np.uint8)
    target[1] = 0
    score = np.asarray(object_score(scores, rule)[0])
    stats = binary_frame_stats(scores, target, np.ones(3, bool), rule=rule)
    curves = metrics_binary.frame_fscore({k: np.asarray(v) for k, v in stats.items()})
    np.testing.assert_allclose(curves, literal_fscore(score, target), atol=1e-12)


def test_two_channels_under_the_official_rule_are_the_log_odds():
    rng = np.random.default_rng(0)
    scores = rng.gamma(0.7, 5.0, (2, 2, 30, 30)).astype(np.float32)
    logit = np.log(scores[:, 1:]) - np.log(scores[:, :1])
    score, foreground = object_score(scores, "logit")
    as_logit, _ = object_score(logit, "logit")
    np.testing.assert_allclose(score, as_logit, atol=1e-6)
    np.testing.assert_array_equal(foreground, scores.argmax(1) == 1)
    rescaled, _ = object_score(scores * 64, "logit")
    np.testing.assert_array_equal(score, rescaled)
    unclaimed, chosen = object_score(np.zeros((1, 2, 1, 1), np.float32), "logit")
    assert float(unclaimed[0, 0, 0]) == 0.5
    assert not chosen.any()


@pytest.mark.parametrize("rule", ["logit", "margin", "softmax"])
def test_a_tie_is_background(rule):
    _, foreground = object_score(np.full((1, 2, 2, 2), 0.7, np.float32), rule)
    assert not foreground.any()


def test_scores_that_are_not_numbers_reach_no_threshold():
    scores = np.full((1, 1, 4, 4), np.nan, np.float32)
    stats = binary_frame_stats(scores, np.ones((1, 4, 4)), np.ones(1, bool), rule="logit")
    assert int(stats["positives"].max()) == 0
    assert int(stats["predicted"][0]) == 0


def test_neither_batching_nor_order_nor_padding_changes_a_bit():
    target = GOLDEN["four_videos/target"]
    scores = case_scores("four_videos", "ss")
    protocol = get_protocol("stepping_stones", videos_per_group=3)
    expected = scored(scores, target, protocol).compute(protocol)
    order = np.random.default_rng(1).permutation(20)
    state = BinaryState.empty()
    for start in range(0, 20, 7):
        frame = np.resize(order[start : start + 7], 8)  # a repeated frame fills the slot
        valid = np.arange(8) < len(order[start : start + 7])
        stats = binary_frame_stats(scores[frame], target[frame], valid, rule="margin")
        state = BinaryState.from_stats(stats, frame // 5, frame).merge(state)
    result = state.compute(protocol)
    assert (result.miou, result.fscore) == (expected.miou, expected.fscore)
    np.testing.assert_array_equal(result.frame_iou, expected.frame_iou)
    assert len(result.group_fscore) == 2  # three clips and one


def test_groups_follow_the_order_of_clips_even_where_some_are_missing():
    target = GOLDEN["four_videos/target"]
    scores = case_scores("four_videos", "official")
    protocol = get_protocol("official", videos_per_group=2)
    sparse = np.repeat([3, 8, 20, 21], 5)
    result = scored(scores, target, protocol, clip=sparse).compute(protocol)
    np.testing.assert_allclose(
        result.group_fscore, GOLDEN["four_videos/fscore_each_batch2"], atol=1e-5
    )


def test_labels_of_several_classes_count_as_foreground():
    scores = case_scores("random", "ss")
    target = GOLDEN["random/target"]
    protocol = get_protocol("combo")
    several = (target * np.arange(1, 6, dtype=np.uint8)[:, None, None]).astype(np.uint8)
    assert (
        scored(scores, several, protocol).compute(protocol).fscore
        == scored(scores, target, protocol).compute(protocol).fscore
        == scored(scores, target.astype(bool), protocol).compute(protocol).fscore
    )


def test_scoring_runs_inside_a_jitted_step():
    scores, target = case_scores("random", "ss"), GOLDEN["random/target"]

    @jax.jit
    def step(maps):
        return binary_frame_stats(maps * 1.0, target, jnp.ones(5, bool), rule="margin")

    direct = binary_frame_stats(scores, target, np.ones(5, bool), rule="margin")
    np.testing.assert_array_equal(step(scores)["hits"], direct["hits"])


def test_a_frame_scored_twice_is_refused():
    target = GOLDEN["random/target"]
    state = scored(case_scores("random", "official"), target, get_protocol())
    with pytest.raises(ValueError, match="5 frames were scored twice, the first is clip 0 second"):
        state.merge(state).compute(get_protocol())


def test_nothing_scored_is_said_to_the_user():
    target = GOLDEN["random/target"]
    stats = binary_frame_stats(
        case_scores("random", "official"), target, np.zeros(5, bool), rule="logit"
    )
    state = BinaryState.from_stats(stats, np.zeros(5), np.arange(5))
    with pytest.raises(UserError, match="no annotated frame"):
        state.compute(get_protocol())


@pytest.mark.parametrize(
    ("channels", "rule"), [(1, "margin"), (1, "softmax"), (3, "logit"), (2, "arg-max")]
)
def test_scores_that_do_not_fit_the_rule_are_refused(channels, rule):
    with pytest.raises(ValueError, match="rule"):
        object_score(np.zeros((1, channels, 2, 2), np.float32), rule)
