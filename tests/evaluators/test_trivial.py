"""The trivial predictors and what the metrics make of them."""

import numpy as np
import pytest

from ssp_jax.evaluators.trivial import (
    TRIVIAL_NAMES,
    binary_scores,
    most_frequent_class,
    trivial_predictions,
)
from ssp_jax.metrics_binary import BinaryState, binary_frame_stats
from ssp_jax.metrics_semantic import SemanticState, semantic_frame_stats
from ssp_jax.protocols import get_protocol, protocol_names


def scene():
    """One frame, 4 x 6: class 3 moves and sounds, 2 stands and sounds, 5 moves silently."""
    objects = np.zeros((1, 4, 6), np.uint8)
    objects[0, 0], objects[0, 1], objects[0, 2] = 3, 2, 5
    moving = np.isin(objects, [3, 5]).astype(np.uint8)
    labels = np.where(np.isin(objects, [3, 2]), objects, 0)
    return objects, moving, labels


def test_semantic_label_maps():
    objects, moving, _ = scene()
    maps = trivial_predictions(objects, moving, num_classes=6, frequent_class=2)
    assert tuple(maps) == TRIVIAL_NAMES
    expected = {
        "nothing": [0, 0, 0, 0],
        "everything": [2, 2, 2, 2],
        "moving": [3, 0, 5, 0],
        "visible": [3, 2, 5, 0],
    }
    for name, rows in expected.items():
        assert maps[name].dtype == np.uint8
        np.testing.assert_array_equal(maps[name][0, :, 0], rows)


@pytest.mark.parametrize("protocol_name", protocol_names())
def test_binary_scores_by_every_protocol(protocol_name):
    objects, moving, labels = scene()
    protocol = get_protocol(protocol_name)
    maps = trivial_predictions(objects, moving, num_classes=2)
    found = {}
    for name, prediction in maps.items():
        stats = binary_frame_stats(
            binary_scores(prediction), labels, np.ones(1, bool), rule=protocol.score_rule
        )
        found[name] = BinaryState.from_stats(stats, np.zeros(1), np.zeros(1)).compute(protocol).miou
    expected = {"nothing": 0, "everything": 1 / 2, "moving": 1 / 3, "visible": 2 / 3}
    assert found == pytest.approx(expected, abs=1e-6)


def test_semantic_scores():
    objects, moving, labels = scene()
    protocol = get_protocol(count_padded_frames=False)
    found = {}
    for name, prediction in trivial_predictions(objects, moving, num_classes=6).items():
        stats = semantic_frame_stats(prediction, labels, np.ones(1, bool), num_classes=6)
        state = SemanticState.from_stats(stats, np.zeros(1), np.zeros(1))
        found[name] = state.compute(protocol).iou_sum
    # background, class 1, 2, 3, 4, 5
    np.testing.assert_allclose(found["nothing"], [1 / 2, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(found["everything"], [0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(found["moving"], [1 / 3, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(found["visible"], [1 / 2, 0, 1, 1, 0, 0])


def test_most_frequent_class_ignores_background():
    objects, _, labels = scene()
    objects[0, 3, :2] = 5
    assert most_frequent_class([labels, objects], num_classes=6) == 2
    assert most_frequent_class([objects], num_classes=6) == 5
    assert most_frequent_class([np.zeros((2, 2), np.uint8)], num_classes=6) == 1


@pytest.mark.parametrize(
    ("num_classes", "frequent_class", "message"),
    [(6, 0, "foreground"), (6, 6, "foreground"), (4, 1, "object class 5")],
)
def test_unknown_classes_are_refused(num_classes, frequent_class, message):
    objects, moving, _ = scene()
    with pytest.raises(ValueError, match=message):
        trivial_predictions(objects, moving, num_classes=num_classes, frequent_class=frequent_class)
