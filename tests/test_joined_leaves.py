"""Small leaves in one array, and leaves that stay by themselves."""

import jax
import jax.numpy as jnp
import numpy as np

from ssp_jax.joined_leaves import ALONE, join_small

SHAPES = {
    "network/encoder/a/scale": (3,),
    "network/decoder/kernel": (2, 4),
    "network/encoder/b/bias": (5,),
    "network/encoder/large": (128, 128),
    "queries": (2, 2),
    "other": (7,),
}
KINDS = {name: "plain" for name in SHAPES if name != "other"}


def arrays():
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()}


def test_what_was_joined_is_split_as_it_was():
    joined = join_small(jax.eval_shape(arrays), KINDS)
    leaves = arrays()
    together = joined.join(leaves)
    assert {name: x.shape for name, x in together.items()} == {
        "plain": (3 + 8 + 5 + 4,),
        "network/encoder/large": (128, 128),
        "other": (7,),
    }
    again = joined.split(together)
    assert again.keys() == leaves.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(again[name], leaf)


def test_modules_get_all_of_theirs():
    joined = join_small(jax.eval_shape(arrays), KINDS)
    leaves = arrays()
    parts = joined.parts(joined.join(leaves))
    squares = {module: sum((x**2).sum() for x in found) for module, found in parts.items()}
    alone = ALONE.parts(leaves)
    assert (
        squares.keys() == alone.keys() == {"network/encoder", "network/decoder", "queries", "other"}
    )
    for module, found in alone.items():
        np.testing.assert_allclose(squares[module], sum((x**2).sum() for x in found), rtol=1e-5)
