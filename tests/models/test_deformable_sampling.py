"""Sampling of deformable attention: all ways against a plain loop."""

import jax
import numpy as np
import pytest

from ssp_jax.models.deformable_sampling import (
    SAMPLERS,
    sample_by_gather,
    sample_by_map,
    sample_fused,
)

SIZES = ((2, 3), (4, 5))
TOKENS = 26


def example(seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 2, TOKENS, 3)).astype(np.float32)
    # Inside, across the border and far outside.
    points = rng.uniform(-3, 7, size=(2, 2, 6, 2, 4, 2)).astype(np.float32)
    weights = rng.uniform(size=(2, 2, 6, 2, 4)).astype(np.float32)
    return values, points, weights


def by_loop(values, points, weights):
    result = np.zeros((*points.shape[:3], values.shape[-1]))
    for n, head, query, level, point in np.ndindex(points.shape[:5]):
        height, width = SIZES[level]
        start = sum(h * w for h, w in SIZES[:level])
        x, y = points[n, head, query, level, point]
        for row in range(height):
            for column in range(width):
                share = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
                result[n, head, query] += (
                    share
                    * weights[n, head, query, level, point]
                    * values[n, head, start + row * width + column]
                )
    return result


@pytest.mark.parametrize("sample", SAMPLERS.values())
def test_samples(sample):
    inputs = example()
    np.testing.assert_allclose(sample(SIZES, *inputs), by_loop(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sample", [sample_by_map, sample_fused])
def test_gradients_are_those_of_the_gather(sample):
    inputs = example(1)

    def gradients(sample):
        def loss(*inputs):
            return jax.numpy.sin(sample(SIZES, *inputs)).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)

    for ours, reference in zip(gradients(sample), gradients(sample_by_gather), strict=True):
        assert np.abs(np.asarray(reference)).max() > 0.1
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)
