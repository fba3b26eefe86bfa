"""GELU against SciPy's erf, value and derivative."""

import jax
import numpy as np
import scipy.stats

from ssp_jax.models.activations import gelu


def test_exact_gelu():
    x = np.linspace(-12, 12, 4801)
    share = scipy.stats.norm.cdf(x)
    values = jax.jit(lambda x: gelu(x, "exact"))(x.astype(np.float32))
    slope = jax.jit(jax.vmap(jax.grad(lambda x: gelu(x, "exact"))))(x.astype(np.float32))
    np.testing.assert_allclose(values, x * share, rtol=0, atol=2e-6)
    np.testing.assert_allclose(slope, share + x * scipy.stats.norm.pdf(x), rtol=0, atol=2e-6)
    assert gelu(np.float32(-1), "tanh") != gelu(np.float32(-1), "exact")
