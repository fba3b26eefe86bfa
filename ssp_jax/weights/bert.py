"""Names of BERT's weights and of BLIP-2's Q-Former, as Hugging Face has them."""

from collections.abc import Mapping
from typing import Any

from ssp_jax.models.bert import Bert
from ssp_jax.weights.infer import count_in, shape_in, told_heads, transformer_config
from ssp_jax.weights.rules import Arrays, Rule, Transform, affine, norm
from ssp_jax.weights.shapes import param_shapes

_TO = "vta/bert/"
_TO_LAYER = _TO + "layers/{0}/"
_LAYERS, _QFORMER_LAYERS = "encoder.layer", "qformer.encoder.layer"
_WORDS, _POSITIONS = "embeddings.word_embeddings", "embeddings.position_embeddings"
_TYPES = "embeddings.token_type_embeddings"
_QUERIES = "query_tokens"

# One batch entry, (1, Q, width).
_UNBATCHED = Transform(lambda tokens: tokens[0], lambda table: table[None])


def _attention(source: str, inner: str, target: str, target_norm: str) -> tuple[Rule, ...]:
    """An attention, its output projection and the norm after it."""
    return (
        *(
            rule
            for name in ("query", "key", "value")
            for rule in affine(f"{source}.{inner}.{name}", f"{target}/{name}")
        ),
        *affine(source + ".output.dense", target + "/output/projection"),
        *norm(source + ".output.LayerNorm", target_norm),
    )


def _ffn(intermediate: str, output: str, target: str) -> tuple[Rule, ...]:
    return (
        *affine(intermediate + ".dense", target + "/input"),
        *affine(output + ".dense", target + "/output"),
        *norm(output + ".LayerNorm", target + "/norm"),
    )


def _layer(layer: str, inner: str) -> tuple[Rule, ...]:
    """Return what a layer of both networks has."""
    return (
        *_attention(
            layer + "attention", inner, _TO_LAYER + "attention", _TO_LAYER + "attention_norm"
        ),
        *_ffn(layer + "intermediate", layer + "output", _TO_LAYER + "ffn"),
    )


_EMBEDDINGS = (
    Rule(_WORDS + ".weight", _TO + "word_embedding"),
    Rule(_POSITIONS + ".weight", _TO + "position_embedding"),
)
# Without the prefix 'bert.', which is taken off before.
RULES: tuple[Rule, ...] = (
    *_EMBEDDINGS,
    Rule(_TYPES + ".weight", _TO + "type_embedding"),
    *norm("embeddings.LayerNorm", _TO + "embedding_norm"),
    *_layer(_LAYERS + ".{0}.", "self"),
)
OLD_NORM = "embeddings.LayerNorm.gamma"
# bert-base-uncased itself still has TensorFlow's names of norms.
OLD_RULES = tuple(
    rule._replace(
        source=rule.source.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
    )
    for rule in RULES
)


def _in_flax(rule: Rule) -> Rule:
    """Flax names and lays out as here, and calls every table an embedding."""
    leaf = rule.target.rpartition("/")[2]
    leaf = leaf if leaf in ("kernel", "bias", "scale") else "embedding"
    return Rule(f"{rule.source.rpartition('.')[0]}.{leaf}", rule.target)


FLAX_WORDS = _WORDS + ".embedding"
FLAX_RULES = tuple(_in_flax(rule) for rule in RULES)

_LAYER = _QFORMER_LAYERS + ".{0}."
QFORMER_RULES: tuple[Rule, ...] = (
    *_EMBEDDINGS,
    *norm("qformer.layernorm", _TO + "embedding_norm"),
    Rule(_QUERIES, _TO + "query_embedding", _UNBATCHED),
    *_layer(_LAYER, "attention"),
    *_attention(
        _LAYER + "crossattention",
        "attention",
        _TO_LAYER + "cross_attention",
        _TO_LAYER + "cross_norm",
    ),
    *_ffn(_LAYER + "intermediate_query", _LAYER + "output_query", _TO_LAYER + "query_ffn"),
)

