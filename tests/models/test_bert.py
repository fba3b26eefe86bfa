"""Bert: masks, mixed inputs, the two passes of VTA, gradients and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssp_jax.models.bert import Bert
from ssp_jax.weights.shapes import abstract, param_shapes

SIZES = {"vocabulary": 40, "max_length": 12, "width": 16, "layers": 1, "heads": 2, "ffn": 24}
QFORMER = {"num_queries": 4, "cross_width": 10, "token_types": 0}
RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 40, (2, 7)).astype(np.int32)
TYPES = (np.arange(7) >= 4).astype(np.int32)[None].repeat(2, 0)
VECTORS = RANDOM.normal(size=(2, 5, 16)).astype(np.float32)
IMAGE = RANDOM.normal(size=(2, 9, 10)).astype(np.float32)


def bert(**options):
    """Structure and random parameters, in which every part does something."""
    made = abstract(lambda rngs: Bert(**(SIZES | options), rngs=rngs))
    graphdef, shapes = nnx.split(made, nnx.Param)
    random = np.random.default_rng(1)

    def fill(path, leaf):
        unit = path[-1].key == "scale"
        return (unit + random.normal(0, 0.3, leaf.shape)).astype(np.float32)

    return graphdef, jax.tree_util.tree_map_with_path(fill, nnx.to_pure_dict(shapes))


def computed(compute, model):
    """compute(module), in one program."""
    graphdef, params = model
    return jax.jit(lambda params: compute(nnx.merge(graphdef, params)))(params)


def test_call_is_embedding_and_encoding():
    mask = np.ones((2, 12), bool)
    mask[0, 9:] = False

    def both(model):
        text = model.embed_text(IDS, TYPES)
        tokens = jnp.concatenate([model.embedding_norm(VECTORS), text], axis=1)
        return {
            "mixed": (model(IDS, TYPES, vectors=VECTORS, mask=mask), model.encode(tokens, mask)),
            "text": (model(IDS, TYPES), model.encode(text)),
            "vectors": (model(vectors=VECTORS), model.encode(model.embedding_norm(VECTORS))),
            "no types": (model.embed_text(IDS), model.embed_text(IDS, np.zeros_like(IDS))),
            "types": (text, model.embed_text(IDS)),
        }

    found = computed(both, bert())
    assert found["mixed"][0].shape == (2, 12, 16)
    ours, theirs = found.pop("types")
    assert not np.allclose(ours, theirs, atol=1e-3)
    for name, (ours, theirs) in found.items():
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)


def test_masked_tokens_change_nothing_else():
    mask = np.ones((2, 7), bool)
    mask[:, 5:] = False
    changed = np.where(mask, IDS, (IDS + 1) % 40)

    def run(model):
        inputs = ((IDS, mask), (changed, mask), (IDS[:, :5], None), (changed, None))
        return [model(ids, mask=open_)[:, :5] for ids, open_ in inputs]

    masked, *same, unmasked = computed(run, bert(layers=2))
    for other in same:
        np.testing.assert_allclose(masked, other, atol=1e-5)
    assert not np.allclose(masked, unmasked, atol=1e-3)
    nothing = computed(lambda model: model(IDS, mask=np.zeros((2, 7), bool)), bert())
    assert np.isfinite(nothing).all()


def test_vectors_have_no_positions():
    order = [3, 1, 4, 0, 2]
    ours, theirs = computed(
        lambda model: [model(IDS, vectors=v) for v in (VECTORS, VECTORS[:, order])], bert()
    )
    np.testing.assert_allclose(ours[:, order], theirs[:, :5], atol=1e-5)
    np.testing.assert_allclose(ours[:, 5:], theirs[:, 5:], atol=1e-5)


def test_queries_alone_see_the_states():
    hidden = np.ones((2, 9), bool)
    hidden[:, 4:] = False

    def run(model):
        tokens = jnp.concatenate([model.embed_queries(2), model.embed_text(IDS)], axis=1)

        def encoded(**options):
            return model.encode(tokens, num_queries=4, **options)

        raw = jnp.broadcast_to(model.query_embedding[...], (2, 4, 16))
        return {
            "image": encoded(cross=IMAGE),
            "called": model(IDS, vectors=raw, cross=IMAGE),
            "another": encoded(cross=IMAGE[::-1]),
            "none": encoded(),
            "masked": encoded(cross=IMAGE, cross_mask=hidden),
            "cut": encoded(cross=IMAGE[:, :4]),
        }

    found = computed(run, bert(**QFORMER))
    np.testing.assert_allclose(found["called"], found["image"], atol=1e-5)
    np.testing.assert_allclose(found["masked"], found["cut"], atol=1e-5)
    for other in ("another", "none", "masked"):
        # In a single layer the text has not read what the queries saw.
        np.testing.assert_allclose(found["image"][:, 4:], found[other][:, 4:], atol=1e-5)
        assert not np.allclose(found["image"][:, :4], found[other][:, :4], atol=1e-3), other


@pytest.mark.parametrize(("every", "expected"), [(2, [0, 2]), (3, [0, 3])])
def test_cross_attention_of_some_layers(every, expected):
    options = QFORMER | {"layers": 4, "cross_every": every}
    layers = bert(**options)[1]["layers"]
    assert [i for i, layer in layers.items() if "cross_attention" in layer] == expected
    assert all("query_ffn" in layer for layer in layers.values())


def gradients(model, *, joint):
    """Of a random sum over what VTA's two passes return, in its reading `joint` or `qformer`."""
    weights = np.random.default_rng(1).normal(size=(2, 12, 16))
    graphdef, params = model

    def loss(params):
        model = nnx.merge(graphdef, params)
        if joint:
            first, queries, image = model.embedding_norm(VECTORS), {}, {}
        else:
            first, queries, image = model.embed_queries(2), {"num_queries": 4}, {"cross": IMAGE}
        text = model.embed_text(IDS, TYPES if joint else None)
        fused = model.encode(jnp.concatenate([first, text], axis=1), **queries, **image)
        again = jnp.concatenate([fused[:, : first.shape[1]], text], axis=1)
        again = model.encode(again, **queries)
        return jnp.sum(again * weights[:, : again.shape[1]])

    paths = jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(params))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def test_two_passes_train_everything():
    """And recomputing (remat) changes no gradient."""
    joint = gradients(bert(adapters=True), joint=True)
    stored = gradients(bert(**QFORMER, adapters=True), joint=False)
    for found in (joint, stored):
        idle = [name for name, value in found.items() if not np.abs(value).max() > 1e-6]
        # A key's bias moves all logits of a row alike.
        assert [name for name in idle if not name.endswith("key/bias")] == []
    recomputed = gradients(bert(**QFORMER, adapters=True, remat=True), joint=False)
    assert stored.keys() == recomputed.keys()
    for name, value in stored.items():
        np.testing.assert_allclose(recomputed[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_adapters_begin_as_nothing():
    graphdef, params = bert(adapters=True)
    for layer in params["layers"].values():
        for adapter in (layer["attention_adapter"], layer["ffn"]["adapter"]):
            adapter["up"] = jax.tree.map(np.zeros_like, adapter["up"])
    adapted = computed(lambda model: model(IDS), (graphdef, params))
    for layer in params["layers"].values():
        del layer["attention_adapter"], layer["ffn"]["adapter"]
    plain = computed(lambda model: model(IDS), (bert()[0], params))
    np.testing.assert_allclose(plain, adapted, atol=1e-6)


def test_bfloat16():
    graphdef, params = bert()
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    ours = computed(
        lambda model: model(IDS, TYPES, vectors=VECTORS.astype(jnp.bfloat16)), (graphdef, low)
    )
    assert ours.dtype == jnp.bfloat16
    exact = computed(lambda model: model(IDS, TYPES, vectors=VECTORS), (graphdef, params))
    assert 0 < np.abs(ours - exact).mean() < 0.05


def test_tanh_gelu():
    exact, tanh = (computed(lambda model: model(IDS), bert(gelu=g)) for g in ("exact", "tanh"))
    np.testing.assert_allclose(exact, tanh, atol=1e-2)
    assert np.abs(exact - tanh).max() > 0


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"gelu": "relu"}, None, "gelu is one of"),
        ({"cross_width": 10}, None, "cross_width needs num_queries"),
        ({"heads": 3}, None, "16 channels do not divide into 3 heads"),
        ({}, lambda m: m(np.zeros((1, 13), np.int32)), "13 tokens, but positions for 12"),
        ({}, lambda m: m(), "ids, vectors or both"),
        ({}, lambda m: m.embed_queries(2), "built without queries"),
        ({}, lambda m: m.encode(VECTORS, num_queries=2), "built without queries"),
        ({}, lambda m: m(IDS, cross=IMAGE), "cross_width, and queries"),
        (QFORMER, lambda m: m(IDS, cross=IMAGE), "cross_width, and queries"),
        (QFORMER, lambda m: m(IDS, TYPES), "without token types"),
    ],
)
def test_refusals(options, call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda params: call(nnx.merge(model[0], params)), (model := bert(**options))[1]
        )


def test_an_unknown_word_is_not_passed_over():
    unknown = computed(lambda model: model(np.full((1, 2), 40, np.int32)), bert())
    assert np.isnan(unknown).all()


def test_defaults_are_bert_base():
    """109,482,240 parameters with its pooler of 768 x 768 and a bias."""
    shapes = param_shapes(lambda rngs: Bert(rngs=rngs))
    assert sum(map(np.prod, shapes.values())) == 109_482_240 - 768 * 769
