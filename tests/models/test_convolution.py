"""3x3 convolutions and their gradients, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssp_jax.models import convolution
from ssp_jax.models.convolution import Conv3x3


@pytest.mark.parametrize(
    ("frames", "source", "target", "bias"), [(1, 1, 4, True), (3, 5, 2, False)]
)
def test_gradients_are_those_of_jax(frames, source, target, bias):
    initial = nnx.initializers.he_normal()
    ours = Conv3x3(source, target, use_bias=bias, kernel_init=initial, rngs=nnx.Rngs(0))
    theirs = nnx.Conv(source, target, (3, 3), use_bias=bias, kernel_init=initial, rngs=nnx.Rngs(0))
    inputs = jax.random.normal(jax.random.key(0), (frames, 7, 4, source))
    weights = jax.random.normal(jax.random.key(1), (frames, 7, 4, target))

    def gradients(module):
        def run(params, inputs):
            return (nnx.merge(graphdef, params)(inputs) * weights).sum()

        graphdef, params = nnx.split(module)
        whole = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(params, inputs)
        # As in the loop over a batch's parts.
        loop = jax.jit(lambda: jax.lax.map(lambda x: jax.grad(run)(params, x), inputs[None]))()
        return whole, jax.tree.map(lambda x: x[0], loop)

    for one, other in zip(*map(jax.tree.leaves, map(gradients, (ours, theirs))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert jnp.shape(ours(inputs)) == (frames, 7, 4, target)


def test_the_kernels_gradient_is_the_same_on_other_backends():
    # Which of the two is run is the backend's; here neither is left to it.
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    gradient = jax.random.normal(jax.random.key(1), (2, 6, 5, 4))
    one = convolution._of_kernel(inputs, gradient)
    assert one.shape == (3, 3, 3, 4)
    other = convolution._of_kernel_by_products(inputs, gradient)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
