"""Back to AAVS's checkpoints: bit by bit, or refused."""

import numpy as np
import pytest
from weight_files import (
    assert_same_arrays,
    read,
    reference,
    released,
    write,
)

from ssp_jax.weights.folder import load_unused, save_weights


@pytest.mark.parametrize("stage", [1, 2])
def test_round_trip_is_bitwise(command, tmp_path, stage):
    state = released(stage)
    path = write(state, tmp_path / "aavs.safetensors")
    command("import", "--source=aavs", f"--path={path}", f"--out={tmp_path / 'w'}")
    out = tmp_path / "new" / "out.safetensors"
    status, text, error = command("export", "--to=aavs", f"--path={tmp_path / 'w'}", f"--out={out}")
    assert (status, error) == (0, "")
    assert f"AAVS stage {stage}" in text
    assert_same_arrays(read(out), state)
    assert [file.name for file in out.parent.iterdir()] == [out.name]


def test_other_constants_come_back(command, tmp_path):
    state = released(1)
    state["model.criterion.empty_weight"] = np.array([1, 1, 0.2], np.float32)
    path = write(state, tmp_path / "aavs.safetensors")
    command("import", "--source=aavs", f"--path={path}", f"--out={tmp_path / 'w'}")
    assert "criterion.empty_weight" in load_unused(tmp_path / "w")
    out = tmp_path / "out.safetensors"
    command("export", "--to=aavs", f"--path={tmp_path / 'w'}", f"--out={out}")
    assert_same_arrays(read(out), state)


def trained_params(stage):
    """As a run of the trained network has them."""
    params = {f"network/{name}": value for name, value in reference(stage).params().items()}
    extra = ("network/audio_encoder/dense/0/bias", "sound_classifier/bias", "audio_visual_map/bias")
    return params | {name: np.zeros(3, np.float32) for name in extra}


def test_trained_weights_need_no_source(command, tmp_path):
    save_weights(tmp_path / "w", trained_params(1), {})
    out = tmp_path / "out.safetensors"
    status, text, _ = command("export", "--to=aavs", f"--path={tmp_path / 'w'}", f"--out={out}")
    assert status == 0
    assert "audio_encoder" in text
    expected = released(1)
    for name in expected:
        if name.endswith((".output_proj.weight", ".output_proj.bias")) or ".out_proj." in name:
            expected[name] = (
                np.zeros_like(expected[name]) if "cross" not in name else expected[name]
            )
    assert_same_arrays(read(out), expected)


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_a_run(command, tmp_path, gelu):
    """The best parameters of a stage, and what its config says of the encoder."""
    import json

    from ssp_jax.checkpoints import Checkpoints
    from ssp_jax.weights.aavs import nested

    checkpoints = Checkpoints(tmp_path / "avss" / "checkpoints")
    checkpoints.save_best(3, nested(trained_params(2)), 0.5)
    checkpoints.close()
    run_config = {"model": {"size": "base", "gelu": None if gelu == "exact" else gelu}}
    (tmp_path / "config.json").write_text(json.dumps(run_config))
    out = tmp_path / "out.safetensors"
    status, _, error = command("export", "--to=aavs", f"--path={tmp_path / 'avss'}", f"--out={out}")
    if gelu == "exact":
        assert (status, error) == (0, "")
        assert_same_arrays(read(out), released(2))
    else:
        assert status == 1
        assert "gelu='tanh'" in error
        assert not out.exists()


def without(params, *parts):
    return {n: v for n, v in params.items() if not any(part in n for part in parts)}


CASES = {
    "audio_visual_map": lambda: trained_params(1) | {"network/audio_visual_map/bias": np.zeros(1)},
    "its encoder has no adapters": lambda: without(trained_params(1), "_adapter/"),
    "decoders have no adapters": lambda: without(trained_params(1), "output/adapter/"),
    "mixes AAVS's stages": lambda: without(trained_params(2), "prompt_embedding"),
    "no pixel_decoder, mask_decoder": lambda: without(trained_params(1), "decoder/"),
    "cross_norm/bias: missing": lambda: without(trained_params(1), "layers/2/cross_norm/bias"),
    "foreign/bias": lambda: trained_params(1) | {"network/foreign/bias": np.zeros(1)},
    "ffn_in/bias: has shape": lambda: (
        trained_params(1) | {"network/mask_decoder/layers/0/ffn_in/bias": np.zeros(3)}
    ),
}


@pytest.mark.parametrize("reason", CASES)
def test_what_aavs_cannot_express(refused, tmp_path, reason):
    save_weights(tmp_path / "w", CASES[reason](), {})
    error = refused(
        "export", "--to=aavs", f"--path={tmp_path / 'w'}", f"--out={tmp_path / 'o.pth'}"
    )
    assert reason in error or "torch" in error
    out = tmp_path / "o.safetensors"
    assert reason in refused("export", "--to=aavs", f"--path={tmp_path / 'w'}", f"--out={out}")


def test_bad_paths(refused, tmp_path):
    out = tmp_path / "out.safetensors"
    assert "expected a weight folder" in refused(
        "export", "--to=aavs", f"--path={tmp_path / 'none'}", f"--out={out}"
    )
    save_weights(tmp_path / "w", trained_params(2), {}, {"foreign": np.zeros(2, np.float32)})
    path = f"--path={tmp_path / 'w'}"
    assert "unused.safetensors" in refused("export", "--to=aavs", path, f"--out={out}")
    assert "ends in" in refused("export", "--to=aavs", path, f"--out={tmp_path / 'o.bin'}")
    out.write_text("mine")
    assert "exists already" in refused("export", "--to=aavs", path, f"--out={out}")
    assert out.read_text() == "mine"
