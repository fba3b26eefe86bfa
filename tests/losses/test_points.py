import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.losses import points

sample_masks = jax.jit(points.sample_masks)
sample_shared = jax.jit(points.sample_masks_at_shared_points)
sample_classes = jax.jit(points.sample_classes)
least = jax.jit(points.least, static_argnums=1)
MAP = jnp.asarray([[1.0, 2.0, 3.0], [5.0, 7.0, 11.0]])  # 2 high, 3 wide


@pytest.mark.parametrize(
    ("x", "y", "value"),
    [
        (0.5, 0.25, 2.0),  # the centre of a pixel
        (2 / 6 + 1 / 6, 0.5, (2.0 + 7.0) / 2),  # between two rows
        (2 / 6, 0.25, (1.0 + 2.0) / 2),  # between two columns
        (2 / 6, 0.5, (1 + 2 + 5 + 7) / 4),
        (0.0, 0.25, 0.5),  # on the border, half of the neighbourhood is outside and counts as 0
        (1.0, 1.0, 11 / 4),
    ],
)
def test_samples_are_bilinear_with_zeros_outside(x, y, value):
    at = jnp.asarray([[x, y]])
    np.testing.assert_allclose(sample_masks(MAP, at), [value], rtol=1e-6)
    shared = sample_shared(jnp.stack([MAP, 2 * MAP]), at)
    np.testing.assert_allclose(shared, [[value], [2 * value]], rtol=1e-6)


def test_the_gradient_is_the_corner_weights():
    at = jnp.asarray([[0.5, 0.25], [2 / 6, 0.5]])
    grad = jax.grad(lambda m: sample_masks(m, at).sum())(MAP)
    np.testing.assert_allclose(grad, [[0.25, 1.25, 0], [0.25, 0.25, 0]], atol=1e-6)


def test_classes_are_sampled_as_their_one_hot_masks():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (2, 9, 7)).astype(np.uint8)
    classes = np.asarray([[0, 3, -1], [1, 2, 3]])
    at = rng.random((2, 3, 50, 2), np.float32)
    masks = (labels[:, None] == classes[..., None, None]).astype(np.float32)
    np.testing.assert_allclose(
        sample_classes(labels, classes, at), sample_masks(masks, at), atol=1e-6
    )
    np.testing.assert_allclose(
        sample_classes(labels, classes, at[:, :1]),
        sample_shared(masks, at[:, 0]),
        atol=1e-6,
    )


@pytest.mark.parametrize("count", [0, 1, 37, 200])
def test_least_is_the_set_that_top_k_finds(count):
    values = np.abs(np.random.default_rng(0).normal(size=(3, 2, 200))).astype(np.float32)
    found = least(values, count)
    expected = jnp.sort(jax.lax.top_k(-values, count)[1], axis=-1)
    np.testing.assert_array_equal(found, expected)


def test_least_takes_the_first_of_equal_values_and_none_that_is_larger():
    values = jnp.asarray([[2.0, 1.0, 1.0, 0.0, 1.0, 5.0, 0.0, jnp.inf]])
    np.testing.assert_array_equal(least(values, 4), [[1, 2, 3, 6]])
    np.testing.assert_array_equal(least(values, 2), [[3, 6]])
    np.testing.assert_array_equal(least(jnp.zeros((1, 5)), 3), [[0, 1, 2]])
