"""Visual-textual alignment: BERT reads image and texts, and the features learn from it (4.5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ssp_jax.models.bert import Bert, CrossAttention
from ssp_jax.models.linear import Linear
from ssp_jax.models.mask_decoder import xavier_uniform
from ssp_jax.models.positions import sine_positions
from ssp_jax.models.promotion import LayerNorm, promoted
from ssp_jax.models.resize import resize_bilinear

VARIANTS = ("none", "joint", "qformer", "cross_attention")
NUM_QUERIES = 32  # of the Q-Former, as in BLIP-2


class VTA(nnx.Module):
    """Aligns visual tokens with a clip's texts and adds what comes of it to feature maps.

    - joint: pass 1 is BERT([V ; text]), pass 2 BERT([pass 1 at V ; text]). Both results are grids;
      projected to C and resized, they are Align1 and Align2.
    - qformer: learned queries and the text, the queries attending to V, in pass 1; pass 2 is
      [queries of pass 1 ; text] without V. Each is pooled over the queries and broadcast.
    - cross_attention: the ablation without VTA: BERT reads the text alone, V attends to it.

    Every map x becomes LayerNorm(x + Align1 + Align2), as the paper says; or (ours) x + what that
    adds to LayerNorm(x), which leaves a pretrained network as it is until the texts say something.

    Args:
      channels: C of the maps. num_maps: how many there are.
      visual_width: E of the visual tokens V, a multiple of 4.
      variant: 'joint', 'qformer' or 'cross_attention'.
      norm: 'all' or 'added', the two forms above.
      bert: arguments of `Bert`.

    Raises:
      ValueError: an unknown variant or norm.
    """

    def __init__(
        self,
        channels: int,
        num_maps: int,
        visual_width: int,
        *,
        variant: str,
        norm: str = "all",
        bert: Mapping[str, Any],
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS[1:]:
            raise ValueError(f"vta: one of {VARIANTS}, not {variant!r}")
        if norm not in ("all", "added"):
            raise ValueError(f"vta_norm: 'all' or 'added', not {norm!r}")
        self.variant, self.norm = variant, norm
        if variant == "qformer":
            bert = {**bert, "num_queries": NUM_QUERIES, "cross_width": visual_width}
        self.bert = Bert(**bert, rngs=rngs)
        width = self.bert.word_embedding.shape[1]
        if variant != "qformer":
            self.visual = Linear(visual_width, width, kernel_init=xavier_uniform, rngs=rngs)
        if variant == "cross_attention":
            self.attention = CrossAttention(width, width, bert["heads"], rngs=rngs)
        # What is added starts at zero: the maps are first of all what they were.
        zero = nnx.initializers.zeros_init()
        self.align_1 = Linear(width, channels, kernel_init=zero, rngs=rngs)
        if variant != "cross_attention":
            self.align_2 = Linear(width, channels, kernel_init=zero, rngs=rngs)
        self.norms = nnx.List(LayerNorm(channels, epsilon=1e-5, rngs=rngs) for _ in range(num_maps))

    def __call__(
        self,
        maps: Sequence[Float[Array, "N ?h ?w C"]],
        visual: Float[Array, "N g k E"],
        ids: Int[Array, "N L"],
        types: Int[Array, "N L"],
        mask: Bool[Array, "N L"],
    ) -> tuple[list[Float[Array, "N ?h ?w C"]], dict[str, Array]]:
        """The maps with what the texts say of them; and 'align_1', 'align_2', (N, g, k, C) grids,
        and 'text' (N, D), the mean over what BERT makes of A2, the names of what may sound.

        Args:
          visual: a grid of tokens over the frame.
          ids, types, mask: the texts as a BERT pair, see `AVBatch`.
        """
        aligned = self._align(visual, ids, types, mask)
        total = sum(promoted(*(grid for name, grid in aligned.items() if name != "text")))
        results = []
        for norm, features in zip(self.norms, maps, strict=True):
            if total.shape[1] > 1:
                added = resize_bilinear(total, features.shape[1:3], axes=(1, 2))
            else:
                added = total  # pooled: the same everywhere
            normed = norm(features + added.astype(features.dtype))
            if self.norm == "added":
                features, normed, before = promoted(features, normed, norm(features))
                normed = features + normed - before
            results.append(normed)
        return results, aligned

    def words(
        self, ids: Int[Array, "N L"], types: Int[Array, "N L"], mask: Bool[Array, "N L"]
    ) -> tuple[Float[Array, "N L D"], Bool[Array, "N L"]]:
        """Embeddings of the tokens, before BERT's layers, and which are of A2, if that says any."""
        of_a2 = mask & (types == 1)
        some = of_a2.sum(1, keepdims=True) > 1  # not the closing [SEP] alone
        return self.bert.embed_text(ids, types), of_a2 & some

    def _align(self, visual, ids, types, mask) -> dict[str, Float[Array, "N g k C"]]:
        batch, height, columns, width = visual.shape
        # Swin's features do not say where they are, and BERT's own positions are those of words.
        visual = visual + jnp.asarray(sine_positions(height, columns, width)[None], visual.dtype)
        if self.variant == "qformer":
            tokens = visual.reshape(batch, height * columns, -1)
            text = self.bert.embed_text(ids, types)
            queries, aligned = self.bert.embed_queries(batch), {}
            texts, mask = (
                mask,
                jnp.concatenate([jnp.ones((batch, NUM_QUERIES), bool), mask], axis=1),
            )
            for name, layer, cross in (
                ("align_1", self.align_1, tokens),
                ("align_2", self.align_2, None),
            ):
                both = jnp.concatenate(promoted(queries, text), axis=1)
                both = self.bert.encode(both, mask, cross=cross, num_queries=NUM_QUERIES)
                queries = both[:, :NUM_QUERIES]
                aligned[name] = layer(queries.mean(1))[:, None, None]
            return aligned | {"text": _mean_of_a2(both[:, NUM_QUERIES:], types, texts)}
        tokens = self.visual(visual).reshape(batch, height * columns, -1)
        tokens = self.bert.embedding_norm(tokens)
        text = self.bert.embed_text(ids, types)
        if self.variant == "cross_attention":
            text = self.bert.encode(text, mask)
            attended = self.attention(tokens, text, text, ~mask[:, None])
            return {
                "align_1": self.align_1(attended).reshape(batch, height, columns, -1),
                "text": _mean_of_a2(text, types, mask),
            }
        texts, mask = mask, jnp.concatenate([jnp.ones(tokens.shape[:2], bool), mask], axis=1)
        aligned = {}
        for name, layer in (("align_1", self.align_1), ("align_2", self.align_2)):
            both = self.bert.encode(jnp.concatenate(promoted(tokens, text), axis=1), mask)
            tokens = both[:, : tokens.shape[1]]
            aligned[name] = layer(tokens).reshape(batch, height, columns, -1)
        return aligned | {"text": _mean_of_a2(both[:, tokens.shape[1] :], types, texts)}


def _mean_of_a2(
    text: Float[Array, "N L D"], types: Int[Array, "N L"], mask: Bool[Array, "N L"]
) -> Float[Array, "N D"]:
    second = (mask & (types == 1)).astype(text.dtype)[..., None]
    return (text * second).sum(1) / jnp.maximum(second.sum(1), 1)
