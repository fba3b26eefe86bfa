"""AVSS metrics against the repositories' own function."""

import itertools
import pathlib

import numpy as np
import pytest

from ssp_jax.errors import UserError
from ssp_jax.metrics_semantic import SemanticState, frame_class_scores, semantic_frame_stats
from ssp_jax.protocols import get_protocol, protocol_names

GOLDEN = np.load(pathlib.Path(__file__).parent / "data/golden/metrics_avss.npz")
CASES = [str(case) for case in GOLDEN["cases"]]
NUM_CLASSES = 71
VALUES = (
    "iou_sum",
    "fscore_sum",
    "class_count",
    "miou",
    "fscore",
    "miou_nobg_drop_last",
    "fscore_nobg_drop_last",
    "miou_nobg_drop_first",
    "fscore_nobg_drop_first",
    "miou_per_class",
    "fscore_per_class",
    "num_classes_counted",
)


def unpadded(name):
    """The protocol, counting exactly the frames that it is given."""
    return get_protocol(name, count_padded_frames=False)


def scored(pred, target, *, valid=None, batches=None, clip=None):
    """The state of all frames, scored batch by batch."""
    num_frames = len(target)
    valid = np.ones(num_frames, bool) if valid is None else valid
    clip = np.arange(num_frames) // 10 if clip is None else clip
    bounds = np.cumsum([0, *(batches or [num_frames])])
    state = SemanticState.empty()
    for start, stop in itertools.pairwise(bounds):
        part = slice(start, stop)
        stats = semantic_frame_stats(pred[part], target[part], valid[part], num_classes=NUM_CLASSES)
        state = state.merge(SemanticState.from_stats(stats, clip[part], np.arange(start, stop)))
    return state


def assert_equals_stored(result, case, prefix=""):
    for name in VALUES:
        if f"{case}/{prefix}{name}" in GOLDEN or not prefix:
            stored = GOLDEN[f"{case}/{prefix}{name}"]
            np.testing.assert_allclose(getattr(result, name), stored, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", protocol_names())
@pytest.mark.parametrize("case", CASES)
def test_golden_case(case, name):
    result = scored(GOLDEN[f"{case}/pred_labels"], GOLDEN[f"{case}/target"]).compute(unpadded(name))
    assert_equals_stored(result, case)
    np.testing.assert_allclose(result.frame_miou, GOLDEN[f"{case}/frame_miou"], atol=1e-5)
    dropped = "drop_first" if name == "stepping_stones" else "drop_last"
    for value in ("miou", "fscore"):
        stored = float(GOLDEN[f"{case}/{value}_nobg_{dropped}"])
        assert getattr(result, f"{value}_nobg") == pytest.approx(stored, abs=1e-5)


def test_golden_frame_without_overlap_is_nan():
    stored = GOLDEN["no_overlap_frame_nan/frame_miou"]
    assert np.isnan(stored).any()
    result = scored(
        GOLDEN["no_overlap_frame_nan/pred_labels"], GOLDEN["no_overlap_frame_nan/target"]
    ).compute(unpadded("official"))
    np.testing.assert_array_equal(np.isnan(result.frame_miou), np.isnan(stored))


def test_golden_accumulation_over_batches():
    case = "dataset_accumulation"
    pred, target = GOLDEN[f"{case}/pred_labels"], GOLDEN[f"{case}/target"]
    sizes = GOLDEN[f"{case}/batch_sizes"].tolist()
    result = scored(pred, target, batches=sizes).compute(unpadded("official"))
    assert_equals_stored(result, case, "accumulated_")
    at_once = scored(pred, target).compute(unpadded("official"))
    assert (result.miou, result.fscore) == (at_once.miou, at_once.fscore)


def test_golden_padded_frames():
    case = "masked_temporal_frames"
    target = GOLDEN[f"{case}/target"]
    valid = GOLDEN[f"{case}/vid_temporal_mask"] > 0
    pred = GOLDEN[f"{case}/logits"].astype(np.float32).argmax(1)
    np.testing.assert_array_equal(pred, GOLDEN[f"{case}/pred_labels"])
    state = scored(pred, target, valid=valid)
    for name in ("combo", "stepping_stones"):
        result = state.compute(get_protocol(name))
        assert_equals_stored(result, case, "valid_only_")
        assert (result.num_frames, result.num_padded_frames) == (15, 0)
    for name in ("official", "avsegformer"):  # these count the empty slots
        result = state.compute(get_protocol(name))
        assert_equals_stored(result, case)
        assert (result.num_frames, result.num_padded_frames) == (15, 5)


def test_neither_batching_nor_order_changes_a_bit():
    pred, target = GOLDEN["random/pred_labels"], GOLDEN["random/target"]
    expected = scored(pred, target).compute(get_protocol())
    state = SemanticState.empty()
    for frame in np.random.default_rng(0).permutation(10).reshape(5, 2):
        stats = semantic_frame_stats(
            pred[frame], target[frame], np.ones(2, bool), num_classes=NUM_CLASSES
        )
        state = SemanticState.from_stats(stats, np.zeros(2, int), frame).merge(state)
    result = state.compute(get_protocol())
    np.testing.assert_array_equal(result.iou_sum, expected.iou_sum)
    np.testing.assert_array_equal(result.fscore_sum, expected.fscore_sum)
    assert (result.miou, result.fscore) == (expected.miou, expected.fscore)


def test_counts_equal_a_pass_per_class():
    rng = np.random.default_rng(2)
    pred, target = rng.integers(0, 13, (2, 3, 17, 19)).astype(np.uint8)
    stats = semantic_frame_stats(pred, target, np.ones(3, bool), num_classes=12)
    # Class 12 is none of 12 classes: ignored in the target, a plain miss in the prediction.
    inside = target < 12
    for c in range(12):
        for name, hit in {
            "intersection": (pred == c) & (target == c),
            "predicted": (pred == c) & inside,
            "target": target == c,
        }.items():
            np.testing.assert_array_equal(stats[name][:, c], hit.sum((1, 2)), err_msg=name)


def test_a_class_that_is_only_predicted_lowers_its_mean():
    target = np.zeros((2, 4, 4), np.uint8)
    target[0, :2] = 5
    pred = np.stack([target[0], target[0]])
    result = scored(pred, target).compute(unpadded("official"))
    assert result.class_count[5] == 2
    assert result.miou_per_class[5] == pytest.approx(0.5)
    assert result.fscore_per_class[5] == pytest.approx(0.5)


def test_fscore_weighs_precision_as_the_formula_says():
    counts = {
        "intersection": np.array([[30]]),
        "predicted": np.array([[40]]),
        "target": np.array([[100]]),
    }
    precision, recall = 30 / 40, 30 / 100
    iou, fscore, occurs = frame_class_scores(counts)
    assert fscore[0, 0] == pytest.approx(1.3 * precision * recall / (0.3 * precision + recall))
    assert iou[0, 0] == pytest.approx(30 / 110)
    assert occurs.all()


def test_a_frame_scored_twice_is_refused():
    state = scored(GOLDEN["perfect/pred_labels"], GOLDEN["perfect/target"])
    with pytest.raises(ValueError, match="10 frames were scored twice"):
        state.merge(state).compute(get_protocol())


def test_nothing_scored_is_said_to_the_user():
    with pytest.raises(UserError, match="no annotated frame"):
        SemanticState.empty().compute(get_protocol())
