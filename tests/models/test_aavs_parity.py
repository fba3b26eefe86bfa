"""The network against AAVS's own code, layer by layer (reference values: tests/data/golden)."""

import functools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.errors import UserError
from ssp_jax.models.ssp import segmentation_map
from ssp_jax.weights.aavs import aavs_params
from ssp_jax.weights.reference import Reference
from ssp_jax.weights.verify import differences, relative_error

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"
TOLERANCE = 1e-4  # of the largest reference value, float32; ten times that for gradients


@functools.cache
def golden(stage):
    return Reference(GOLDEN / f"aavs_stage{stage}_tiny.npz")


@functools.cache
def rows(stage):
    """Each stage takes another way of sampling, so both are covered."""
    return differences(golden(stage), sampling={1: "map", 2: "gather"}[stage])


def assert_fit(stage, prefix, number):
    chosen = [row for row in rows(stage) if row.name.startswith(prefix)]
    assert len(chosen) == number
    assert [row for row in chosen if not row.fits] == []


@pytest.mark.parametrize("stage", [1, 2])
def test_backbone(stage):
    assert_fit(stage, "out/backbone/", 4)


@pytest.mark.parametrize("stage", [1, 2])
def test_pixel_decoder(stage):
    assert_fit(stage, "out/multi_scale/", 3)
    assert_fit(stage, "out/mask_features", 1)


@pytest.mark.parametrize("stage", [1, 2])
def test_predictions_of_every_layer(stage):
    assert_fit(stage, "out/aux/", 2 * 4)
    assert_fit(stage, "out/masks_queries_logits", 1)
    assert_fit(stage, "out/class_queries_logits", 1)
    assert_fit(stage, "out/segmentation_28", 1)


@pytest.mark.parametrize("stage", [1, 2])
def test_loss_and_gradients(stage):
    assert_fit(stage, "out/loss", 1)
    assert_fit(stage, "grad/", 5)
    assert_fit(stage, "norm/", len(golden(stage).grad_norms))
    # Biases of keys, and biases that a norm over one channel takes off.
    zero = [row.name for row in rows(stage) if row.name.endswith("(zero)")]
    assert len(zero) == 8 + 4 + 4 + 3
    assert all(name.endswith(".bias (zero)") for name in zero)
    assert not any(row.error > TOLERANCE for row in rows(stage))


@pytest.mark.parametrize("stage", [1, 2])
def test_segmentation_map(stage):
    """From the stored predictions, apart from the network."""
    ours = segmentation_map(
        jnp.asarray(golden(stage)["out/masks_queries_logits"]),
        jnp.asarray(golden(stage)["out/class_queries_logits"]),
        384,
        28,
    )
    assert relative_error(np.asarray(ours), golden(stage)["out/segmentation_28"]) <= TOLERANCE


def test_every_mismatch_is_reported_at_once():
    state = dict(golden(2).state)
    state["surplus.weight"] = np.zeros(3)
    del state["class_predictor.bias"]
    query = "model.pixel_level_module.encoder.encoder.layers.1.blocks.0.attention.self.query.weight"
    del state[query]
    state["audio_proj.0.weight"] = np.zeros((5, 128), np.float32)
    with pytest.raises(UserError) as error:
        aavs_params(state, golden(2).arguments)
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 4
    assert "surplus.weight" in lines[0]
    assert {line.split(":")[0].strip() for line in lines[1:]} == {
        "mask_decoder/class_head/bias",
        "encoder/stages/1/blocks/0/attention/qkv/kernel",
        "audio_projection/hidden/kernel",
    }


def test_weights_of_the_other_stage_are_refused():
    with pytest.raises(UserError, match="prompt_embedding"):
        aavs_params(golden(1).state, golden(2).arguments)
    with pytest.raises(UserError, match="avs_adapt"):
        aavs_params(golden(2).state, golden(1).arguments | {"decoder_adapter": "none"})
