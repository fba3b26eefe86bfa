import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.errors import UserError
from ssp_jax.losses.targets import MaskTargets, targets_from_labels


def areas(*sizes):
    """A 4 x 4 label map with `sizes` = (class, pixels) in turn, 0 elsewhere."""
    flat = np.zeros(16, np.uint8)
    start = 0
    for label, size in sizes:
        flat[start : start + size] = label
        start += size
    return flat.reshape(4, 4)


def test_classes_are_ascending_and_padded():
    labels = jnp.asarray([areas((9, 3), (4, 2)), areas(), areas((2, 16)), areas((5, 4))])
    annotated = jnp.asarray([True, True, True, False])
    found = targets_from_labels(labels, annotated, num_classes=71, max_targets=4)
    expected = [[0, 4, 9, -1], [0, -1, -1, -1], [2, -1, -1, -1], [-1, -1, -1, -1]]
    np.testing.assert_array_equal(found.class_labels, expected)
    assert found.dropped == 0


def test_the_largest_are_kept_and_the_others_counted():
    labels = jnp.asarray([areas((1, 1), (2, 4), (3, 2), (4, 3)), areas((7, 2), (3, 2), (5, 2))])
    found = targets_from_labels(labels, jnp.ones(2, bool), num_classes=71, max_targets=3)
    np.testing.assert_array_equal(found.class_labels, [[0, 2, 4], [0, 3, 5]])
    assert found.dropped == 3


def test_binary_joins_all_classes():
    labels = jnp.asarray([areas((9, 3), (4, 2)), areas((255, 16)), areas()])
    found = targets_from_labels(labels, jnp.ones(3, bool), num_classes=2, max_targets=5)
    np.testing.assert_array_equal(found.class_labels, [[0, 1], [1, -1], [0, -1]])
    np.testing.assert_array_equal(found.labels, np.asarray(labels) > 0)


def test_label_maps_and_masks_give_the_same_samples():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 3, 8], (2, 6, 6)).astype(np.uint8)
    found = targets_from_labels(
        jnp.asarray(labels), jnp.ones(2, bool), num_classes=9, max_targets=3
    )
    masks = (labels[:, None] == np.array([0, 3, 8])[:, None, None]).astype(np.float32)
    explicit = MaskTargets(jnp.asarray(masks), found.class_labels, found.annotated, found.dropped)
    shared = jnp.asarray(rng.random((2, 20, 2), np.float32))
    at_shared_points = jax.jit(lambda aims: aims.at_shared_points(shared))
    np.testing.assert_allclose(at_shared_points(found), at_shared_points(explicit), atol=1e-6)
    order = jnp.asarray([[[2, 0, 1]] * 4, [[0, 2, 1]] * 4])
    own = jnp.asarray(rng.random((2, 4, 3, 20, 2), np.float32))
    at_own_points = jax.jit(lambda aims: aims.at_own_points(order, own))
    sampled = at_own_points(found)
    np.testing.assert_allclose(sampled, at_own_points(explicit), atol=1e-6)
    assert sampled.shape == (2, 4, 3, 20)
    assert sampled.std() > 0.1


@pytest.mark.parametrize(
    ("num_classes", "max_targets", "message"),
    [(1, 2, "num_classes = 1"), (256, 2, "num_classes = 256"), (71, 0, "max_targets = 0")],
)
def test_impossible_settings_are_named(num_classes, max_targets, message):
    with pytest.raises(UserError, match=message):
        targets_from_labels(
            jnp.zeros((1, 4, 4), jnp.uint8),
            jnp.ones(1, bool),
            num_classes=num_classes,
            max_targets=max_targets,
        )
