"""AAVS's weights (Stepping Stones, both stages) as parameters of `SSP`."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx, traverse_util

from ssp_jax.errors import UserError
from ssp_jax.models.ssp import SSP

Path = tuple[str | int, ...]


class Rule(NamedTuple):
    """Where the weights whose name matches `source` go.

    `target` is the parameter's path, with the pattern's groups filled in. `transform` turns the
    PyTorch array into ours. A parameter that several sources make up (query, key and value in one
    matrix) is joined along `axis` in the order of `part`.
    """

    source: str
    target: str
    transform: Callable[[np.ndarray], np.ndarray] = np.asarray
    part: int = 0
    axis: int = -1


def _linear(weight):
    return weight.T


def _pointwise(weight):
    return weight[:, :, 0, 0].T


def _convolution(weight):
    return weight.transpose(2, 3, 1, 0)


def _patches(weight):
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _third(index):
    """One of query, key and value of torch's `in_proj_*`, stacked along the first axis."""
    return lambda stacked: np.split(stacked, 3)[index].T  # a bias has one axis: .T is the identity


def _affine(source: str, target: str, kernel=_linear, part: int = 0) -> list[Rule]:
    """A layer with a weight and (perhaps) a bias."""
    return [
        Rule(source + r"\.weight", target + "/kernel", kernel, part),
        Rule(source + r"\.bias", target + "/bias", part=part),
    ]


def _norm(source: str, target: str) -> list[Rule]:
    return [
        Rule(source + r"\.weight", target + "/scale"),
        Rule(source + r"\.bias", target + "/bias"),
    ]


def _adapter(source: str, target: str) -> list[Rule]:
    return _affine(source + r"\.0", target + "/down") + _affine(source + r"\.2", target + "/up")


_ENCODER = r"model\.pixel_level_module\.encoder\."
_BLOCK = _ENCODER + r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_TO_BLOCK = r"encoder/stages/\1/blocks/\2/"
_PIXEL = r"model\.pixel_level_module\.decoder\."
_PIXEL_LAYER = _PIXEL + r"encoder\.layers\.(\d+)\."
_TO_PIXEL_LAYER = r"pixel_decoder/layers/\1/"
_DECODER = r"model\.transformer_module\."
_LAYER = _DECODER + r"decoder\.layers\.(\d+)\."
_TO_LAYER = r"mask_decoder/layers/\1/"

