"""Audio queries, masked-attention decoder and mask prompt (method 3.4, 3.5, 3.6)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ssp_jax.models.adapters import apply_layer
from ssp_jax.models.attention import Attention, xavier_uniform
from ssp_jax.models.linear import Linear
from ssp_jax.models.positions import sine_positions
from ssp_jax.models.promotion import LayerNorm, add, promoted
from ssp_jax.models.resize import resize_bilinear

_LEVELS = 3

# PyTorch's default for linear layers, which Mask2Former keeps in its heads.
head_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _normal(rngs: nnx.Rngs, rows: int, channels: int) -> nnx.Param:
    return nnx.Param(jax.random.normal(rngs.params(), (rows, channels)))


class MaskDecoderLayer(nnx.Module):
    """Masked cross-attention, self-attention and feed-forward network, post-norm."""

    def __init__(
        self, channels: int, heads: int, ffn: int, *, decoder_adapter: str, rngs: nnx.Rngs
    ):
        self.cross_attention = Attention(channels, heads, rngs=rngs)
        self.cross_norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.self_attention = Attention(channels, heads, decoder_adapter=decoder_adapter, rngs=rngs)
        self.self_norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.ffn_in = Linear(channels, ffn, kernel_init=xavier_uniform, rngs=rngs)
        self.ffn_out = Linear(ffn, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.ffn_norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "N Q C"],
        query_positions: Float[Array, "Q C"],
        features: Float[Array, "N S C"],
        key_positions: Float[Array, "#N S C"],
        blocked: Bool[Array, "N Q S"],
    ) -> Float[Array, "N Q C"]:
        attended = self.cross_attention(
            add(x, query_positions[None]), add(features, key_positions), features, blocked
        )
        x = self.cross_norm(add(x, attended))
        placed = add(x, query_positions[None])
        x = self.self_norm(add(x, self.self_attention(placed, placed, x)))
        return self.ffn_norm(add(x, self.ffn_out(jax.nn.relu(self.ffn_in(x)))))


def audio_queries(
    feature: Float[Array, "Q C"], embed: Float[Array, "Q C"], audio: Float[Array, "N C"]
) -> Float[Array, "N Q C"]:
    """feature[q] + cos(embed[q], audio[n]) * audio[n] (method 3.4)."""

    def unit(x):
        # Bounded from below like torch's cosine_similarity, and so that silence (a zero vector)
        # has a gradient.
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))

    feature, embed, audio = promoted(feature, embed, audio)
    similarity = jnp.einsum("qc,nc->nq", unit(embed), unit(audio))
    return feature[None] + similarity[..., None] * audio[:, None]


class MaskDecoder(nnx.Module):
    """Queries that listen, and their masks and classes after every layer.

    Args:
      num_classes: K; the class head has one more output, "no object".
      num_queries: Q.
      channels, heads, layers, ffn: C and the sizes of the decoder.
      decoder_adapter: 'none', 'replace' (AAVS stage 1) or 'after' (stage 2).
      mask_prompt: build the three prompt vectors of method 3.6; a prompt is then required.
      flow_prompt: (ours) the flow mask is a prompt of its own beside that: keys that stand still
        and keys that move get one more vector each, mask features that move a third. All begin at
        zero, so that training decides whether motion says anything. A flow mask is then required.
      post_mask_head: a second mask head, on the last queries only, which nothing but the post-mask
        loss reads (method 4.3, reading `head`).
      remat: recompute layers in the backward pass.
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        channels: int = 256,
        *,
        heads: int = 8,
        layers: int = 9,
        ffn: int = 2048,
        decoder_adapter: str = "none",
        mask_prompt: bool = False,
        flow_prompt: bool = False,
        post_mask_head: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.mask_prompt, self.remat = mask_prompt, remat
        self.query_feature = _normal(rngs, num_queries, channels)
        self.query_embedding = _normal(rngs, num_queries, channels)
        self.level_embedding = _normal(rngs, _LEVELS, channels)
        if mask_prompt:
            # Rows: silent, uncertain, sounding.
            self.prompt_embedding = _normal(rngs, 3, channels)
        if flow_prompt:
            # Rows: keys that stand still, keys that move, mask features that move.
            self.flow_prompt_embedding = nnx.Param(jnp.zeros((3, channels)))
        self.layers = nnx.List(
            MaskDecoderLayer(channels, heads, ffn, decoder_adapter=decoder_adapter, rngs=rngs)
            for _ in range(layers)
        )
        self.norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.mask_head = nnx.List(
            Linear(channels, channels, kernel_init=head_init, rngs=rngs) for _ in range(3)
        )
        if post_mask_head:
            self.post_mask_head = nnx.List(
                Linear(channels, channels, kernel_init=head_init, rngs=rngs) for _ in range(3)
            )
        self.class_head = Linear(channels, num_classes + 1, kernel_init=head_init, rngs=rngs)

    def _predict(
        self, x: Float[Array, "N Q C"], mask_features: Float[Array, "N H W C"]
    ) -> dict[str, Array]:
        x = self.norm(x)
        return {
            "mask_logits": _masks(self.mask_head, x, mask_features),
            "class_logits": self.class_head(x),
        }

    def _prompt_positions(
        self, prompt: Float[Array, "N h w"], size: tuple[int, int]
    ) -> Float[Array, "N S C"]:
        """The learned vector of every key: silent (<= 0.4), uncertain, sounding (>= 0.6)."""
        resized = resize_bilinear(prompt, size)
        state = (resized > 0.4).astype(jnp.int32) + (resized >= 0.6).astype(jnp.int32)
        embedding = self.prompt_embedding[...]
        one_hot = jax.nn.one_hot(state.reshape(state.shape[0], -1), 3, dtype=embedding.dtype)
        return one_hot @ embedding

    def _flow_positions(
        self, flow_mask: Float[Array, "N h w"], size: tuple[int, int]
    ) -> Float[Array, "N S C"]:
        """Return what motion adds to every key: of two vectors, mixed where the mask is soft."""
        moves = resize_bilinear(flow_mask, size).reshape(flow_mask.shape[0], -1, 1)
        still, moving, _ = self.flow_prompt_embedding[...][:, None, None]
        moves, still, moving = promoted(moves, still, moving)
        return (still + moves * (moving - still)).astype(self.flow_prompt_embedding.dtype)

    def __call__(
        self,
        mask_features: Float[Array, "N H W C"],
        multi_scale: list[Float[Array, "N h w C"]],
        audio: Float[Array, "N C"],
        mask_prompt: Float[Array, "N h w"] | None = None,
        flow_mask: Float[Array, "N h w"] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Decode the queries of N frames.

        Args:
          mask_features: stride 4. multi_scale: maps of strides 32, 16, 8.
          audio: the audio embedding of each frame.
          mask_prompt: in [0, 1], any size. flow_mask: likewise; read with flow_prompt alone.

        Returns:
          The last predictions {'mask_logits': (N, Q, H, W), 'class_logits': (N, Q, K + 1)}, and
          a dict: 'layers' (predictions of the initial queries and of every layer but the last),
          'audio_queries', 'queries' (the last ones, normalised), both (N, Q, C),
          'prompted_mask_features', and with a post_mask_head its 'post_mask_logits' (N, Q, H, W).

        Raises:
          ValueError: a prompt is given to a model without, or missing in a model with one; no
            flow mask for a model with flow_prompt.
        """
        moves = hasattr(self, "flow_prompt_embedding")
        if moves and flow_mask is None:
            raise ValueError("this model needs a flow mask (constructor: flow_prompt)")
        if self.mask_prompt != (mask_prompt is not None):
            state = "needs" if self.mask_prompt else "is built without"
            raise ValueError(f"this model {state} a mask prompt (constructor: mask_prompt)")
        mask_features, _ = promoted(mask_features, self.query_feature[...])
        batch, channels = audio.shape
        sizes = [level.shape[1:3] for level in multi_scale]
        tokens, positions = [], []
        for index, level in enumerate(multi_scale):
            embedding = self.level_embedding[...][index][None, None]
            tokens.append(add(level.reshape(batch, -1, channels), embedding))
            position = sine_positions(*sizes[index], channels).reshape(1, -1, channels)
            position = jnp.asarray(position, audio.dtype)
            if mask_prompt is not None:
                position = add(position, self._prompt_positions(mask_prompt, sizes[index]))
            if moves:
                position = add(position, self._flow_positions(flow_mask, sizes[index]))
            positions.append(position)
        if mask_prompt is not None:
            resized = resize_bilinear(mask_prompt, mask_features.shape[1:3])[..., None]
            mask_features = mask_features + resized.astype(mask_features.dtype)
        if moves:
            resized = resize_bilinear(flow_mask, mask_features.shape[1:3])[..., None]
            embedding = self.flow_prompt_embedding[...][2][None, None, None]
            resized, embedding = promoted(resized, embedding)
            added = resized * embedding
            mask_features = mask_features + added.astype(mask_features.dtype)

        query_positions = self.query_embedding[...]
        x = initial = audio_queries(self.query_feature[...], query_positions, audio)
        predictions = [self._predict(x, mask_features)]
        for index, layer in enumerate(self.layers):
            level = index % _LEVELS
            if index == 0 and mask_prompt is not None:
                outside = resize_bilinear(mask_prompt, sizes[level])[:, None] < 0.5
                outside = jnp.repeat(outside, x.shape[1], axis=1)
            else:
                logits = jax.lax.stop_gradient(predictions[-1]["mask_logits"])
                outside = resize_bilinear(logits, sizes[level]) < 0  # sigmoid < 0.5
            blocked = outside.reshape(batch, x.shape[1], -1)
            blocked &= ~blocked.all(axis=-1, keepdims=True)
            x = apply_layer(
                layer,
                x,
                query_positions,
                tokens[level],
                positions[level],
                blocked,
                remat=self.remat,
            )
            predictions.append(self._predict(x, mask_features))
        aux = {
            "layers": predictions[:-1],
            "audio_queries": initial,
            "queries": self.norm(x),
            "prompted_mask_features": mask_features,
        }
        if hasattr(self, "post_mask_head"):
            aux["post_mask_logits"] = _masks(self.post_mask_head, aux["queries"], mask_features)
        return predictions[-1], aux


def _masks(
    head: nnx.List, x: Float[Array, "N Q C"], mask_features: Float[Array, "N H W C"]
) -> Float[Array, "N Q H W"]:
    embedding = x
    for index, layer in enumerate(head):
        embedding = layer(jax.nn.relu(embedding) if index else embedding)
    return jnp.einsum("nqc,nhwc->nqhw", *promoted(embedding, mask_features))
