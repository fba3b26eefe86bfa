"""Perceiver's flow estimator under Hugging Face's names into a weight folder."""

import numpy as np
import pytest
from weight_files import STATES, assert_same_arrays, write, write_hub_folder

from ssp_jax.errors import UserError
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.infer import perceiver_flow_arguments
from ssp_jax.weights.perceiver_flow import ENCODER, LATENTS, LAYERS, PATCHES, ROOT, RULES, shapes
from ssp_jax.weights.rules import to_source

ARGUMENTS = {
    "size": (12, 20),
    "latents": 6,
    "channels": 8,
    "layers": 2,
    "heads": 2,
    "cross_heads": 5,
    "bands": 1,
    "patch_channels": 4,
}
CONFIG = {
    "model_type": "perceiver",
    "num_latents": 6,
    "d_latents": 8,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 5,
    "train_size": [12, 20],
    "hidden_act": "gelu",
    "use_query_residual": True,
    "cross_attention_shape_for_attention": "kv",
}


def params():
    random = np.random.default_rng(0)
    return {
        path: random.normal(size=shape).astype(np.float32)
        for path, shape in shapes(ARGUMENTS).items()
    }


def state():
    return to_source(params(), RULES, what="Perceiver")


@pytest.fixture
def refused_import(refused, tmp_path):
    def run(path):
        out = tmp_path / "w"
        return refused("import", "--source=perceiver_flow", f"--path={path}", f"--out={out}")

    return run


def test_a_folder_of_the_hub(command, tmp_path):
    source = state()
    hub = write_hub_folder(tmp_path / "hub", source, CONFIG)
    out = tmp_path / "w"
    status, text, error = command(
        "import", "--source=perceiver_flow", f"--path={hub}", f"--out={out}"
    )
    assert (status, error) == (0, "")
    weights, facts = load_weights(out), load_facts(out)
    assert_same_arrays(weights, {ROOT + path: value for path, value in params().items()})
    query = source["perceiver.encoder.self_attends.1.attention.self.query.weight"]
    np.testing.assert_array_equal(weights["perceiver_flow/layers/1/query/kernel"], query.T)
    assert facts["source"] == "perceiver_flow"
    assert facts["model"] == ARGUMENTS | {"size": [12, 20]}
    assert facts["missing"] == []
    assert sum(facts["parameters"].values()) == sum(value.size for value in source.values())
    assert "perceiver_flow/decoder" in text
    assert "not in the source" not in text


def test_without_a_config_only_the_published_size(refused_import, tmp_path):
    assert "config.json" in refused_import(write(state(), tmp_path / "tiny.safetensors"))
    published = {
        LATENTS: (2048, 512),
        PATCHES + ".weight": (64, 54),
        ENCODER + "attention.self.layernorm2.weight": (322,),
    } | {f"{LAYERS}.{layer}.layernorm.bias": (512,) for layer in range(24)}
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in published.items()}
    assert perceiver_flow_arguments(arrays, None) == {
        "size": (368, 496),
        "latents": 2048,
        "channels": 512,
        "layers": 24,
        "heads": 16,
        "cross_heads": 1,
        "bands": 64,
        "patch_channels": 64,
    }
    with pytest.raises(UserError, match=f"no {LATENTS}"):
        perceiver_flow_arguments({}, None)


def test_a_config_that_contradicts(refused_import, tmp_path):
    changes = {"num_latents": 7, "num_blocks": 8, "hidden_act": "relu", "train_size": "368x496"}
    config = CONFIG | changes | {"num_self_attention_heads": True}
    del config["num_cross_attention_heads"]
    error = refused_import(write_hub_folder(tmp_path / "hub", state(), config))
    for part in (
        "num_latents is 7, expected 6",
        "num_blocks is 8, expected 1",
        "hidden_act is 'relu'",
        "train_size is '368x496'",
        "num_self_attention_heads is True",
        "num_cross_attention_heads is None",
    ):
        assert part in error
    config = CONFIG | {"num_self_attention_heads": 3}
    error = refused_import(write_hub_folder(tmp_path / "hub2", state(), config))
    assert "8 channels do not divide into 3 heads" in error


def test_arrays_that_do_not_fit(refused_import, tmp_path):
    changed = state()
    changed["renamed.weight"] = changed.pop("perceiver.decoder.decoder.final_layer.weight")
    changed["perceiver.encoder.self_attends.0.mlp.dense1.bias"] = np.zeros(7, np.float32)
    changed["perceiver.encoder.self_attends.1.mlp.dense1.bias"] = np.full(8, np.nan, np.float32)
    error = refused_import(write_hub_folder(tmp_path / "hub", changed, CONFIG))
    for part in (
        "renamed.weight: not a name",
        "output/kernel: no weights for it",
        "layers/0/mlp_in/bias: has shape (7,), the model needs (8,)",
        "layers/1/mlp_in/bias: has values that are not finite",
    ):
        assert part in error
    for kind, make in STATES.items():
        error = refused_import(write(make(), tmp_path / f"{kind}.safetensors"))
        assert "read as perceiver_flow" in error