RULES: tuple[Rule, ...] = (
    # Swin
    *_affine(
        _ENCODER + r"embeddings\.patch_embeddings\.projection", "encoder/patch_embedding", _patches
    ),
    *_norm(_ENCODER + r"embeddings\.norm", "encoder/patch_norm"),
    *_norm(_BLOCK + "layernorm_before", _TO_BLOCK + "attention_norm"),
    Rule(
        _BLOCK + r"attention\.self\.relative_position_bias_table",
        _TO_BLOCK + "attention/position_bias",
    ),
    *_affine(_BLOCK + r"attention\.self\.query", _TO_BLOCK + "attention/qkv", part=0),
    *_affine(_BLOCK + r"attention\.self\.key", _TO_BLOCK + "attention/qkv", part=1),
    *_affine(_BLOCK + r"attention\.self\.value", _TO_BLOCK + "attention/qkv", part=2),
    *_affine(_BLOCK + r"attention\.output\.dense", _TO_BLOCK + "attention/projection"),
    *_adapter(_BLOCK + r"attention\.output\.swin_adapt_1", _TO_BLOCK + "attention_adapter"),
    *_norm(_BLOCK + "layernorm_after", _TO_BLOCK + "mlp_norm"),
    *_affine(_BLOCK + r"intermediate\.dense", _TO_BLOCK + "mlp_in"),
    *_affine(_BLOCK + r"output\.dense", _TO_BLOCK + "mlp_out"),
    *_adapter(_BLOCK + r"output\.swin_adapt_3", _TO_BLOCK + "mlp_adapter"),
    *_norm(_ENCODER + r"encoder\.layers\.(\d+)\.downsample\.norm", r"encoder/mergings/\1/norm"),
    *_affine(
        _ENCODER + r"encoder\.layers\.(\d+)\.downsample\.reduction",
        r"encoder/mergings/\1/reduction",
    ),
    *(
        rule
        for stage in range(4)
        for rule in _norm(
            _ENCODER + rf"hidden_states_norms\.stage{stage + 1}", f"encoder/output_norms/{stage}"
        )
    ),
    # Pixel decoder
    *_affine(
        _PIXEL + r"input_projections\.(\d+)\.0",
        r"pixel_decoder/input_projections/\1",
        _pointwise,
    ),
    *_norm(_PIXEL + r"input_projections\.(\d+)\.1", r"pixel_decoder/input_norms/\1"),
    Rule(_PIXEL + "level_embed", "pixel_decoder/level_embedding"),
    *_affine(_PIXEL_LAYER + r"self_attn\.sampling_offsets", _TO_PIXEL_LAYER + "attention/offsets"),
    *_affine(_PIXEL_LAYER + r"self_attn\.attention_weights", _TO_PIXEL_LAYER + "attention/weights"),
    *_affine(_PIXEL_LAYER + r"self_attn\.value_proj", _TO_PIXEL_LAYER + "attention/value"),
    *_affine(
        _PIXEL_LAYER + r"self_attn\.output_proj", _TO_PIXEL_LAYER + "attention/output/projection"
    ),
    *_adapter(_PIXEL_LAYER + r"self_attn\.avs_adapt", _TO_PIXEL_LAYER + "attention/output/adapter"),
    *_norm(_PIXEL_LAYER + "self_attn_layer_norm", _TO_PIXEL_LAYER + "attention_norm"),
    *_affine(_PIXEL_LAYER + "fc1", _TO_PIXEL_LAYER + "ffn_in"),
    *_affine(_PIXEL_LAYER + "fc2", _TO_PIXEL_LAYER + "ffn_out"),
    *_norm(_PIXEL_LAYER + "final_layer_norm", _TO_PIXEL_LAYER + "ffn_norm"),
    *_affine(_PIXEL + r"adapter_1\.0", "pixel_decoder/lateral", _pointwise),
    *_norm(_PIXEL + r"adapter_1\.1", "pixel_decoder/lateral_norm"),
    *_affine(_PIXEL + r"layer_1\.0", "pixel_decoder/fusion", _convolution),
    *_norm(_PIXEL + r"layer_1\.1", "pixel_decoder/fusion_norm"),
    *_affine(_PIXEL + "mask_projection", "pixel_decoder/mask_projection", _pointwise),
    # Mask decoder
    Rule(_DECODER + r"queries_features\.weight", "mask_decoder/query_feature"),
    Rule(_DECODER + r"queries_embedder\.weight", "mask_decoder/query_embedding"),
    Rule(_DECODER + r"level_embed\.weight", "mask_decoder/level_embedding"),
    *(
        rule
        for index, name in enumerate(("query", "key", "value"))
        for rule in (
            Rule(
                _LAYER + r"cross_attn\.in_proj_weight",
                _TO_LAYER + f"cross_attention/{name}/kernel",
                _third(index),
            ),
            Rule(
                _LAYER + r"cross_attn\.in_proj_bias",
                _TO_LAYER + f"cross_attention/{name}/bias",
                _third(index),
            ),
            *_affine(_LAYER + rf"self_attn\.{name[0]}_proj", _TO_LAYER + f"self_attention/{name}"),
        )
    ),
    *_affine(_LAYER + r"cross_attn\.out_proj", _TO_LAYER + "cross_attention/output/projection"),
    *_norm(_LAYER + "cross_attn_layer_norm", _TO_LAYER + "cross_norm"),
    *_affine(_LAYER + r"self_attn\.out_proj", _TO_LAYER + "self_attention/output/projection"),
    *_adapter(_LAYER + r"self_attn\.avs_adapt", _TO_LAYER + "self_attention/output/adapter"),
    *_norm(_LAYER + "self_attn_layer_norm", _TO_LAYER + "self_norm"),
    *_affine(_LAYER + "fc1", _TO_LAYER + "ffn_in"),
    *_affine(_LAYER + "fc2", _TO_LAYER + "ffn_out"),
    *_norm(_LAYER + "final_layer_norm", _TO_LAYER + "ffn_norm"),
    *_norm(_DECODER + r"decoder\.layernorm", "mask_decoder/norm"),
    *_affine(
        _DECODER + r"decoder\.mask_predictor\.mask_embedder\.(\d+)\.0",
        r"mask_decoder/mask_head/\1",
    ),
    *_affine("class_predictor", "mask_decoder/class_head"),
    *(
        Rule(
            _DECODER + rf"{name}_embed\.weight",
            "mask_decoder/prompt_embedding",
            part=row,
            axis=0,
        )
        for row, name in enumerate(("silence", "uncertain", "audio"))
    ),
    *_affine(r"audio_proj\.0", "audio_projection/hidden"),
    *_affine(r"audio_proj\.2", "audio_projection/output"),
)

