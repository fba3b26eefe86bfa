"""AAVS's weights (Stepping Stones, both stages): Mask2Former's with adapters, prompt and sound."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ssp_jax.errors import UserError
from ssp_jax.models.ssp import SSP
from ssp_jax.models.swin import relative_index
from ssp_jax.weights import mask2former, swin
from ssp_jax.weights.mask2former import DECODER, EMPTY_WEIGHT, LAYER, PIXEL_LAYER
from ssp_jax.weights.rules import Arrays, Rule, Share, affine, is_one_of, to_params
from ssp_jax.weights.shapes import param_shapes

AUDIO = "audio_proj."
PROMPTS = tuple(f"{DECODER}{name}_embed.weight" for name in ("silence", "uncertain", "audio"))

RULES: tuple[Rule, ...] = (
    *mask2former.RULES,
    *swin.adapter_rules(mask2former.ENCODER),
    *swin.adapter(
        PIXEL_LAYER + "self_attn.avs_adapt",
        mask2former.TO_PIXEL_LAYER + "attention/output/adapter",
    ),
    *swin.adapter(
        LAYER + "self_attn.avs_adapt", mask2former.TO_LAYER + "self_attention/output/adapter"
    ),
    *(
        Rule(name, "mask_decoder/prompt_embedding", target_share=Share(row, 3))
        for row, name in enumerate(PROMPTS)
    ),
    *affine(AUDIO + "0", "audio_projection/hidden"),
    *affine(AUDIO + "2", "audio_projection/output"),
)
# Stage 1 keeps the projections that its adapters replace, untrained and unused.
REPLACED = tuple(
    f"{layer}self_attn.{name}.{kind}"
    for layer, name in ((PIXEL_LAYER, "output_proj"), (LAYER, "out_proj"))
    for kind in ("weight", "bias")
)
_NO_OBJECT_WEIGHT = 0.1


def is_replaced(name: str, model_config: Mapping[str, Any]) -> bool:
    """Tell whether a source array is one that this model has no place for, but AAVS's has."""
    return model_config["decoder_adapter"] == "replace" and is_one_of(name, REPLACED)


def without_prefixes(state: Arrays) -> dict[str, np.ndarray]:
    """`state` by the names of Mask2Former and `audio_proj...`.

    Released checkpoints hold Mask2Former as `model`, hence one 'model.' more; they, or the same
    trained on several GPUs, may have a 'module.' before everything.

    Raises:
      UserError: two arrays of one name.
    """
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    if not any(name.startswith(("model.model.", "model.class_predictor.")) for name in state):
        return dict(state)
    plain = {name.removeprefix("model."): value for name, value in state.items()}
    if len(plain) < len(state):
        raise UserError("some names are there both with and without a leading 'model.'")
    return plain


def released_name(name: str) -> str:
    """A released checkpoint's name of what `without_prefixes` calls `name`."""
    return name if name.startswith(AUDIO) else "model." + name


def position_index(window: int) -> np.ndarray:
    """Swin's buffer (L, L) int64, L = window^2: the bias table's row for two positions."""
    return relative_index(window).reshape(window**2, window**2)


def empty_weight(num_classes: int) -> np.ndarray:
    """The loss's class weights (K + 1,) float32."""
    weight = np.ones(num_classes + 1, np.float32)
    weight[-1] = _NO_OBJECT_WEIGHT
    return weight


def constants(model_config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The buffers in a state of AAVS's network that are not weights, by name."""
    index = position_index(model_config["window"])
    return {
        mask2former.POSITION_INDEX.format(stage, block): index
        for stage, depth in enumerate(model_config["depths"])
        for block in range(depth)
    } | {EMPTY_WEIGHT: empty_weight(model_config["num_classes"])}


def model_shapes(model_config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of `SSP(**model_config)` by path, without `audio_encoder`.

    AAVS reads audio features from files. Raises: ValueError as `SSP` does.
    """
    shapes = param_shapes(lambda rngs: SSP(**model_config, rngs=rngs))
    return {path: shape for path, shape in shapes.items() if not path.startswith("audio_encoder/")}


def aavs_params(state: Arrays, model_config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters of `SSP(**model_config)` from the state of AAVS's network.

    Args:
      state: arrays by the names they have in AAVS's Mask2Former (`model.pixel_level_module...`,
        `class_predictor...`), and `audio_proj...`.
      model_config: keyword arguments of `SSP` without rngs.

    Returns:
      float32 arrays by path, without `audio_encoder`: AAVS reads audio features from files.

    Raises:
      UserError: names nobody knows, parameters without a source, and shapes that differ from the
        model's: all of them, in one message.
    """
    replaced = REPLACED if model_config.get("decoder_adapter", "replace") == "replace" else ()
    return to_params(
        state,
        RULES,
        model_shapes(model_config),
        accounted=(*mask2former.IGNORED, *replaced),
        what="AAVS's network",
        hint="these weights do not fit the model; check its size, decoder_adapter ('replace' in "
        "AAVS's stage 1, 'after' in stage 2), mask_prompt, num_classes and num_queries:",
    )


def nested(params: Arrays) -> dict[str | int, Any]:
    """Turn leaves by path ('layers/0/bias') to nested dicts, with numbers for what nnx numbers."""
    return traverse_util.unflatten_dict(
        {
            tuple(int(part) if part.isdigit() else part for part in path.split("/")): value
            for path, value in params.items()
        }
    )
