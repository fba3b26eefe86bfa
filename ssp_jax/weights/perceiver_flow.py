"""Names of Perceiver's weights for optical flow, as Hugging Face has them."""

from collections.abc import Mapping
from typing import Any

from ssp_jax.models.perceiver_flow import PerceiverFlow
from ssp_jax.weights.rules import Rule, affine, norm
from ssp_jax.weights.shapes import param_shapes

ROOT = "perceiver_flow/"
PATCHES = "perceiver.input_preprocessor.conv_after_patches"
LATENTS = "perceiver.embeddings.latents"
ENCODER = "perceiver.encoder.cross_attention."
LAYERS = "perceiver.encoder.self_attends"
_DECODER = "perceiver.decoder.decoder."


def _layer(source: str, target: str, *, cross: bool) -> tuple[Rule, ...]:
    return (
        *norm(source + "attention.self.layernorm1", target + "norm"),
        *(norm(source + "attention.self.layernorm2", target + "source_norm") if cross else ()),
        *(
            rule
            for name in ("query", "key", "value")
            for rule in affine(source + f"attention.self.{name}", target + name)
        ),
        *affine(source + "attention.output.dense", target + "output"),
        *norm(source + "layernorm", target + "mlp_norm"),
        *affine(source + "mlp.dense1", target + "mlp_in"),
        *affine(source + "mlp.dense2", target + "mlp_out"),
    )


RULES: tuple[Rule, ...] = (
    *affine(PATCHES, "patch_embedding"),
    Rule(LATENTS, "latents"),
    *_layer(ENCODER, "encoder/", cross=True),
    *_layer(LAYERS + ".{0}.", "layers/{0}/", cross=False),
    *_layer(_DECODER + "decoding_cross_attention.", "decoder/", cross=True),
    *affine(_DECODER + "final_layer", "output"),
)


def shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of `PerceiverFlow(**arguments)` by path. Raises: ValueError as it does."""
    return param_shapes(lambda rngs: PerceiverFlow(**arguments, rngs=rngs))
