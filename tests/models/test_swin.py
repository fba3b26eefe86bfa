"""Swin's windows, as each platform makes them."""

import jax
import numpy as np
import pytest
from flax import nnx

from ssp_jax.models import swin

CHANNELS, WINDOW = 8, 4


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (7, 5)])
@pytest.mark.parametrize("most_tokens", [0, 1000])
def test_a_tpu_attends_within_the_same_windows(shift, size, most_tokens, monkeypatch):
    monkeypatch.setattr(swin, "_PRODUCT_TOKENS", most_tokens)
    block = swin.SwinBlock(
        CHANNELS,
        2,
        window=WINDOW,
        shift=shift,
        gelu="exact",
        adapters=True,
        rngs=nnx.Rngs(0),
    )
    rng = np.random.default_rng(0)
    graphdef, params = nnx.split(block)
    params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), params)
    x, aim = rng.normal(size=(2, 2, *size, CHANNELS)).astype(np.float32)

    def attended(way):
        def aimed(params, x):
            found = getattr(nnx.merge(graphdef, params), way)(x)
            return (found * aim).sum(), found

        return jax.jit(jax.value_and_grad(aimed, argnums=(0, 1), has_aux=True))(params, x)

    (_, ours), ours_back = attended("_attend_by_products")
    (_, theirs), theirs_back = attended("_attend_by_moves")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(ours_back), jax.tree.leaves(theirs_back), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))