# Beginnings of names that are left out, and why.
SKIPPED = {
    "cls.": "heads of its pretraining",
    "bert.pooler.": "not used",
    "pooler.": "not used",
    "bert.embeddings.position_ids": "computed here",
    "embeddings.position_ids": "computed here",
}
QFORMER_SKIPPED = {
    "vision_model.": "the image encoder",
    "vision_projection.": "a head",
    "text_projection.": "a head",
    "itm_head.": "a head",
    "language_projection.": "for the language model",
    "language_model.": "the language model",
    "embeddings.position_ids": "computed here",
}


def bert_arguments(
    state: Arrays, config: Mapping[str, Any] | None, *, table: str = "weight"
) -> dict[str, Any]:
    """Arguments of `Bert`, told by Hugging Face's arrays (without the prefix 'bert.') and config.

    Args:
      config: what config.json says. Without, `heads` is left out: the arrays do not tell it.
      table: what embeddings are called, 'embedding' in Flax.

    Raises:
      UserError: arrays are missing, or the config is of another network.
    """
    vocabulary, width = shape_in(state, f"{_WORDS}.{table}", 2)
    told = {
        "vocabulary": vocabulary,
        "max_length": shape_in(state, f"{_POSITIONS}.{table}", 2)[0],
        "token_types": shape_in(state, f"{_TYPES}.{table}", 2)[0],
        "width": width,
        "layers": count_in(state, _LAYERS),
        "ffn": shape_in(state, f"{_LAYERS}.0.intermediate.dense.bias", 1)[0],
    }
    expected = transformer_config(told, "gelu", 1e-12) | {
        "vocab_size": vocabulary,
        "max_position_embeddings": told["max_length"],
        "type_vocab_size": told["token_types"],
        "position_embedding_type": "absolute",
        "is_decoder": False,
    }
    return told | told_heads(config, expected)


def qformer_arguments(state: Arrays, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of `Bert` as BLIP-2's Q-Former, likewise.

    `vocabulary` and `max_length` are left out where it reads no text (before a language model).

    Raises:
      UserError: arrays are missing, or the config is of another network.
    """
    _, queries, width = shape_in(state, _QUERIES, 3)
    first = f"{_QFORMER_LAYERS}.0."
    crossing = [
        layer
        for layer in range(count_in(state, _QFORMER_LAYERS))
        if f"{_QFORMER_LAYERS}.{layer}.crossattention.output.dense.weight" in state
    ]
    told = {
        "token_types": 0,
        "width": width,
        "layers": count_in(state, _QFORMER_LAYERS),
        "ffn": shape_in(state, first + "intermediate_query.dense.bias", 1)[0],
        "num_queries": queries,
        "cross_width": shape_in(state, first + "crossattention.attention.key.weight", 2)[1],
    }
    told["cross_every"] = crossing[1] if len(crossing) > 1 else told["layers"]
    text = f"{_WORDS}.weight" in state
    expected = transformer_config(told, "gelu", 1e-12) | {
        "encoder_hidden_size": told["cross_width"],
        "cross_attention_frequency": told["cross_every"],
        "use_qformer_text_input": text,
    }
    if text:
        told["vocabulary"] = shape_in(state, f"{_WORDS}.weight", 2)[0]
        told["max_length"] = shape_in(state, f"{_POSITIONS}.weight", 2)[0]
    return told | told_heads(config, expected, "qformer_config")


def shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of `vta.bert`'s parameters by path, without adapters.

    Args:
      arguments: of `Bert`. Without a vocabulary (BLIP-2's Q-Former before a language model) the
        parameters that only text uses are left out.
    """
    whole = {"vocabulary": 1, "max_length": 1, "heads": 1} | dict(arguments)
    found = param_shapes(lambda rngs: Bert(**whole, rngs=rngs))
    if "vocabulary" not in arguments:
        found = {path: shape for path, shape in found.items() if not _is_of_text(path)}
    return {_TO + path: shape for path, shape in found.items()}


def _is_of_text(path: str) -> bool:
    """Tell whether only text uses this parameter of a Q-Former."""
    return path.startswith(("word_embedding", "position_embedding")) or "/ffn/" in path
