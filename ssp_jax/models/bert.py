"""BERT and BLIP-2's Q-Former as one encoder of text, vectors and queries (method 4.5)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ssp_jax.models.activations import GELUS, gelu
from ssp_jax.models.adapters import Adapter, apply_layer, trunc_normal
from ssp_jax.models.attention import Attention, xavier_uniform
from ssp_jax.models.linear import Linear
from ssp_jax.models.promotion import LayerNorm, add, promoted

_EPSILON = 1e-12


class CrossAttention(Attention):
    """`Attention` to states of another width."""

    def __init__(self, channels: int, source: int, heads: int, *, rngs: nnx.Rngs):
        super().__init__(channels, heads, rngs=rngs)
        self.key = Linear(source, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.value = Linear(source, channels, kernel_init=xavier_uniform, rngs=rngs)


class FeedForward(nnx.Module):
    """Linear -> GELU -> Linear, added to its input and normalised."""

    def __init__(self, channels: int, ffn: int, *, gelu: str, adapter: bool, rngs: nnx.Rngs):
        self.gelu, self.adapted = gelu, adapter
        self.input = Linear(channels, ffn, kernel_init=trunc_normal, rngs=rngs)
        self.output = Linear(ffn, channels, kernel_init=trunc_normal, rngs=rngs)
        self.norm = LayerNorm(channels, epsilon=_EPSILON, rngs=rngs)
        if adapter:
            self.adapter = Adapter(channels, rngs=rngs)

    def __call__(self, x: Float[Array, "N L D"]) -> Float[Array, "N L D"]:
        hidden = self.output(gelu(self.input(x), self.gelu))
        return self.norm(add(x, self.adapter(hidden) if self.adapted else hidden))


class BertLayer(nnx.Module):
    """Self-attention, cross-attention of some layers and feed-forward network, post-norm.

    Leading query positions have a feed-forward network of their own and alone attend to `cross`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        ffn: int,
        *,
        cross_width: int | None,
        queries: bool,
        gelu: str,
        adapters: bool,
        rngs: nnx.Rngs,
    ):
        self.crossing, self.adapted = cross_width is not None, adapters
        self.attention = Attention(channels, heads, rngs=rngs)
        self.attention_norm = LayerNorm(channels, epsilon=_EPSILON, rngs=rngs)
        if adapters:
            self.attention_adapter = Adapter(channels, rngs=rngs)
        if self.crossing:
            self.cross_attention = CrossAttention(channels, cross_width, heads, rngs=rngs)
            self.cross_norm = LayerNorm(channels, epsilon=_EPSILON, rngs=rngs)
        self.ffn = FeedForward(channels, ffn, gelu=gelu, adapter=adapters, rngs=rngs)
        if queries:
            self.query_ffn = FeedForward(channels, ffn, gelu=gelu, adapter=adapters, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "N L D"],
        blocked: Bool[Array, "N 1 L"] | None,
        cross: Float[Array, "N S E"] | None,
        cross_blocked: Bool[Array, "N 1 S"] | None,
        *,
        num_queries: int,
    ) -> Float[Array, "N L D"]:
        attended = self.attention(x, x, x, blocked)
        if self.adapted:
            attended = self.attention_adapter(attended)
        x = self.attention_norm(add(x, attended))
        if not num_queries:
            return self.ffn(x)
        queries, text = x[:, :num_queries], x[:, num_queries:]
        if self.crossing and cross is not None:
            attended = self.cross_attention(queries, cross, cross, cross_blocked)
            queries = self.cross_norm(add(queries, attended))
        return jnp.concatenate(promoted(self.query_ffn(queries), self.ffn(text)), axis=1)


