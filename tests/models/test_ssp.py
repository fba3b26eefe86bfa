"""Contracts of the whole network: state, shapes, errors, recomputation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssp_jax.models.adapters import Adapter, apply_layer
from ssp_jax.models.sizes import SIZES
from ssp_jax.models.ssp import SSP, segmentation_map

TINY = {
    "embed_dim": 8,
    "depths": (1, 1, 2, 1),
    "swin_heads": (1, 1, 2, 2),
    "window": 4,
    "gelu": "tanh",
    "adapters": False,
    "hidden": 32,
    "heads": 2,
    "encoder_layers": 1,
    "encoder_ffn": 32,
    "decoder_layers": 2,
    "decoder_ffn": 32,
    "decoder_adapter": "none",
    "audio_hidden": 16,
    "audio_width": 1 / 32,
}


def example(**extra):
    """(graphdef, random parameters, whatever state is no parameter) of a tiny model."""
    model = nnx.eval_shape(lambda: SSP(3, 5, **(TINY | extra), rngs=nnx.Rngs(0)))
    graphdef, shapes, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype), nnx.to_pure_dict(shapes)
    )
    return graphdef, params, rest


def inputs(height=64, width=64, frames=2):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(frames, height, width, 3)).astype(np.float32)
    return images, rng.normal(size=(frames, 96, 64)).astype(np.float32)


def test_all_state_is_parameters():
    _, params, rest = example()
    assert not jax.tree.leaves(rest)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_shapes_of_an_input_that_no_stride_divides():
    graphdef, params, _ = example()
    images, log_mel = inputs(50, 70)
    predictions, aux = jax.eval_shape(
        lambda params: nnx.merge(graphdef, params)(images, log_mel), params
    )
    assert predictions["mask_logits"].shape == (2, 5, 13, 18)
    assert predictions["class_logits"].shape == (2, 5, 4)
    assert [feature.shape[1:3] for feature in aux["backbone"]] == [(13, 18), (7, 9), (4, 5), (2, 3)]
    assert len(aux["layers"]) == 2


def test_audio_reaches_the_prediction_of_its_own_frame_only():
    graphdef, params, _ = example()
    images, log_mel = inputs(32, 32)
    other = log_mel.copy()
    other[0] += 1.0
    apply = jax.jit(lambda log_mel: nnx.merge(graphdef, params)(images, log_mel)[0]["mask_logits"])
    difference = np.abs(np.asarray(apply(other) - apply(log_mel))).max(axis=(1, 2, 3))
    assert difference[0] > 1e-3
    assert difference[1] == 0


def test_every_parameter_has_a_gradient():
    graphdef, params, _ = example(depths=(1, 1, 1, 1), decoder_layers=1)
    images, log_mel = inputs()

    @jax.jit
    @jax.grad
    def gradient(params):
        predictions, aux = nnx.merge(graphdef, params)(images, log_mel)
        leaves = jax.tree.leaves((predictions, aux["layers"]))
        return sum(jnp.mean(jnp.square(leaf)) for leaf in leaves)

    gradients = jax.tree_util.tree_leaves_with_path(gradient(params))
    assert not [jax.tree_util.keystr(path) for path, leaf in gradients if not np.any(leaf)]


def test_remat_recomputes_every_transformer_layer():
    def checkpoints(remat):
        graphdef, params, _ = example(remat=remat)
        jaxpr = jax.make_jaxpr(lambda params: nnx.merge(graphdef, params)(*inputs())[0])(params)
        return sum(equation.primitive.name in ("checkpoint", "remat2") for equation in jaxpr.eqns)

    assert checkpoints(False) == 0
    assert checkpoints(True) == sum(TINY["depths"]) + TINY["encoder_layers"] + 2


def test_a_recomputed_layer_has_the_same_gradients():
    layer = Adapter(8, residual=False, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)

    def gradient(remat):
        def loss(params, x):
            return jnp.sin(apply_layer(nnx.merge(graphdef, params), x, remat=remat)).sum()

        return jax.grad(loss, argnums=(0, 1))(params, x)

    for plain, recomputed in zip(*map(jax.tree.leaves, map(gradient, (False, True))), strict=True):
        assert np.any(plain)
        np.testing.assert_allclose(plain, recomputed, rtol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_the_decoders_gradient_reaches_the_features_only_if_asked(shared):
    graphdef, params, _ = example(audio_visual_map=True, decoder_trains_features=shared)

    def gradient(of):
        def value(params):
            predictions, aux = nnx.merge(graphdef, params)(*inputs())
            of_map = aux["audio_visual_map"]["logits"]
            return (of_map if of == "map" else predictions["mask_logits"]).sum()

        grads = jax.jit(jax.grad(value))(params)
        return {name: any(np.any(x) for x in jax.tree.leaves(g)) for name, g in grads.items()}

    of_decoder, of_map = gradient("decoder"), gradient("map")
    features = ("encoder", "audio_encoder", "pixel_decoder")
    assert of_decoder["mask_decoder"]
    assert [of_decoder[name] for name in features] == [shared] * 3
    assert all(of_map[name] for name in features)
    assert not of_map["mask_decoder"]


def test_a_decoder_apart_needs_the_map():
    with pytest.raises(ValueError, match="audio_visual_map"):
        nnx.eval_shape(lambda: SSP(3, 5, **TINY, decoder_trains_features=False, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("built_with", "prompt", "message"), [(True, None, "needs"), (False, np.ones, "without")]
)
def test_prompt_and_model_must_agree(built_with, prompt, message):
    model = nnx.eval_shape(lambda: SSP(3, 5, **TINY, mask_prompt=built_with, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model)
    prompt = prompt and jnp.asarray(prompt((2, 20, 20)))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda params: nnx.merge(graphdef, params)(*inputs(), reference=prompt), params
        )


def test_flow_in_a_prompt_of_its_own():
    graphdef, params, _ = example(mask_prompt=True, premask=True, premask_form="apart")
    plain, _, _ = example(mask_prompt=True)
    reference, flow = np.zeros((2, 2, 16, 16), np.float32)
    reference[:, 4:9, 3:12], flow[:, :, 8:] = 1, 1
    flow[1] = 0

    @jax.jit
    def apart(params, flow):
        return nnx.merge(graphdef, params)(*inputs(), reference=reference, flow_mask=flow)[0]

    decoder = params["mask_decoder"]
    learned = decoder["flow_prompt_embedding"]
    decoder["flow_prompt_embedding"] = np.zeros_like(learned)  # as it begins
    before = apart(params, flow)
    less = {key: leaf for key, leaf in decoder.items() if key != "flow_prompt_embedding"}
    alone = jax.jit(lambda params: nnx.merge(plain, params)(*inputs(), reference=reference)[0])
    for name, value in alone(params | {"mask_decoder": less}).items():
        np.testing.assert_array_equal(before[name], value)

    decoder["flow_prompt_embedding"] = learned
    moving, still = apart(params, flow), apart(params, np.zeros_like(flow))
    differ = [
        not np.allclose(a, b)
        for a, b in zip(moving["mask_logits"], still["mask_logits"], strict=True)
    ]
    assert differ == [True, False]  # the second frame stands still in both


@pytest.mark.parametrize("queries", [True, False])
def test_texts_reach_the_audio_embedding_only_if_asked(queries):
    bert = {"bert_vocabulary": 9, "bert_length": 4, "bert_width": 8, "bert_layers": 1}
    bert |= {"bert_heads": 2, "bert_ffn": 8}
    graphdef, params, _ = example(vta="joint", vta_queries=queries, **bert)
    texts = {"text_types": np.ones((2, 4), np.int32), "text_mask": np.ones((2, 4), bool)}

    @jax.jit
    def outputs(params, ids):
        aux = nnx.merge(graphdef, params)(*inputs(), text_ids=ids, **texts)[1]
        return aux["audio_embedding"], aux["mask_features"]

    one, two = (outputs(params, np.full((2, 4), word, np.int32)) for word in (3, 5))
    assert np.allclose(one[0], two[0]) != queries
    assert not np.allclose(one[1], two[1])


def test_what_a2_names_adds_to_what_is_heard():
    bert = {"bert_vocabulary": 9, "bert_length": 4, "bert_width": 8, "bert_layers": 1}
    bert |= {"bert_heads": 2, "bert_ffn": 8, "audio_visual_map": True}
    graphdef, params, _ = example(vta="joint", text_visual_map=True, **bert)
    mask = np.ones((2, 4), bool)

    @jax.jit
    def heard(params, ids, types):
        texts = {"text_ids": ids, "text_types": types, "text_mask": mask}
        return nnx.merge(graphdef, params)(*inputs(), **texts)[1]["audio_visual_map"]

    ids = np.full((2, 4), 3, np.int32)
    first, second = (heard(params, ids, np.full((2, 4), part, np.int32)) for part in (0, 1))
    assert first["bias"].shape == (2, 16, 16)
    np.testing.assert_array_equal(first["bias"], params["audio_visual_map"]["bias"])  # all A1
    assert not np.allclose(second["bias"], first["bias"])

    # Without texts there are none to compare with; without the map nothing to add to.
    assert "text_visual_map" not in example(text_visual_map=True, audio_visual_map=True)[1]
    with pytest.raises(ValueError, match="audio_visual_map"):
        example(vta="joint", text_visual_map=True, **(bert | {"audio_visual_map": False}))


def test_words_of_a2_change_the_classes_in_every_layer():
    bert = {"bert_vocabulary": 9, "bert_length": 4, "bert_width": 8, "bert_layers": 1}
    bert |= {"bert_heads": 2, "bert_ffn": 8, "vta": "joint", "text_classes": True}
    graphdef, params, _ = example(**bert)
    texts = {"text_types": np.ones((2, 4), np.int32), "text_mask": np.ones((2, 4), bool)}
    texts["text_ids"] = np.full((2, 4), 3, np.int32)

    @jax.jit
    def class_logits(params):
        predictions, aux = nnx.merge(graphdef, params)(*inputs(), **texts)
        return [layer["class_logits"] for layer in (*aux["layers"], predictions)]

    # `before` may still read the arrays that it was given: not changed in place.
    words = params["text_classes"]["words"]
    changed = params | {"text_classes": {"words": words | {"bias": words["bias"] + 1.0}}}
    before = class_logits(params)
    for old, new in zip(before, class_logits(changed), strict=True):  # a word, a class
        np.testing.assert_allclose((new - old)[..., 1:-1], 4, atol=1e-4)  # of four words
        np.testing.assert_allclose(new[..., [0, -1]], old[..., [0, -1]], atol=1e-5)

    # Of where it sounds alone the words say nothing, and without texts there are none.
    two_classes = nnx.eval_shape(lambda: SSP(2, 5, **(TINY | bert), rngs=nnx.Rngs(0)))
    assert not hasattr(two_classes, "text_classes")
    assert "text_classes" not in example(text_classes=True)[1]


@pytest.mark.parametrize(
    "change",
    [{"gelu": "erf"}, {"decoder_adapter": "before"}, {"hidden": 48}, {"premask_form": "both"}],
)
def test_unknown_choices_and_sizes_are_refused(change):
    with pytest.raises(ValueError):
        nnx.eval_shape(lambda: SSP(3, 5, **(TINY | change), rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", ["small", "base"])
def test_presets_are_valid(name):
    model = nnx.eval_shape(lambda: SSP(2, 10, **SIZES[name], rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model.encoder)))
    millions = sum(leaf.size for leaf in leaves) / 1e6
    # Swin-B without its classifier has 86.7 M (Liu et al. 2021), the adapters d * d a block: 7 M.
    expected = {"small": 1.43, "base": 93.9}
    assert millions == pytest.approx(expected[name], rel=0.005)


def test_segmentation_of_certain_queries():
    mask_logits = np.full((1, 2, 4, 4), -50.0, np.float32)
    mask_logits[0, 0, :, :2] = 50.0
    mask_logits[0, 1, :, 2:] = 50.0
    class_logits = np.full((1, 2, 4), -50.0, np.float32)
    class_logits[0, 0, 1] = class_logits[0, 1, 3] = 50.0  # query 1 says "no object"
    scores = segmentation_map(jnp.asarray(mask_logits), jnp.asarray(class_logits), 16, (8, 8))
    assert scores.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(scores[0, 1, :, :3], 1.0, atol=1e-6)
    np.testing.assert_allclose(scores[0, 1, :, 5:], 0.0, atol=1e-6)
    assert np.abs(np.asarray(scores[0, 2])).max() < 1e-6
