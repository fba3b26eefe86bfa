"""Names of Mask2Former's weights with a Swin backbone, as Hugging Face has them."""

from ssp_jax.weights import swin
from ssp_jax.weights.rules import CONVOLUTION, LINEAR, POINTWISE, Rule, Share, affine, norm

ENCODER = "model.pixel_level_module.encoder."
_PIXEL = "model.pixel_level_module.decoder."
PIXEL_LAYER = _PIXEL + "encoder.layers.{0}."
TO_PIXEL_LAYER = "pixel_decoder/layers/{0}/"
DECODER = "model.transformer_module."
LAYER = DECODER + "decoder.layers.{0}."
TO_LAYER = "mask_decoder/layers/{0}/"

_NAMES = tuple(enumerate(("query", "key", "value")))

RULES: tuple[Rule, ...] = (
    *swin.block_rules(ENCODER),
    *swin.output_norm_rules(ENCODER),
    # Pixel decoder
    *affine(_PIXEL + "input_projections.{0}.0", "pixel_decoder/input_projections/{0}", POINTWISE),
    *norm(_PIXEL + "input_projections.{0}.1", "pixel_decoder/input_norms/{0}"),
    Rule(_PIXEL + "level_embed", "pixel_decoder/level_embedding"),
    *affine(PIXEL_LAYER + "self_attn.sampling_offsets", TO_PIXEL_LAYER + "attention/offsets"),
    *affine(PIXEL_LAYER + "self_attn.attention_weights", TO_PIXEL_LAYER + "attention/weights"),
    *affine(PIXEL_LAYER + "self_attn.value_proj", TO_PIXEL_LAYER + "attention/value"),
    *affine(PIXEL_LAYER + "self_attn.output_proj", TO_PIXEL_LAYER + "attention/output/projection"),
    *norm(PIXEL_LAYER + "self_attn_layer_norm", TO_PIXEL_LAYER + "attention_norm"),
    *affine(PIXEL_LAYER + "fc1", TO_PIXEL_LAYER + "ffn_in"),
    *affine(PIXEL_LAYER + "fc2", TO_PIXEL_LAYER + "ffn_out"),
    *norm(PIXEL_LAYER + "final_layer_norm", TO_PIXEL_LAYER + "ffn_norm"),
    Rule(_PIXEL + "adapter_1.0.weight", "pixel_decoder/lateral/kernel", POINTWISE),
    *norm(_PIXEL + "adapter_1.1", "pixel_decoder/lateral_norm"),
    Rule(_PIXEL + "layer_1.0.weight", "pixel_decoder/fusion/kernel", CONVOLUTION),
    *norm(_PIXEL + "layer_1.1", "pixel_decoder/fusion_norm"),
    *affine(_PIXEL + "mask_projection", "pixel_decoder/mask_projection", POINTWISE),
    # Mask decoder
    Rule(DECODER + "queries_features.weight", "mask_decoder/query_feature"),
    Rule(DECODER + "queries_embedder.weight", "mask_decoder/query_embedding"),
    Rule(DECODER + "level_embed.weight", "mask_decoder/level_embedding"),
    *(
        rule
        for index, name in _NAMES
        for rule in (
            Rule(
                LAYER + "cross_attn.in_proj_weight",
                TO_LAYER + f"cross_attention/{name}/kernel",
                LINEAR,
                source_share=Share(index, 3),
            ),
            Rule(
                LAYER + "cross_attn.in_proj_bias",
                TO_LAYER + f"cross_attention/{name}/bias",
                source_share=Share(index, 3),
            ),
            *affine(LAYER + f"self_attn.{name[0]}_proj", TO_LAYER + f"self_attention/{name}"),
        )
    ),
    *affine(LAYER + "cross_attn.out_proj", TO_LAYER + "cross_attention/output/projection"),
    *norm(LAYER + "cross_attn_layer_norm", TO_LAYER + "cross_norm"),
    *affine(LAYER + "self_attn.out_proj", TO_LAYER + "self_attention/output/projection"),
    *norm(LAYER + "self_attn_layer_norm", TO_LAYER + "self_norm"),
    *affine(LAYER + "fc1", TO_LAYER + "ffn_in"),
    *affine(LAYER + "fc2", TO_LAYER + "ffn_out"),
    *norm(LAYER + "final_layer_norm", TO_LAYER + "ffn_norm"),
    *norm(DECODER + "decoder.layernorm", "mask_decoder/norm"),
    *affine(
        DECODER + "decoder.mask_predictor.mask_embedder.{0}.0",
        "mask_decoder/mask_head/{0}",
    ),
    *affine("class_predictor", "mask_decoder/class_head"),
)

POSITION_INDEX = ENCODER + swin.POSITION_INDEX
EMPTY_WEIGHT = "criterion.empty_weight"
# Constants of the PyTorch modules.
CONSTANTS = {POSITION_INDEX: "computed here", EMPTY_WEIGHT: "part of the loss"}
IGNORED = CONSTANTS | {
    f"{ENCODER}{prefix}layernorm.{kind}": "not used by the backbone"
    for prefix in ("", "swin.")
    for kind in ("weight", "bias")
}