class Bert(nnx.Module):
    """A bidirectional BERT that also reads vectors, and with `num_queries` is a Q-Former.

    The defaults are bert-base-uncased (Devlin et al. 2019). BLIP-2's Q-Former (Li et al. 2023,
    section 3.1) has 32 queries, cross_width 1408 (its image encoder's), cross_every 2 and
    token_types 0. There is no dropout: the networks around it have none either.

    Args:
      vocabulary: number of words. max_length: longest text. token_types: of a pair's parts, 0 for
        none.
      width, layers, heads, ffn: D and the sizes of the encoder.
      num_queries: learned queries, Q, and a feed-forward network for them in every layer.
      cross_width: E of the states that queries can attend to, in layers 0, cross_every, ...; None:
        no cross-attention.
      gelu: see `activations.gelu`.
      adapters: residual bottleneck adapters on self-attention and feed-forward networks.
      remat: recompute layers in the backward pass.

    Raises:
      ValueError: unknown gelu, cross_width without queries, or a width that does not divide into
        the heads.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 30522,
        max_length: int = 512,
        token_types: int = 2,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        num_queries: int = 0,
        cross_width: int | None = None,
        cross_every: int = 2,
        gelu: str = "exact",
        adapters: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if gelu not in GELUS:
            raise ValueError(f"gelu is one of {GELUS}, not {gelu!r}")
        if cross_width is not None and not num_queries:
            raise ValueError("only queries attend to other states: cross_width needs num_queries")

        def table(rows):
            return nnx.Param(trunc_normal(rngs.params(), (rows, width), jnp.float32))

        self.num_queries, self.crossing, self.remat = num_queries, cross_width is not None, remat
        self.max_length, self.token_types = max_length, token_types
        self.word_embedding = table(vocabulary)
        self.position_embedding = table(max_length)
        if token_types:
            self.type_embedding = table(token_types)
        self.embedding_norm = LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        if num_queries:
            self.query_embedding = table(num_queries)
        self.layers = nnx.List(
            BertLayer(
                width,
                heads,
                ffn,
                cross_width=cross_width if layer % cross_every == 0 else None,
                queries=num_queries > 0,
                gelu=gelu,
                adapters=adapters,
                rngs=rngs,
            )
            for layer in range(layers)
        )

    def embed_text(
        self, ids: Int[Array, "N L"], types: Int[Array, "N L"] | None = None
    ) -> Float[Array, "N L D"]:
        """Tokens to normalised embeddings, at positions 0 to L - 1.

        Args:
          ids: rows of the vocabulary; one that is not there gives NaN.
          types: 0 or 1, the part of a pair; None is 0 everywhere.

        Raises:
          ValueError: longer than max_length, or types in a model without.
        """
        if ids.shape[1] > self.max_length:
            raise ValueError(f"{ids.shape[1]} tokens, but positions for {self.max_length}")
        if types is not None and not self.token_types:
            raise ValueError("this model is built without token types")
        x = jnp.take(self.word_embedding[...], ids, axis=0)
        x = add(x, self.position_embedding[...][None, : ids.shape[1]])
        if self.token_types:
            types = jnp.zeros_like(ids) if types is None else types
            x = add(x, jnp.take(self.type_embedding[...], types, axis=0))
        return self.embedding_norm(x)

    def embed_queries(self, batch: int) -> Float[Array, "N Q D"]:
        """The learned queries, normalised, once for each of `batch` entries.

        Raises:
          ValueError: the model has none.
        """
        if not self.num_queries:
            raise ValueError("this model is built without queries (constructor: num_queries)")
        queries = self.embedding_norm(self.query_embedding[...])
        return jnp.broadcast_to(queries, (batch, *queries.shape))

    def encode(
        self,
        tokens: Float[Array, "N L D"],
        mask: Bool[Array, "N L"] | None = None,
        *,
        cross: Float[Array, "N S E"] | None = None,
        cross_mask: Bool[Array, "N S"] | None = None,
        num_queries: int = 0,
    ) -> Float[Array, "N L D"]:
        """All layers on tokens of any origin: embedded text, vectors, an earlier result.

        Args:
          tokens: normalised, as `embed_text`, `embed_queries` and this method return them.
          mask: True where a token may be attended to; None is everywhere.
          cross: states for the queries to attend to; None leaves cross-attention out, which is
            ours: BLIP-2's queries always have an image. cross_mask: likewise for them.
          num_queries: how many leading tokens are queries.

        Raises:
          ValueError: queries or states for a model without, or states without queries.
        """
        if num_queries and not self.num_queries:
            raise ValueError("this model is built without queries (constructor: num_queries)")
        if cross is not None and not (self.crossing and num_queries):
            raise ValueError("states to attend to need a model with cross_width, and queries")
        blocked = None if mask is None else ~mask[:, None]
        cross_blocked = None if cross_mask is None else ~cross_mask[:, None]
        for layer in self.layers:
            tokens = apply_layer(
                layer,
                tokens,
                blocked,
                cross,
                cross_blocked,
                remat=self.remat,
                num_queries=num_queries,
            )
        return tokens

    def __call__(
        self,
        ids: Int[Array, "N L"] | None = None,
        types: Int[Array, "N L"] | None = None,
        *,
        vectors: Float[Array, "N V D"] | None = None,
        mask: Bool[Array, "N V+L"] | None = None,
        cross: Float[Array, "N S E"] | None = None,
        cross_mask: Bool[Array, "N S"] | None = None,
    ) -> Float[Array, "N V+L D"]:
        """[vectors ; text], either of them perhaps left out, embedded and encoded.

        Args:
          ids, types: see `embed_text`.
          vectors: not yet normalised; they have no positions. A model with queries takes them for
            its queries.
          mask, cross, cross_mask: see `encode`.

        Raises:
          ValueError: neither text nor vectors; see `embed_text` and `encode`.
        """
        if ids is None and vectors is None:
            raise ValueError("give ids, vectors or both")
        tokens = [] if vectors is None else [self.embedding_norm(vectors)]
        if ids is not None:
            tokens.append(self.embed_text(ids, types))
        num_queries = vectors.shape[1] if self.num_queries and vectors is not None else 0
        return self.encode(
            jnp.concatenate(promoted(*tokens), axis=1),
            mask,
            cross=cross,
            cross_mask=cross_mask,
            num_queries=num_queries,
        )
