"""The two ways of softmax attention: one result, and the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.models import attention

FRAMES, WINDOWS, HEADS, QUERIES, KEYS, CHANNELS = 2, 3, 2, 5, 7, 8
# As in windows, in shifted windows, and with the keys that a query of a frame may not read.
BIASES = {
    "none": None,
    "heads": (HEADS, QUERIES, KEYS),
    "windows": (WINDOWS, HEADS, QUERIES, KEYS),
    "frames": (FRAMES, 1, 1, QUERIES, KEYS),
}


def inputs(shape, dtype):
    rng = np.random.default_rng(0)
    lead = FRAMES, WINDOWS, HEADS
    arrays = [rng.normal(size=(*lead, n, CHANNELS)) for n in (QUERIES, KEYS, KEYS)]
    bias = None if shape is None else jnp.asarray(rng.normal(size=shape), jnp.float32)
    weight = jnp.asarray(rng.normal(size=arrays[0].shape), jnp.float32)
    return [jnp.asarray(x, dtype) for x in arrays], bias, weight


def value_and_gradients(way, arrays, bias, weight):
    def loss(arrays, bias):
        lead = bias if bias is None else jnp.expand_dims(bias, range(5 - bias.ndim))
        return (way(*arrays, lead).astype(jnp.float32) * weight).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(arrays, bias)


@pytest.mark.parametrize("shape", BIASES.values(), ids=BIASES)
def test_a_gpu_computes_the_same(shape):
    given = inputs(shape, jnp.float32)
    ours = value_and_gradients(attention._shares, *given)
    theirs = value_and_gradients(attention._divide_last, *given)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * max(1, np.abs(b).max()))


def test_it_loses_no_more_to_bfloat16():
    exact = value_and_gradients(attention._divide_last, *inputs(BIASES["heads"], jnp.float32))
    given = inputs(BIASES["heads"], jnp.bfloat16)

    def errors(way):
        found = value_and_gradients(way, *given)
        return [
            np.sqrt(np.mean(np.square(np.asarray(a, np.float32) - np.asarray(b))))
            for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(exact[1]), strict=True)
        ]

    ours, theirs = errors(attention._shares), errors(attention._divide_last)
    assert (np.array(ours) < 1.5 * np.array(theirs)).all()


def test_queries_that_read_nothing_but_one_key_get_its_value():
    (query, key, value), _, _ = inputs(None, jnp.float32)
    bias = jnp.full((FRAMES, 1, 1, QUERIES, KEYS), attention._BLOCKED).at[..., 2].set(0)
    for way in (attention._shares, attention._divide_last):
        np.testing.assert_allclose(
            way(query, key, value, bias),
            np.broadcast_to(value[:, :, :, 2:3], query.shape),
            rtol=1e-6,
        )
