"""Names of Swin's weights: Hugging Face's and those of Microsoft's own files."""

import re
from collections.abc import Mapping
from typing import Any

from ssp_jax.errors import UserError
from ssp_jax.models.swin import Swin
from ssp_jax.weights.rules import LINEAR, PATCHES, Arrays, Rule, Share, affine, norm
from ssp_jax.weights.shapes import param_shapes

STAGES = 4


def adapter(source: str, target: str) -> list[Rule]:
    """AAVS's bottleneck: a sequence of linear layer, ReLU, linear layer."""
    return affine(source + ".0", target + "/down") + affine(source + ".2", target + "/up")


def block_rules(prefix: str) -> tuple[Rule, ...]:
    """Everything up to the output norms, as Hugging Face's `SwinModel` names it."""
    block, to_block = prefix + "encoder.layers.{0}.blocks.{1}.", "encoder/stages/{0}/blocks/{1}/"
    downsample = prefix + "encoder.layers.{0}.downsample"
    return (
        *affine(
            prefix + "embeddings.patch_embeddings.projection", "encoder/patch_embedding", PATCHES
        ),
        *norm(prefix + "embeddings.norm", "encoder/patch_norm"),
        *norm(block + "layernorm_before", to_block + "attention_norm"),
        Rule(
            block + "attention.self.relative_position_bias_table",
            to_block + "attention/position_bias",
        ),
        *(
            rule
            for index, name in enumerate(("query", "key", "value"))
            for rule in affine(
                block + f"attention.self.{name}",
                to_block + "attention/qkv",
                target_share=Share(index, 3, -1),
            )
        ),
        *affine(block + "attention.output.dense", to_block + "attention/projection"),
        *norm(block + "layernorm_after", to_block + "mlp_norm"),
        *affine(block + "intermediate.dense", to_block + "mlp_in"),
        *affine(block + "output.dense", to_block + "mlp_out"),
        *norm(downsample + ".norm", "encoder/mergings/{0}/norm"),
        Rule(downsample + ".reduction.weight", "encoder/mergings/{0}/reduction/kernel", LINEAR),
    )


def output_norm_rules(prefix: str) -> tuple[Rule, ...]:
    """The norm of each stage's output: `SwinBackbone` has them, a classifier the last one only."""
    return tuple(
        rule
        for stage in range(STAGES)
        for rule in norm(
            f"{prefix}hidden_states_norms.stage{stage + 1}", f"encoder/output_norms/{stage}"
        )
    )


def adapter_rules(prefix: str) -> tuple[Rule, ...]:
    """AAVS's adapters in every block."""
    block, to_block = prefix + "encoder.layers.{0}.blocks.{1}.", "encoder/stages/{0}/blocks/{1}/"
    return (
        *adapter(block + "attention.output.swin_adapt_1", to_block + "attention_adapter"),
        *adapter(block + "output.swin_adapt_3", to_block + "mlp_adapter"),
    )


# transformers 5 calls its modules otherwise than the files that its save_pretrained writes; whoever
# saves a state dict himself has the modules' names.
_OF_MODULES = {
    **{f"attention.{n[0]}_proj.": f"attention.self.{n}." for n in ("query", "key", "value")},
    "attention.relative_position_bias.": "attention.self.",
    "attention.o_proj.": "attention.output.dense.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
_OF_MODULE = re.compile(
    r"(.*encoder\.layers\.\d+\.blocks\.\d+\.)(" + "|".join(map(re.escape, _OF_MODULES)) + ")(.*)"
)
_IN_BACKBONE = re.compile(r"(model\.pixel_level_module\.encoder\.)swin\.(embeddings|encoder)(\..*)")


def older_names(state: Arrays) -> tuple[Arrays, int]:
    """The arrays by the names in files, and how many had the names of transformers 5's modules."""
    if not any(map(_OF_MODULE.fullmatch, state)):
        return state, 0
    renamed = {}
    for name, value in state.items():
        found = _OF_MODULE.fullmatch(name)
        name = f"{found[1]}{_OF_MODULES[found[2]]}{found[3]}" if found else name
        renamed[_IN_BACKBONE.sub(r"\1\2\3", name)] = value
    if len(renamed) < len(state):
        raise UserError("some names are there both as transformers 4 and as 5 has them")
    return renamed, len(state.keys() - renamed.keys())


POSITION_INDEX = "encoder.layers.{0}.blocks.{1}.attention.self.relative_position_index"

# `SwinModel` and `SwinForImageClassification` (whose prefix is taken off before).
_LAST_NORM = f"encoder/output_norms/{STAGES - 1}"
CLASSIFIER_RULES = (*block_rules(""), *norm("layernorm", _LAST_NORM))
BACKBONE_RULES = (*block_rules(""), *output_norm_rules(""))
IGNORED = {
    POSITION_INDEX: "computed here",
    "classifier.weight": "the classifier's head",
    "classifier.bias": "the classifier's head",
}
# A backbone's file may carry the classifier's norm, which the backbone does not use.
BACKBONE_IGNORED = IGNORED | {
    f"{prefix}layernorm.{kind}": "the classifier's norm"
    for prefix in ("", "swin.")
    for kind in ("weight", "bias")
}

_BLOCK, _TO_BLOCK = "layers.{0}.blocks.{1}.", "encoder/stages/{0}/blocks/{1}/"
# Both projects concatenate the four neighbours of a merged patch in the same order, and stack
# query, key and value in theirs.
ORIGINAL_RULES = (
    *affine("patch_embed.proj", "encoder/patch_embedding", PATCHES),
    *norm("patch_embed.norm", "encoder/patch_norm"),
    *norm(_BLOCK + "norm1", _TO_BLOCK + "attention_norm"),
    Rule(_BLOCK + "attn.relative_position_bias_table", _TO_BLOCK + "attention/position_bias"),
    *affine(_BLOCK + "attn.qkv", _TO_BLOCK + "attention/qkv"),
    *affine(_BLOCK + "attn.proj", _TO_BLOCK + "attention/projection"),
    *norm(_BLOCK + "norm2", _TO_BLOCK + "mlp_norm"),
    *affine(_BLOCK + "mlp.fc1", _TO_BLOCK + "mlp_in"),
    *affine(_BLOCK + "mlp.fc2", _TO_BLOCK + "mlp_out"),
    *norm("layers.{0}.downsample.norm", "encoder/mergings/{0}/norm"),
    Rule("layers.{0}.downsample.reduction.weight", "encoder/mergings/{0}/reduction/kernel", LINEAR),
    *norm("norm", _LAST_NORM),
)
ORIGINAL_IGNORED = {
    _BLOCK + "attn.relative_position_index": "computed here",
    _BLOCK + "attn_mask": "computed here",
    "head.weight": "the classifier's head",
    "head.bias": "the classifier's head",
}


def encoder_shapes(arguments: Mapping[str, Any], *, all_norms: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of `SSP.encoder`'s parameters without adapters, by path.

    Args:
      arguments: embed_dim, depths, swin_heads, window. all_norms: else only the last output norm.
    """
    shapes = param_shapes(
        lambda rngs: Swin(
            embed_dim=arguments["embed_dim"],
            depths=arguments["depths"],
            num_heads=arguments["swin_heads"],
            window=arguments["window"],
            adapters=False,
            rngs=rngs,
        )
    )
    shapes = {f"encoder/{path}": shape for path, shape in shapes.items()}
    return {
        path: shape
        for path, shape in shapes.items()
        if all_norms or "/output_norms/" not in path or path.startswith(_LAST_NORM)
    }
