"""The network against AAVS's own code, layer by layer (reference values: tests/data/golden)."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssp_jax.errors import UserError
from ssp_jax.models.ssp import SSP, segmentation_map
from ssp_jax.weights.aavs import load_aavs_state

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"
TOLERANCE = 1e-4  # of the largest reference value, float32


def model_config(config, *, stage, num_classes):
    swin = config["backbone_config"]
    return {
        "num_classes": num_classes,
        "num_queries": config["num_queries"],
        "embed_dim": swin["embed_dim"],
        "depths": tuple(swin["depths"]),
        "swin_heads": tuple(swin["num_heads"]),
        "window": swin["window_size"],
        "hidden": config["hidden_dim"],
        "heads": config["num_attention_heads"],
        "encoder_layers": config["encoder_layers"],
        "encoder_ffn": config["encoder_feedforward_dim"],
        "decoder_layers": config["decoder_layers"] - 1,  # Hugging Face counts the initial queries
        "decoder_ffn": config["dim_feedforward"],
        "decoder_adapter": {1: "replace", 2: "after"}[stage],
        "mask_prompt": stage == 2,
        "audio_hidden": 64,
        "audio_width": 1 / 64,
    }


@functools.cache
def golden(stage):
    """(values, state, model configuration) of a stage."""
    with np.load(GOLDEN / f"aavs_stage{stage}_tiny.npz") as file:
        values = {key: file[key] for key in file.files}
    state = {key[6:]: value for key, value in values.items() if key.startswith("state/")}
    config = json.loads(values["config_json"].tobytes())
    num_classes = values["out/class_queries_logits"].shape[-1] - 1
    return values, state, model_config(config, stage=stage, num_classes=num_classes)


@functools.cache
def run(stage):
    """Predictions and aux; each stage takes another way of sampling, so both are covered."""
    values, state, config = golden(stage)
    sampling = {1: "map", 2: "gather"}[stage]
    model = nnx.eval_shape(lambda: SSP(**config, sampling=sampling, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model, nnx.Param)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), nnx.to_pure_dict(params))
    params |= load_aavs_state(state, config)
    prompt = values.get("in/audio_boost_mask")

    @jax.jit
    def apply(params, frames, audio, prompt):
        return nnx.merge(graphdef, params)(frames, None, prompt, audio_features=audio)

    frames = np.moveaxis(values["in/pixel_values"], 1, -1)
    with jax.default_matmul_precision("highest"):
        return apply(params, frames, values["in/audio_features"], prompt)


def assert_close(ours, reference):
    reference = np.asarray(reference)
    ours = np.asarray(ours)
    assert ours.shape == reference.shape
    difference = np.abs(ours - reference).max() / np.abs(reference).max()
    assert difference <= TOLERANCE


def channels_last(reference):
    return np.moveaxis(reference, 1, -1)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("level", range(4))
def test_backbone(stage, level):
    _, aux = run(stage)
    assert_close(aux["backbone"][level], channels_last(golden(stage)[0][f"out/backbone/{level}"]))


@pytest.mark.parametrize("stage", [1, 2])
def test_pixel_decoder(stage):
    values, (_, aux) = golden(stage)[0], run(stage)
    for level in range(3):
        assert_close(aux["multi_scale"][level], channels_last(values[f"out/multi_scale/{level}"]))
    assert_close(aux["mask_features"], channels_last(values["out/mask_features"]))


@pytest.mark.parametrize("stage", [1, 2])
def test_predictions_of_every_layer(stage):
    values, (predictions, aux) = golden(stage)[0], run(stage)
    for index, layer in enumerate(aux["layers"]):
        assert_close(layer["mask_logits"], values[f"out/aux/{index}/masks_queries_logits"])
        assert_close(layer["class_logits"], values[f"out/aux/{index}/class_queries_logits"])
    assert f"out/aux/{len(aux['layers'])}/masks_queries_logits" not in values
    assert_close(predictions["mask_logits"], values["out/masks_queries_logits"])
    assert_close(predictions["class_logits"], values["out/class_queries_logits"])


@pytest.mark.parametrize("stage", [1, 2])
def test_segmentation_map(stage):
    values = golden(stage)[0]
    ours = segmentation_map(
        jnp.asarray(values["out/masks_queries_logits"]),
        jnp.asarray(values["out/class_queries_logits"]),
        384,
        28,
    )
    assert_close(ours, values["out/segmentation_28"])


def test_every_mismatch_is_reported_at_once():
    _, state, config = golden(2)
    state = dict(state)
    state["surplus.weight"] = np.zeros(3)
    del state["class_predictor.bias"]
    query = "model.pixel_level_module.encoder.encoder.layers.1.blocks.0.attention.self.query.weight"
    del state[query]
    state["audio_proj.0.weight"] = np.zeros((5, 128), np.float32)
    with pytest.raises(UserError) as error:
        load_aavs_state(state, config)
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 4
    assert "surplus.weight" in lines[0]
    assert {line.split(":")[0].strip() for line in lines[1:]} == {
        "mask_decoder/class_head/bias",
        "encoder/stages/1/blocks/0/attention/qkv/kernel",
        "audio_projection/hidden/kernel",
    }


def test_weights_of_the_other_stage_are_refused():
    _, state, _ = golden(1)
    with pytest.raises(UserError, match="prompt_embedding"):
        load_aavs_state(state, golden(2)[2])
    with pytest.raises(UserError, match="avs_adapt"):
        load_aavs_state(golden(2)[1], golden(1)[2] | {"decoder_adapter": "none"})
