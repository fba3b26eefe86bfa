"""Pixels compared with the sound and with words: what decides, and what adds nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssp_jax.models.audio_visual_map import AudioVisualMap, TextVisualMap
from ssp_jax.models.vta import VTA


def compared(words, counted, width=4):
    """A text-visual map whose projections are the identity, of pixels along the axes."""
    network = TextVisualMap(width, width, width, rngs=nnx.Rngs(0))
    for layer in (network.pixels, network.words):
        layer.kernel[...], layer.bias[...] = jnp.eye(width), jnp.zeros(width)
    pixels = jnp.eye(width)[None, None]  # 1 x 4: pixel i shows thing i
    return network, network(pixels, jnp.asarray(words)[None], jnp.asarray(counted)[None])[0, 0]


def test_the_closest_word_that_counts_decides():
    things = np.eye(4, dtype=np.float32)
    words = things[[0, 2, 3]]
    network, logits = compared(words, [True, True, False])
    bias = float(network.bias[...])
    # 10 for the word that fits, 0 for the one that does not; thing 3's word does not count.
    fits, neither = bias + np.logaddexp(10, 0), bias + np.log(2)
    np.testing.assert_allclose(logits, [fits, neither, fits, neither], rtol=1e-5)


def test_no_words_add_nothing_and_have_finite_gradients():
    network = TextVisualMap(3, 5, 4, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(network)
    rng = np.random.default_rng(0)
    pixels, words = rng.normal(size=(2, 3, 3, 3)), rng.normal(size=(2, 6, 5))
    counted = np.zeros((2, 6), bool)
    counted[1, 2:4] = True

    def logits(params):
        return nnx.merge(graphdef, params)(pixels, words, counted)

    assert not np.any(logits(params)[0])
    assert np.all(logits(params)[1])
    gradients = jax.grad(lambda params: logits(params).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_words_are_those_of_a2_without_padding():
    bert = {"vocabulary": 20, "max_length": 6, "width": 8, "layers": 1, "heads": 2, "ffn": 8}
    vta = VTA(8, 1, 4, variant="joint", bert=bert, rngs=nnx.Rngs(0))
    # [CLS] a [SEP] b [SEP] pad, and the same clip without A2.
    ids = np.array([[2, 7, 3, 8, 3, 0], [2, 7, 3, 3, 0, 0]])
    types = np.array([[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0]])
    _, counted = vta.words(ids, types, ids > 0)
    assert counted.tolist() == [[False] * 3 + [True] * 2 + [False], [False] * 6]


@pytest.mark.parametrize("named", [False, True])
def test_logits_are_those_that_the_loss_computes(named):
    network = AudioVisualMap(3, 4, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    pixels, sound = rng.normal(size=(2, 5, 5, 3)), rng.normal(size=(2, 3))
    texts = rng.normal(size=(2, 5, 5)) if named else None
    found = network(pixels, sound, texts)
    cosine = np.einsum("nhwd,nd->nhw", found["pixels"], found["sound"])
    np.testing.assert_allclose(found["logits"], found["scale"] * cosine + found["bias"], atol=1e-5)
    alone = network(pixels, sound)["logits"]
    np.testing.assert_allclose(found["logits"] - alone, texts if named else 0, atol=1e-5)
