"""What a model was built with, told by its weights."""

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

from ssp_jax.errors import UserError
from ssp_jax.models.perceiver_flow import PerceiverFlow
from ssp_jax.weights import aavs, perceiver_flow, swin
from ssp_jax.weights.mask2former import DECODER, ENCODER, LAYER, PIXEL_LAYER
from ssp_jax.weights.rules import Arrays

_LEVELS, _POINTS = 3, 4  # of the deformable attention: the same in every Mask2Former


def swin_arguments(state: Arrays, prefix: str = "") -> dict[str, Any]:
    """embed_dim, depths, swin_heads and window from arrays under Hugging Face's names.

    Raises:
      UserError: they are not there, or of shapes that no Swin has.
    """
    patches = shape_in(state, prefix + "embeddings.patch_embeddings.projection.weight", 4)
    return _swin(state, patches[0], prefix + "encoder.layers", "attention.self")


def original_swin_arguments(state: Arrays) -> dict[str, Any]:
    """The same from arrays under Microsoft's names."""
    return _swin(state, shape_in(state, "patch_embed.proj.weight", 4)[0], "layers", "attn")


def _swin(state: Arrays, embed_dim: int, layers: str, attention: str) -> dict[str, Any]:
    table = f"{attention}.relative_position_bias_table"
    stages = range(count_in(state, layers))
    depths = tuple(count_in(state, f"{layers}.{stage}.blocks") for stage in stages)
    tables = [shape_in(state, f"{layers}.{stage}.blocks.0.{table}", 2) for stage in stages]
    rows = tables[0][0] if tables else 0
    window = (math.isqrt(rows) + 1) // 2
    if len(depths) != swin.STAGES or (2 * window - 1) ** 2 != rows:
        raise UserError(
            f"{layers}: {len(depths)} stages and {rows} rows in the first {table}; expected "
            f"{swin.STAGES} stages and an odd square, as Swin has"
        )
    return {
        "embed_dim": embed_dim,
        "depths": depths,
        "swin_heads": tuple(heads for _, heads in tables),
        "window": window,
    }


def mask2former_arguments(state: Arrays) -> dict[str, Any]:
    """All arguments of `SSP` that Mask2Former's or AAVS's arrays (without prefixes) tell.

    `decoder_adapter` and `mask_prompt` tell AAVS's stages apart; without its adapters it is a
    Mask2Former, which has no `audio_hidden` either.

    Raises:
      UserError: arrays are missing or of shapes that this network has not.
    """
    queries, hidden = shape_in(state, DECODER + "queries_features.weight", 2)
    offsets, _ = shape_in(state, PIXEL_LAYER.format(0) + "self_attn.sampling_offsets.weight", 2)
    prompt = any(name in state for name in aavs.PROMPTS)
    adapted = any("self_attn.avs_adapt." in name for name in state)
    audio = aavs.AUDIO + "0.weight"
    return {
        "num_classes": shape_in(state, "class_predictor.weight", 2)[0] - 1,
        "num_queries": queries,
        **swin_arguments(state, ENCODER),
        "adapters": any("swin_adapt_" in name for name in state),
        "hidden": hidden,
        "heads": offsets // (_LEVELS * _POINTS * 2),
        "encoder_layers": count_in(state, PIXEL_LAYER.removesuffix(".{0}.")),
        "encoder_ffn": shape_in(state, PIXEL_LAYER.format(0) + "fc1.weight", 2)[0],
        "decoder_layers": count_in(state, LAYER.removesuffix(".{0}.")),
        "decoder_ffn": shape_in(state, LAYER.format(0) + "fc1.weight", 2)[0],
        "decoder_adapter": ("after" if prompt else "replace") if adapted else "none",
        "mask_prompt": prompt,
        **({"audio_hidden": shape_in(state, audio, 2)[0]} if audio in state else {}),
    }


def vggish_width(state: Arrays) -> float:
    """VGGish's `audio_width`. Raises UserError: it is not there."""
    return shape_in(state, "features.0.weight", 4)[0] / 64


