"""What words say of classes: nothing at first, then each word that counts its own share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssp_jax.models.text_classes import TextClasses

WORDS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
COUNTED = np.array([[True, False, True], [False, False, False]])


def test_counted_words_add_up_and_background_and_no_object_get_nothing():
    network = TextClasses(4, 6, rngs=nnx.Rngs(0))
    assert not np.any(network(WORDS, COUNTED))
    kernel = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    network.words.kernel[...] = kernel
    said = network(WORDS, COUNTED)
    assert said.shape == (2, 1, 7)
    np.testing.assert_allclose(said[0, 0, 1:6], (WORDS[0, 0] + WORDS[0, 2]) @ kernel, rtol=1e-5)
    assert not np.any(said[0, 0, [0, 6]])
    assert not np.any(said[1])


def test_it_learns_which_word_names_which_class():
    graphdef, params = nnx.split(TextClasses(4, 4, rngs=nnx.Rngs(0)))
    words = jnp.eye(4)[None].repeat(3, 0)  # of four words, clip i has word i and the last
    counted = np.eye(3, 4, dtype=bool) | (np.arange(4) == 3)

    @jax.jit
    def step(params):
        def loss(params):
            logits = nnx.merge(graphdef, params)(words, counted)[:, 0, 1:4]
            return (jax.nn.softplus(logits) - logits * np.eye(3)).mean(), logits

        (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 10 * g, params, gradient), logits

    for _ in range(100):
        params, logits = step(params)
    assert (np.sign(logits) == 2 * np.eye(3) - 1).all()
