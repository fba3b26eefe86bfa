"""What is wrong with a file is said in one message, and nothing is written."""

import json

import numpy as np
import pytest
from weight_files import (
    STATES,
    config,
    original_swin_state,
    released,
    swin_state,
    vggish_state,
    write,
    write_hub_folder,
)

# Of each kind, a bias from which nothing is inferred.
_LATER = ("layers.1.blocks.0.layernorm_before.bias", "layers.1.blocks.0.norm1.bias", "ngs.4.bias")


@pytest.fixture
def refused_import(refused, tmp_path):
    def run(kind, path):
        return refused("import", f"--source={kind}", f"--path={path}", f"--out={tmp_path / 'w'}")

    return run


@pytest.mark.parametrize("kind", STATES)
def test_damaged_files(refused_import, tmp_path, kind):
    path = write(STATES[kind](), tmp_path / "weights.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], whole[:7], b"", b"\x80\x04" * 50):
        path.write_bytes(damaged)
        assert "truncated" in refused_import(kind, path)


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("other", STATES)
def test_weights_of_another_model(refused_import, tmp_path, kind, other):
    if kind == other:
        return
    path = write(STATES[other](), tmp_path / "weights.safetensors")
    error = refused_import(kind, path)
    assert f"read as {kind}" in error
    assert len(error.splitlines()) < 200


def test_renamed_missing_and_surplus_arrays(refused_import, tmp_path):
    for kind, make in STATES.items():
        state = make()
        name = next(n for n in state if n.endswith(_LATER))
        state["renamed.weight"] = state.pop(name)
        error = refused_import(kind, write(state, tmp_path / f"{kind}.safetensors"))
        assert "renamed.weight: not a name" in error, kind


def test_shapes_and_values(refused_import, tmp_path):
    norm = "model.model.pixel_level_module.encoder.encoder.layers.0.blocks.0.layernorm_after.bias"
    state = released(1)
    state[norm] = np.zeros(7, np.float32)
    error = refused_import("aavs", write(state, tmp_path / "1.safetensors"))
    assert "encoder/stages/0/blocks/0/mlp_norm/bias: has shape (7,), the model needs (8,)" in error
    state[norm] = np.full(8, np.inf, np.float32)
    error = refused_import("aavs", write(state, tmp_path / "2.safetensors"))
    assert "mlp_norm/bias: has values that are not finite" in error
    state = released(1)
    index = norm.replace("layernorm_after.bias", "attention.self.relative_position_index")
    state[index] = state[index].T
    error = refused_import("aavs", write(state, tmp_path / "3.safetensors"))
    assert "relative_position_index" in error
    state = released(1) | {"class_predictor.weight": np.zeros((3, 32), np.float32)}
    error = refused_import("aavs", write(state, tmp_path / "4.safetensors"))
    assert "with and without" in error


def test_impossible_sizes(refused_import, tmp_path):
    state = swin_state()
    table = "encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"
    state[f"swin.{table}"] = np.zeros((50, 1), np.float32)
    error = refused_import("swin", write(state, tmp_path / "1.safetensors"))
    assert "odd square" in error
    state[f"swin.{table}"] = np.zeros((49, 3), np.float32)  # 8 channels, 3 heads
    error = refused_import("swin", write(state, tmp_path / "2.safetensors"))
    assert "8 channels do not divide into 3 heads" in error
    state = {k: v for k, v in original_swin_state().items() if "layers.3" not in k}
    error = refused_import("swin-original", write(state, tmp_path / "3.safetensors"))
    assert "expected 4 stages" in error
    state = swin_state() | {"swin.embeddings.patch_embeddings.projection.weight": np.float32(1)}
    error = refused_import("swin", write(state, tmp_path / "4.safetensors"))
    assert "expected 4 dimensions" in error


def test_a_config_that_contradicts(refused_import, tmp_path):
    hub = config() | {"num_queries": 100, "pre_norm": True}
    hub["backbone_config"] = hub["backbone_config"] | {"window_size": 7, "hidden_act": "relu"}
    folder = write_hub_folder(tmp_path / "hub", STATES["mask2former"](), hub)
    error = refused_import("mask2former", folder)
    for part in (
        "num_queries is 100, expected 8",
        "pre_norm is True",
        "backbone_config.window_size is 7, expected 4",
        "backbone_config.hidden_act is 'relu'",
    ):
        assert part in error
    (folder / "config.json").write_text('{"backbone_config": 3}')
    assert "backbone_config" in refused_import("mask2former", folder)
    (folder / "config.json").write_text("[" * 100_000)
    assert "JSON" in refused_import("mask2former", folder)


def test_indexes_of_shards(refused_import, tmp_path):
    state = STATES["mask2former"]()
    write(state, tmp_path / "hub" / "a.safetensors")
    index = tmp_path / "hub" / "model.safetensors.index.json"

    def refused_index(content):
        index.write_text(json.dumps(content))
        return refused_import("mask2former", tmp_path / "hub")

    assert "weight_map" in refused_index({"metadata": {}})
    assert "weight_map" in refused_index({"weight_map": {"a": 3}})
    outside = dict.fromkeys(state, "../../etc/passwd")
    assert "outside of its folder" in refused_index({"weight_map": outside})
    for name in ("b.safetensors", 1000 * "b" + ".safetensors"):
        assert "no such file" in refused_index({"weight_map": dict.fromkeys(state, name)})
    surplus = dict.fromkeys([*state, "surplus"], "a.safetensors")
    assert "differ in 1 names, for example surplus" in refused_index({"weight_map": surplus})


def test_paths(refused_import, refused, tmp_path):
    assert "no such file" in refused_import("aavs", tmp_path / "none.pth")
    (tmp_path / "empty").mkdir()
    assert "expected one of" in refused_import("mask2former", tmp_path / "empty")
    text = tmp_path / "weights.txt"
    text.write_text("hello")
    assert "expected a .safetensors" in refused_import("aavs", text)
    nothing = write({}, tmp_path / "nothing.safetensors")
    assert "holds no arrays" in refused_import("aavs", nothing)
    good = write(released(1), tmp_path / "good.safetensors")
    (tmp_path / "w").mkdir()
    assert "exists already" in refused_import("aavs", good)
    out = f"--out={text / 'w'}"
    assert "expected a folder" in refused("import", "--source=aavs", f"--path={good}", out)


def test_other_files_of_vggish(refused_import, tmp_path):
    pca = {"pca_eigen_vectors": np.zeros((128, 128)), "pca_means": np.zeros(128)}
    path = write(pca, tmp_path / "pca.safetensors")
    assert "post-processing" in refused_import("vggish", path)
    checkpoint = tmp_path / "vggish_model.ckpt"
    checkpoint.write_bytes(b"\0" * 64)
    for kind in ("vggish", "vggish-tf"):
        assert "vggish-10086976.pth" in refused_import(kind, checkpoint)
    state = vggish_state()
    state["features.0.weight"] = state["features.0.weight"][:1]
    assert "convolutions" in refused_import("vggish", write(state, tmp_path / "v.safetensors"))


def test_without_pytorch(refused_import, refused, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    path = tmp_path / "aavs.pth"
    path.write_bytes(b"any")
    assert "pip install torch==2.13.0" in refused_import("aavs", path)
    out = f"--out={tmp_path / 'out.pth'}"
    assert "pip install torch" in refused("export", "--to=aavs", f"--path={tmp_path}", out)