def perceiver_flow_arguments(state: Arrays, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """All arguments of `PerceiverFlow`, told by Hugging Face's arrays and config.

    Args:
      config: what config.json says. Without, only the published size is known: arrays tell neither
        the frames' size nor the number of heads.

    Raises:
      UserError: arrays are missing, or the config is missing, incomplete or of another network.
    """
    latents, channels = shape_in(state, perceiver_flow.LATENTS, 2)
    patch_channels, _ = shape_in(state, perceiver_flow.PATCHES + ".weight", 2)
    (pixel_channels,) = shape_in(
        state, perceiver_flow.ENCODER + "attention.self.layernorm2.weight", 1
    )
    told = {
        "latents": latents,
        "channels": channels,
        "layers": count_in(state, perceiver_flow.LAYERS),
        "bands": (pixel_channels - patch_channels - 2) // 4,
        "patch_channels": patch_channels,
    }
    if config is None:
        published = inspect.signature(PerceiverFlow.__init__).parameters
        if any(published[name].default != value for name, value in told.items()):
            raise UserError(
                "these weights are not of the published size; put their config.json beside them"
            )
        return told | {name: published[name].default for name in ("size", "heads", "cross_heads")}
    expected = {
        "model_type": "perceiver",
        "num_latents": latents,
        "d_latents": channels,
        "num_self_attends_per_block": told["layers"],
        "num_blocks": 1,
        "hidden_act": "gelu",
        "use_query_residual": True,
        "cross_attention_shape_for_attention": "kv",
    }
    problems = _contradictions(config, expected, "")
    size = config.get("train_size")
    if not (isinstance(size, list) and len(size) == 2 and all(map(_is_count, size))):
        problems.append(f"train_size is {size!r}, expected height and width")
    for name in ("num_self_attention_heads", "num_cross_attention_heads"):
        if not _is_count(config.get(name)):
            problems.append(f"{name} is {config.get(name)!r}, expected a number")
    _check(problems, "config.json")
    return told | {
        "size": tuple(size),
        "heads": config["num_self_attention_heads"],
        "cross_heads": config["num_cross_attention_heads"],
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def stage_of(arguments: Mapping[str, Any]) -> int | None:
    """AAVS's stage, None for what is not AAVS."""
    return {"replace": 1, "after": 2}.get(arguments.get("decoder_adapter"))


def check_config(config: Mapping[str, Any], arguments: Mapping[str, Any], where: str) -> None:
    """Compare a Hugging Face config.json with what the weights tell.

    Raises:
      UserError: they contradict each other, or the config asks for what this network has not.
    """
    backbone = config.get("backbone_config") or config
    if not isinstance(backbone, Mapping):
        raise UserError(f"{where}: backbone_config is no object")
    expected = {
        "embed_dim": arguments["embed_dim"],
        "depths": list(arguments["depths"]),
        "num_heads": list(arguments["swin_heads"]),
        "window_size": arguments["window"],
        "hidden_act": "gelu",
        "mlp_ratio": 4.0,
        "patch_size": 4,
        "num_channels": 3,
        "qkv_bias": True,
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
    }
    problems = _contradictions(
        backbone, expected, "backbone_config." if backbone is not config else ""
    )
    if "num_queries" in arguments:
        problems += _contradictions(
            config,
            {
                "hidden_dim": arguments["hidden"],
                "num_queries": arguments["num_queries"],
                "num_attention_heads": arguments["heads"],
                "encoder_layers": arguments["encoder_layers"],
                "encoder_feedforward_dim": arguments["encoder_ffn"],
                # Hugging Face counts the initial queries' predictions.
                "decoder_layers": arguments["decoder_layers"] + 1,
                "dim_feedforward": arguments["decoder_ffn"],
                "activation_function": "relu",
                "pre_norm": False,
                "common_stride": 4,
                "feature_strides": [4, 8, 16, 32],
            },
            "",
        )
    _check(problems, where)


def transformer_config(told: Mapping[str, Any], activation: str, epsilon: float) -> dict[str, Any]:
    """Return what Hugging Face's config of a transformer must say, by width, layers and ffn."""
    return {
        "hidden_size": told["width"],
        "num_hidden_layers": told["layers"],
        "intermediate_size": told["ffn"],
        "hidden_act": activation,
        "layer_norm_eps": epsilon,
    }


def told_heads(
    config: Mapping[str, Any] | None, expected: Mapping[str, Any], part: str = ""
) -> dict[str, int]:
    """`heads` as the config, or its `part`, says; nothing without a config.

    Raises:
      UserError: it contradicts what is expected.
    """
    if config is None:
        return {}
    config = config.get(part, config)
    if not isinstance(config, Mapping):
        raise UserError(f"config.json: {part} is no object")
    problems = _contradictions(config, expected, "")
    # Hugging Face leaves out what is as in its classes: 12 in all three.
    heads = config.get("num_attention_heads", 12)
    if not _is_count(heads):
        problems.append(f"num_attention_heads is {heads!r}, expected a number")
    _check(problems, "config.json")
    return {"heads": heads}


def _check(problems: list[str], where: str) -> None:
    if problems:
        raise UserError(
            f"{where} is not of this network, or not of these weights:\n  " + "\n  ".join(problems)
        )


def _contradictions(config: Mapping, expected: Mapping, prefix: str) -> list[str]:
    return [
        f"{prefix}{key} is {config[key]!r}, expected {value!r}"
        for key, value in expected.items()
        if key in config and config[key] != value
    ]


def shape_in(state: Arrays, name: str, dimensions: int) -> tuple[int, ...]:
    """Shape of an array. Raises UserError: it is not there, or has other dimensions."""
    if name not in state:
        raise UserError(f"there is no {name}: these are weights of another model")
    shape = state[name].shape
    if len(shape) != dimensions or not all(shape):
        raise UserError(f"{name} has shape {shape}: expected {dimensions} dimensions")
    return shape


def count_in(state: Arrays, prefix: str) -> int:
    """Count how many numbers follow `prefix` + '.', which are expected to be 0, 1, ..."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for match in map(pattern.match, state) if match})
