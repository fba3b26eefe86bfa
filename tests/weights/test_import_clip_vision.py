"""CLIP's image encoder into a weight folder."""

import numpy as np
import pytest
from weight_files import assert_same_arrays, write, write_hub_folder

from ssp_jax.weights import clip_vision
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.rules import to_source

CLIP = {"width": 128, "layers": 2, "ffn": 12, "patch": 4, "image_size": 12, "heads": 2}
CONFIG = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "patch_size": 4,
    "image_size": 12,
    "hidden_act": "quick_gelu",
}


def params():
    random = np.random.default_rng(0)
    shapes = clip_vision.shapes(CLIP)
    return {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def state(prefix="vision_model."):
    """Of all of CLIP, as OpenAI's files on the hub are."""
    names = to_source(params(), clip_vision.RULES, what="CLIP")
    others = ("text_model.final_layer_norm.bias", "text_projection.weight", "logit_scale")
    found = {prefix + name: value for name, value in names.items()}
    found |= dict.fromkeys(others, np.zeros((), np.float32))
    return found | {prefix + "embeddings.position_ids": np.arange(10)[None]}


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_with_and_without_config(command, tmp_path, prefix):
    expected = {f"clip_vision/{name}": value for name, value in params().items()}
    part = CONFIG if not prefix else {"vision_config": CONFIG}
    folder = write_hub_folder(tmp_path / "hub", state(prefix), part)
    alone = write(state(prefix), tmp_path / "alone.safetensors")
    for path, heads in ((folder, 4), (alone, 2)):
        out = tmp_path / f"w{heads}"
        status, text, error = command(
            "import", "--source=clip_vision", f"--path={path}", f"--out={out}"
        )
        assert (status, error) == (0, "")
        assert_same_arrays(load_weights(out), expected)
        facts = load_facts(out)
        assert facts["model"] == CLIP | {"heads": heads}
        assert facts["ignored"].keys() == {
            "text_model.*",
            "text_projection.*",
            "logit_scale*",
            f"{prefix}embeddings.position_ids*",
        }
        assert "left out: text_model.* (the text encoder)" in text


def test_refusals(refused, tmp_path):
    def refusal(found, config=None):
        path = write_hub_folder(tmp_path / "hub", found, config or {"vision_config": CONFIG})
        return refused(
            "import", "--source=clip_vision", f"--path={path}", f"--out={tmp_path / 'w'}"
        )

    tiny = {"text_model.embeddings.token_embedding.weight": np.zeros((2, 2), np.float32)}
    assert "there is no embeddings.patch_embedding.weight" in refusal(tiny)
    wrong = state()
    wrong["vision_model.embeddings.position_embedding.weight"] = np.zeros((12, 128), np.float32)
    error = refusal(wrong)
    assert "position_embedding: has shape (12, 128), the model needs (10, 128)" in error
    wrong = state()
    wrong["vision_model.head.weight"] = wrong.pop("vision_model.post_layernorm.bias")
    error = refusal(wrong)
    assert "head.weight: not a name of CLIP's image encoder" in error
    assert "output_norm/bias: no weights for it" in error
    error = refusal(state(), {"vision_config": CONFIG | {"hidden_act": "gelu", "patch_size": 16}})
    assert "hidden_act is 'gelu', expected 'quick_gelu'" in error
    assert "patch_size is 16, expected 4" in error
    assert "vision_config is no object" in refusal(state(), {"vision_config": None})
