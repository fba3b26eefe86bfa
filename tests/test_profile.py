"""What `benchmarks.profile` reads from a compiled program, on one small enough to know."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks.compiled_text import Program
from benchmarks.profile import origins
from ssp_jax.models.swin import PatchMerging


@pytest.fixture(scope="module")
def program():
    graphdef, params = nnx.split(PatchMerging(8, rngs=nnx.Rngs(0)))

    def loss(params, maps):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(maps)))

    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", -1)
    compiled = jax.jit(jax.grad(loss)).lower(params, jnp.ones((2, 8, 8, 8))).compile()
    jax.config.update("jax_traceback_in_locations_limit", limit)
    return origins(Program(compiled.as_text()))


def test_products_come_from_the_dense_layer_of_swin(program):
    products = [origin for origin, is_product in program.values() if is_product]
    # Forward to the sine's derivative, and the gradients of kernel and inputs.
    assert len(products) >= 2
    assert set(products) == {("Swin, dense layers", "linear: Linear.__call__")}


def test_what_is_not_ours_has_no_origin(program):
    others = {origin for origin, is_product in program.values() if not is_product}
    assert ("no line of ours", "") in others
    assert ("Swin, rest", "swin: PatchMerging.__call__") in others
