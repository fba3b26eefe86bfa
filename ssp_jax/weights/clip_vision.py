"""Names of the weights of CLIP's image encoder, as Hugging Face has them."""

import math
from collections.abc import Mapping
from typing import Any

from ssp_jax.models.clip_vision import ClipVision
from ssp_jax.weights.infer import count_in, shape_in, told_heads, transformer_config
from ssp_jax.weights.rules import PATCHES, Arrays, Rule, affine, norm
from ssp_jax.weights.shapes import param_shapes

ROOT = "clip_vision/"
PREFIX = "vision_model."
_PATCH_EMBEDDING = "embeddings.patch_embedding.weight"
_POSITIONS = "embeddings.position_embedding.weight"
_LAYERS = "encoder.layers"

_LAYER, _TO_LAYER = _LAYERS + ".{0}.", "layers/{0}/"
_ATTENTION = (
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "output/projection"),
)
# Without the prefix, which is taken off before.
RULES: tuple[Rule, ...] = (
    Rule(_PATCH_EMBEDDING, "patch_embedding/kernel", PATCHES),
    Rule("embeddings.class_embedding", "class_embedding"),
    Rule(_POSITIONS, "position_embedding"),
    *norm("pre_layrnorm", "input_norm"),
    *norm(_LAYER + "layer_norm1", _TO_LAYER + "attention_norm"),
    *(
        rule
        for source, target in _ATTENTION
        for rule in affine(_LAYER + "self_attn." + source, _TO_LAYER + "attention/" + target)
    ),
    *norm(_LAYER + "layer_norm2", _TO_LAYER + "ffn_norm"),
    *affine(_LAYER + "mlp.fc1", _TO_LAYER + "ffn_in"),
    *affine(_LAYER + "mlp.fc2", _TO_LAYER + "ffn_out"),
    *norm("post_layernorm", "output_norm"),
)
# Beginnings of names that are left out, and why.
SKIPPED = {
    "text_model.": "the text encoder",
    "text_projection.": "a head",
    "visual_projection.": "a head",
    "logit_scale": "for the comparison of images with texts",
    "vision_model.embeddings.position_ids": "computed here",
    "embeddings.position_ids": "computed here",
}


def clip_vision_arguments(state: Arrays, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """All arguments of `ClipVision`, told by arrays without the prefix 'vision_model.' and config.

    Args:
      config: of all of CLIP or of its image encoder. Without, heads are 64 wide as OpenAI's are.

    Raises:
      UserError: arrays are missing, or the config is of another network.
    """
    width, colours, patch, _ = shape_in(state, _PATCH_EMBEDDING, 4)
    tokens, _ = shape_in(state, _POSITIONS, 2)
    told = {
        "width": width,
        "layers": count_in(state, _LAYERS),
        "ffn": shape_in(state, f"{_LAYERS}.0.mlp.fc1.bias", 1)[0],
        "patch": patch,
        "image_size": patch * math.isqrt(tokens - 1),
    }
    expected = transformer_config(told, "quick_gelu", 1e-5) | {
        "patch_size": patch,
        "image_size": told["image_size"],
        "num_channels": colours,
    }
    return told | {"heads": max(width // 64, 1)} | told_heads(config, expected, "vision_config")


def shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of `ClipVision(**arguments)` by path. Raises: ValueError as it does."""
    return param_shapes(lambda rngs: ClipVision(**arguments, rngs=rngs))
