"""Sampling of deformable attention: all ways against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.models import deformable_sampling
from ssp_jax.models.deformable_sampling import SAMPLERS, sample

SIZES = ((2, 3), (4, 5))
TOKENS = 26


def example(seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 2, TOKENS, 3)).astype(np.float32)
    # Inside, across the border and far outside.
    points = rng.uniform(-3, 7, size=(2, 2, 2, 4, 2, 6)).astype(np.float32)
    weights = rng.uniform(size=(2, 2, 2, 4, 6)).astype(np.float32)
    return values, points, weights


def by_loop(values, points, weights):
    result = np.zeros((*points.shape[:2], points.shape[-1], values.shape[-1]))
    for n, head, level, point, query in np.ndindex(weights.shape):
        height, width = SIZES[level]
        start = sum(h * w for h, w in SIZES[:level])
        x, y = points[n, head, level, point, :, query]
        for row in range(height):
            for column in range(width):
                share = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
                result[n, head, query] += (
                    share
                    * weights[n, head, level, point, query]
                    * values[n, head, start + row * width + column]
                )
    return result


@pytest.mark.parametrize("way", SAMPLERS)
def test_samples(way):
    inputs = example()
    np.testing.assert_allclose(sample(way, SIZES, *inputs), by_loop(*inputs), rtol=1e-4, atol=1e-5)


def gradients(way, inputs):
    def loss(*inputs):
        return jnp.sin(sample(way, SIZES, *inputs)).sum()

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)


@pytest.mark.parametrize("way", SAMPLERS)
def test_gradients_are_those_of_the_plain_formula(way):
    inputs = example(1)

    def loss(values, points, weights):
        shares, tokens = deformable_sampling._corners(SIZES, points, weights)
        corners = zip(tokens, shares, strict=True)
        n, heads = np.ogrid[:2, :2]
        read = (
            (share, values[n[..., None, None, None], heads[..., None, None, None], token])
            for token, share in corners
        )
        return jnp.sin(sum((share[..., None] * rows).sum((2, 3)) for share, rows in read)).sum()

    reference = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)
    for ours, theirs in zip(gradients(way, inputs), reference, strict=True):
        assert np.abs(np.asarray(theirs)).max() > 0.1
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_maps_in_blocks_are_those_of_all_queries(monkeypatch):
    inputs = example(2)
    whole = sample("map", SIZES, *inputs), gradients("map", inputs)
    monkeypatch.setattr(deformable_sampling, "MAP_TOKENS", 4)
    jax.clear_caches()
    blocks = sample("map", SIZES, *inputs), gradients("map", inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, blocks)
