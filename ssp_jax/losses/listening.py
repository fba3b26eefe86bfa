"""Auxiliary losses that make a small network, trained from scratch, use its ears.

Not part of AAVS or SSP. Mask2Former's loss alone lets such a network segment what usually sounds;
these three reward what can only be known from the sound. All return a float32 scalar, 0 (with zero
gradients) where a batch holds nothing to learn from.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8


def sound_classification(
    logits: Float[Array, "N C"],
    sounds: Float[Array, "N S"],
    known: Bool[Array, " N"],
    valid: Bool[Array, " N"],
    total: Int[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Score which classes sound: cross entropy, mean over classes and over known, valid frames.

    Args:
      logits: one per sound class (C = S); of a data set without sound classes (S = 0) not read.
      sounds: multi-hot. known: False where the data set does not say what sounds.
      total: number of known, valid frames of the batch, where these are a part of it.
    """
    if sounds.shape[-1] == 0:
        return jnp.zeros((), jnp.float32)
    return _mean_over(_bce(logits.astype(jnp.float32), sounds).mean(-1), known & valid, total)


def similarity_map(
    pixel_features: Float[Array, "N h w C"],
    audio_embedding: Float[Array, "N C"],
    *,
    scale: Float[Array, ""] | float = 1.0,
    bias: Float[Array, ""] | float = 0.0,
) -> Float[Array, "N h w"]:
    """Logits of "the sound comes from here": scale * <pixel, sound> + bias."""
    product = jnp.einsum("nhwc,nc->nhw", pixel_features, audio_embedding)
    return scale * product.astype(jnp.float32) + bias


def audio_visual_map(
    pixel_features: Float[Array, "N h w C"],
    audio_embedding: Float[Array, "N C"],
    labels: UInt8[Array, "N H W"],
    annotated: Bool[Array, " N"],
    *,
    scale: Float[Array, ""] | float = 1.0,
    bias: Float[Array, ""] | float = 0.0,
    total: Int[Array, ""] | None = None,
) -> Float[Array, ""]:
    """BCE + dice of the similarity map against the sounding region, mean over annotated frames.

    The target at each feature is the share of its area where labels > 0. Dice as in Mask2Former,
    1 - (2 sum pt + 1) / (sum p + sum t + 1), so that a silent frame asks for an empty map.
    `total` is the number of annotated frames of the batch, where these are a part of it.
    """
    logits = similarity_map(pixel_features, audio_embedding, scale=scale, bias=bias)
    region = sounding_share(labels, logits.shape[1:])
    probability = jax.nn.sigmoid(logits)
    overlap = (probability * region).sum((1, 2))
    sizes = probability.sum((1, 2)) + region.sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    return _mean_over(_bce(logits, region).mean((1, 2)) + dice, annotated, total)


def audio_visual_contrast(
    pixel_features: Float[Array, "N h w C"],
    audio_embedding: Float[Array, "N C"],
    labels: UInt8[Array, "N H W"],
    annotated: Bool[Array, " N"],
    sounds: Float[Array, "N S"],
    known: Bool[Array, " N"],
    scale: Float[Array, ""] | float = 10.0,
    *,
    clip: Float[Array, " N"] | None = None,
) -> Float[Array, ""]:
    """InfoNCE between each frame's sounding region and its sound, both ways, over the batch.

    A region is the mean of the pixel features weighted by the sounding share of their area; region
    and sound are compared by cosine. Only annotated frames with a region take part. Another frame
    is a negative unless the two share a sound; where the sounds of either are unknown, unless both
    are of one clip (`clip`, if given). The mean runs over the frames that have a negative.

    Args:
      scale: inverse temperature. clip: index of each frame's clip.
    """
    region = sounding_share(labels, pixel_features.shape[1:3])
    area = region.sum((1, 2))
    taking_part = annotated & (area > 0)
    weighted = jnp.einsum("nhw,nhwc->nc", region, pixel_features.astype(jnp.float32))
    seen = _unit(weighted / jnp.where(taking_part, area, 1.0)[:, None])
    heard = _unit(audio_embedding.astype(jnp.float32))
    logits = scale * seen @ heard.T

    both_known = known[:, None] & known[None, :]
    shared = jnp.einsum("ns,ms->nm", sounds, sounds) > 0
    same_clip = jnp.zeros_like(shared) if clip is None else clip[:, None] == clip[None, :]
    alike = jnp.where(both_known, shared, same_clip)
    itself = jnp.eye(len(area), dtype=bool)
    negative = ~alike & ~itself & taking_part[:, None] & taking_part[None, :]
    counted = negative.any(1)

    def cross_entropy(rows: Float[Array, "N N"]) -> Float[Array, " N"]:
        # A row's own entry is always open, so that no row is empty and none gives a NaN.
        # Not jnp.diagonal: its gradient is a conditional, and where collectives of several CPU
        # devices are in conditionals XLA runs them in an order that differs between devices.
        own = rows.sum(axis=-1, where=itself)
        return jax.nn.logsumexp(rows, axis=-1, where=negative | itself) - own

    return _mean_over((cross_entropy(logits) + cross_entropy(logits.T)) / 2, counted)


def sounding_share(
    labels: UInt8[Array, "N H W"], size: tuple[int, int]
) -> Float[Array, "N {size[0]} {size[1]}"]:
    """Share of each cell's area where labels > 0, for a grid of any size over the whole map."""
    foreground = (labels > 0).astype(jnp.float32)
    rows, columns = (_area_weights(n, m) for n, m in zip(labels.shape[1:], size, strict=True))
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("ah,nhw,bw->nab", rows, foreground, columns, precision=exact)


def _area_weights(size: int, cells: int) -> Float[np.ndarray, "cells size"]:
    """Share of each cell that each of `size` pixels covers; every row adds up to 1."""
    edges = np.arange(cells + 1) * (size / cells)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0) * (cells / size)).astype(np.float32)


def _bce(logits: Float[Array, "*n"], truth: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jax.nn.softplus(logits) - logits * truth


def _mean_over(
    values: Float[Array, " N"], which: Bool[Array, " N"], total: Int[Array, ""] | None = None
) -> Float[Array, ""]:
    total = which.sum() if total is None else total
    return jnp.where(which, values, 0.0).sum() / jnp.maximum(total, 1).astype(values.dtype)


def _unit(x: Float[Array, "N C"]) -> Float[Array, "N C"]:
    # The small constant under the root keeps the gradient finite at zero vectors.
    return x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-12)
