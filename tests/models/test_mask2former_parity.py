"""Mask2Former against transformers' class with random weights, prediction by prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity_cases import STAGES, SWIN_B, TOLERANCE, cases
from random_weights import randomise

from ssp_jax.models.ssp import SSP
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.shapes import abstract
from ssp_jax.weights.verify import relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "tiny": (
        {"embed_dim": 16, "depths": [2, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4},
        {
            "hidden_dim": 64,
            "feature_size": 64,
            "mask_feature_size": 64,
            "encoder_layers": 2,
            "encoder_feedforward_dim": 96,
            "decoder_layers": 5,
            "dim_feedforward": 80,
            "num_attention_heads": 4,
            "num_queries": 9,
            "num_labels": 7,
        },
    ),
    "swin-b": (SWIN_B, {"num_queries": 100, "num_labels": 150}),
}


# Offsets stay around the token; queries keep logits of masks well away from their threshold.
FACTORS = {"sampling_offsets.bias": None, "queries": 1.0, "level_embed": 1.0}


def network(folder):
    """`SSP` as a Mask2Former: without adapters, and with a sound that projects to nothing."""
    model = load_facts(folder)["model"]
    arguments = model | {"audio_hidden": 8, "audio_width": 1 / 64}
    graphdef, params = nnx.split(abstract(lambda rngs: SSP(**arguments, rngs=rngs)), nnx.Param)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), nnx.to_pure_dict(params))
    weights = {k.removeprefix("network/"): v for k, v in load_weights(folder).items()}
    params |= nested(weights)

    @jax.jit
    def apply(params, frames):
        with jax.default_matmul_precision("highest"):
            silence = jnp.zeros((len(frames), 128))
            return nnx.merge(graphdef, params)(frames, None, audio_features=silence)

    return lambda frames: apply(params, frames)


@pytest.mark.parametrize(("size", "shape"), cases(128))
def test_transformers_mask2former(tmp_path, size, shape):
    backbone, rest = SIZES[size]
    backbone = transformers.SwinConfig(**backbone, drop_path_rate=0.0, out_features=STAGES)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, **rest)
    model = randomise(transformers.Mask2FormerForUniversalSegmentation(config), FACTORS)
    model.save_pretrained(tmp_path / "hub")
    import_weights("mask2former", tmp_path / "hub", tmp_path / "w")

    frames = np.random.default_rng(0).normal(size=(1, *shape, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(
            torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()),
            output_auxiliary_logits=True,
            output_hidden_states=True,
        )
    ours, aux = network(tmp_path / "w")(frames)

    def channels_first(x):
        return np.moveaxis(np.asarray(x), -1, 1)

    pairs = {
        f"backbone/{i}": (channels_first(level), theirs.encoder_hidden_states[i])
        for i, level in enumerate(aux["backbone"])
    }
    pairs |= {
        f"multi_scale/{i}": (channels_first(level), theirs.pixel_decoder_hidden_states[i])
        for i, level in enumerate(aux["multi_scale"])
    }
    pairs["mask_features"] = (
        channels_first(aux["mask_features"]),
        theirs.pixel_decoder_last_hidden_state,
    )
    layers = [*aux["layers"], ours]
    reference = [
        *theirs.auxiliary_logits,
        {
            "masks_queries_logits": theirs.masks_queries_logits,
            "class_queries_logits": theirs.class_queries_logits,
        },
    ]
    for i, (layer, values) in enumerate(zip(layers, reference, strict=True)):
        pairs[f"layer {i} masks"] = (layer["mask_logits"], values["masks_queries_logits"])
        pairs[f"layer {i} classes"] = (layer["class_logits"], values["class_queries_logits"])
    errors = {name: relative_error(a, b.numpy()) for name, (a, b) in pairs.items()}
    print(f"{size} {shape}:", {name: f"{error:.1e}" for name, error in errors.items()})
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
