"""Every kind of source into a weight folder, at a tiny size."""

import json
import subprocess
import sys

import numpy as np
import pytest
from weight_files import (
    STATES,
    assert_same_arrays,
    config,
    encoder_params,
    original_swin_state,
    reference,
    released,
    swin_state,
    vggish_state,
    write,
    write_hub_folder,
)

from ssp_jax.weights import swin
from ssp_jax.weights.folder import load_facts, load_unused, load_weights
from ssp_jax.weights.rules import to_source


def imported(command, kind, path, out):
    status, text, error = command("import", f"--source={kind}", f"--path={path}", f"--out={out}")
    assert (status, error) == (0, ""), error
    return load_weights(out), load_facts(out), text


@pytest.mark.parametrize("stage", [1, 2])
def test_aavs(command, tmp_path, stage):
    path = write(released(stage), tmp_path / "aavs.safetensors")
    weights, facts, text = imported(command, "aavs", path, tmp_path / "w")
    expected = {f"network/{name}": value for name, value in reference(stage).params().items()}
    assert_same_arrays(weights, expected)
    assert facts["stage"] == stage
    assert f"AAVS stage {stage}" in text
    assert facts["source"] == "aavs"
    assert facts["model"]["num_classes"] == {1: 2, 2: 71}[stage]
    assert facts["model"]["num_queries"] == {1: 8, 2: 12}[stage]
    assert facts["model"]["depths"] == [2, 2, 2, 2]
    assert facts["model"]["mask_prompt"] is (stage == 2)
    assert facts["parameters"]["network/encoder"] == sum(
        value.size for name, value in expected.items() if name.startswith("network/encoder/")
    )
    (file,) = facts["files"]
    assert file["name"] == "aavs.safetensors"
    assert len(file["sha256"]) == 64
    unused = load_unused(tmp_path / "w")
    assert sorted(unused) == facts["kept"]
    assert len(unused) == {1: 2 * (2 + 4), 2: 0}[stage]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_aavs_by_other_names(command, tmp_path, prefix):
    state = reference(1).state if not prefix else released(1)
    path = write({prefix + name: v for name, v in state.items()}, tmp_path / "aavs.safetensors")
    weights, _, _ = imported(command, "aavs", path, tmp_path / "w")
    expected = {f"network/{name}": value for name, value in reference(1).params().items()}
    assert_same_arrays(weights, expected)


def test_mask2former_of_the_hub(command, tmp_path):
    state = STATES["mask2former"]()
    for name in ("weight", "bias"):  # transformers 5 saves a norm that its backbone does not use
        state[f"model.pixel_level_module.encoder.swin.layernorm.{name}"] = np.ones(64, np.float32)
    folder = write_hub_folder(tmp_path / "hub", state, config())
    weights, facts, _ = imported(command, "mask2former", folder, tmp_path / "w")
    params = reference(1).params()
    assert weights.keys() > {f"network/{name}" for name in encoder_params()}
    assert not any("adapter" in name or "audio" in name for name in weights)
    for name, value in weights.items():
        if "output/projection" not in name:
            np.testing.assert_array_equal(value, params[name.removeprefix("network/")])
    assert facts["model"]["decoder_adapter"] == "none"
    assert facts["stage"] is None
    assert any("swin.layernorm" in name for name in facts["ignored"])


def test_shards(command, tmp_path):
    state = STATES["mask2former"]()
    names = sorted(state)
    shards = {"model-1.safetensors": names[:100], "model-2.safetensors": names[100:]}
    for shard, part in shards.items():
        write({name: state[name] for name in part}, tmp_path / "hub" / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    index = tmp_path / "hub" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    single = write(state, tmp_path / "single.safetensors")
    weights, facts, _ = imported(command, "mask2former", tmp_path / "hub", tmp_path / "w")
    assert len(facts["files"]) == 3
    assert_same_arrays(weights, imported(command, "mask2former", single, tmp_path / "w2")[0])


def test_swin_of_three_sources_is_the_same(command, tmp_path):
    folder = write_hub_folder(tmp_path / "hub", swin_state(), config()["backbone_config"])
    weights, facts, _ = imported(command, "swin", folder, tmp_path / "w")
    original = write(original_swin_state(), tmp_path / "original.safetensors")
    others, other_facts, _ = imported(command, "swin-original", original, tmp_path / "w2")
    assert_same_arrays(others, weights)
    assert facts["model"] == other_facts["model"]
    assert facts["model"] == {
        "embed_dim": 8,
        "depths": [2, 2, 2, 2],
        "swin_heads": [1, 2, 2, 4],
        "window": 4,
    }
    assert set(facts["ignored"]) == {"classifier.weight", "classifier.bias"}
    assert "layers.{0}.blocks.{1}.attn_mask" in other_facts["ignored"]
    backbone = to_source(encoder_params(), swin.BACKBONE_RULES, what="Swin")
    path = write(backbone, tmp_path / "backbone.safetensors")
    weights, _, _ = imported(command, "swin", path, tmp_path / "w3")
    expected = {f"network/{name}": value for name, value in encoder_params().items()}
    assert_same_arrays(weights, expected)


def test_vggish(command, tmp_path):
    state = vggish_state()
    path = write(state, tmp_path / "vggish.safetensors")
    weights, facts, _ = imported(command, "vggish", path, tmp_path / "w")
    assert facts["model"] == {"audio_width": 1 / 32}
    assert facts["ignored"] == {}
    assert len(weights) == len(state) == 18
    state |= {"pproc.pca_matrix": np.zeros((128, 128)), "pproc.pca_means": np.zeros((128, 1))}
    path = write(state, tmp_path / "module.safetensors")
    again, facts, _ = imported(command, "vggish", path, tmp_path / "w2")
    assert_same_arrays(again, weights)
    assert set(facts["ignored"]) == {"pproc.pca_matrix", "pproc.pca_means"}


def test_the_command_by_itself():
    """In a process of its own: help with examples, without PyTorch."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = 'weights'\n"
        "import runpy; runpy.run_module('ssp_jax.weights', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "import", "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "--source=mask2former" in result.stdout
    assert "swin_base_patch4_window12_384_22k.pth" in result.stdout