# Constants of the PyTorch modules: computed here, or part of the loss.
IGNORED = (
    _BLOCK + r"attention\.self\.relative_position_index",
    r"criterion\.empty_weight",
)
# Stage 1 keeps the projections that its adapters replace, untrained and unused.
REPLACED = (
    _PIXEL_LAYER + r"self_attn\.output_proj\.(weight|bias)",
    _LAYER + r"self_attn\.out_proj\.(weight|bias)",
)


def _shapes(model_config: Mapping[str, Any]) -> dict[Path, tuple[int, ...]]:
    model = nnx.eval_shape(lambda: SSP(**model_config, rngs=nnx.Rngs(0)))
    leaves = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {path: leaf.shape for path, leaf in leaves.items() if path[0] != "audio_encoder"}


def _path(text: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in text.split("/"))


def _name(path: Path) -> str:
    return "/".join(map(str, path))


def load_aavs_state(
    state: Mapping[str, np.ndarray], model_config: Mapping[str, Any]
) -> dict[str | int, Any]:
    """Parameters of `SSP(**model_config)` from the state of AAVS's network.

    Args:
      state: arrays by the names they have in AAVS's Mask2Former (`model.pixel_level_module...`,
        `class_predictor...`), and `audio_proj...`.
      model_config: keyword arguments of `SSP` without rngs.

    Returns:
      A pure dict of float32 numpy arrays as `nnx.to_pure_dict(nnx.state(model, nnx.Param))` has
      it, without `audio_encoder`: AAVS reads audio features from files.

    Raises:
      UserError: names nobody knows, parameters without a source, and shapes that differ from the
        model's: all of them, in one message.
    """
    wanted = _shapes(model_config)
    ignored = IGNORED
    if model_config.get("decoder_adapter", "replace") == "replace":
        ignored += REPLACED
    found: dict[Path, dict[int, tuple[Rule, np.ndarray]]] = {}
    problems = []
    for key, value in state.items():
        if any(re.fullmatch(pattern, key) for pattern in ignored):
            continue
        matches = [(rule, re.fullmatch(rule.source, key)) for rule in RULES]
        matches = [(rule, match) for rule, match in matches if match]
        for rule, match in matches:
            path = _path(match.expand(rule.target))
            found.setdefault(path, {})[rule.part] = (rule, np.asarray(value))
            if path not in wanted:
                problems.append(f"{key}: the model has no {_name(path)} to hold it")
        if not matches:
            problems.append(f"{key}: not a name of AAVS's network")
    params = {}
    for path, shape in wanted.items():
        sources = found.get(path, {})
        parts = {rule.part: rule.axis for rule in RULES if _fits(rule, path)}
        missing = [part for part in parts if part not in sources]
        if missing:
            problems.append(f"{_name(path)}: no weights for it (part {missing} of {len(parts)})")
            continue
        try:
            arrays = [sources[part][0].transform(sources[part][1]) for part in sorted(parts)]
            value = np.concatenate(arrays, axis=parts[0]) if len(arrays) > 1 else arrays[0]
        except (ValueError, IndexError) as error:
            problems.append(f"{_name(path)}: {error}")
            continue
        if value.shape != shape:
            problems.append(f"{_name(path)}: has shape {value.shape}, the model needs {shape}")
        params[path] = np.ascontiguousarray(value, dtype=np.float32)
    if problems:
        raise UserError(
            "these weights do not fit the model; check its size, decoder_adapter ('replace' in "
            "AAVS's stage 1, 'after' in stage 2), mask_prompt, num_classes and num_queries:\n  "
            + "\n  ".join(problems)
        )
    return traverse_util.unflatten_dict(params)


def _fits(rule: Rule, path: Path) -> bool:
    pattern = re.sub(r"\\\d", r"\\d+", rule.target)
    return re.fullmatch(pattern, _name(path)) is not None
