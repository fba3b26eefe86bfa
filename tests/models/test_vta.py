"""Alignment with texts: shapes, what it reads, and where it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssp_jax.batch import fake_batch
from ssp_jax.models.vta import VTA

BERT = {"vocabulary": 20, "max_length": 12, "width": 16, "layers": 1, "heads": 2, "ffn": 16}
VARIANTS = ("joint", "qformer", "cross_attention")


def example(variant, num_maps=2):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(3, s, s, 8)).astype(np.float32) for s in (12, 4)[:num_maps]]
    visual = rng.normal(size=(3, 4, 5, 4)).astype(np.float32)
    prompts = fake_batch(3, text_length=12).prompts()
    texts = [np.array(prompts[name]) for name in ("text_ids", "text_types", "text_mask")]
    vta = VTA(8, num_maps, 4, variant=variant, bert=BERT, rngs=nnx.Rngs(0))
    # It starts without an effect: give it one.
    for name in ("align_1", "align_2"):
        if hasattr(vta, name):
            kernel = getattr(vta, name).kernel
            kernel[...] = jnp.asarray(rng.normal(size=kernel.shape), jnp.float32)
    return vta, maps, visual, texts


def run(vta, maps, visual, texts):
    graphdef, params = nnx.split(vta)
    call = jax.jit(lambda params, *args: nnx.merge(graphdef, params)(*args))
    return call(params, maps, visual, *texts)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reads_texts_and_image_but_no_padding(variant):
    vta, maps, visual, texts = example(variant)
    results, aligned = run(vta, maps, visual, texts)
    assert [x.shape for x in results] == [x.shape for x in maps]
    grids = ["align_1"] if variant == "cross_attention" else ["align_1", "align_2"]
    grid = (3, 1, 1, 8) if variant == "qformer" else (3, 4, 5, 8)
    shapes = {name: x.shape for name, x in aligned.items()}
    assert shapes == dict.fromkeys(grids, grid) | {"text": (3, 16)}

    def changed(visual=visual, texts=texts):
        others, _ = run(vta, maps, visual, texts)
        return [float(np.abs(a - b).max()) for a, b in zip(results, others, strict=True)]

    ids, types, mask = texts
    assert min(changed(texts=[np.where(mask, ids % 19 + 1, ids), types, mask])) > 1e-3
    assert min(changed(texts=[ids, 1 - types, mask])) > 1e-3
    assert min(changed(visual=visual[:, ::-1])) > 1e-4
    assert max(changed(texts=[np.where(mask, ids, 3), types, mask])) == 0
    # Texts of one frame do not reach another.
    other = ids.copy()
    other[0] = 7
    moved, _ = run(vta, maps, visual, [other, types, mask])
    assert np.abs(moved[0][0] - results[0][0]).max() > 1e-3
    np.testing.assert_array_equal(moved[0][1:], results[0][1:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_begins_as_a_layer_norm_and_learns_at_once(variant):
    _, maps, visual, texts = example(variant, 1)
    vta = VTA(8, 1, 4, variant=variant, bert=BERT, rngs=nnx.Rngs(1))
    (result,), _ = run(vta, maps, visual, texts)
    mean, deviation = maps[0].mean(-1, keepdims=True), maps[0].std(-1, keepdims=True)
    np.testing.assert_allclose(result, (maps[0] - mean) / deviation, atol=1e-3)
    graphdef, params = nnx.split(vta)
    vta.norm = "added"
    (same,), _ = run(vta, maps, visual, texts)
    np.testing.assert_allclose(same, maps[0], atol=1e-6)
    grads = jax.jit(
        jax.grad(lambda p: (nnx.merge(graphdef, p)(maps, visual, *texts)[0][0] ** 3).sum())
    )(params)
    assert np.any(grads["align_1"]["kernel"][...])


def test_an_unknown_variant():
    with pytest.raises(ValueError, match="joint"):
        VTA(8, 1, 4, variant="bert", bert=BERT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="vta_norm: 'all' or 'added'"):
        VTA(8, 1, 4, variant="joint", norm="none", bert=BERT, rngs=nnx.Rngs(0))
