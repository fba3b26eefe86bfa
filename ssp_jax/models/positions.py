"""Sine position embeddings of feature maps."""

import functools

import numpy as np
from jaxtyping import Float


@functools.lru_cache(maxsize=64)
def sine_positions(
    height: int, width: int, channels: int, temperature: float = 10_000.0
) -> Float[np.ndarray, "height width channels"]:
    """The normalised 2-D sine embedding of DETR that Mask2Former uses (method 3.3).

    Positions run over (0, 2 pi], the first half of the channels encodes rows, the second columns,
    each with sine and cosine interleaved. A float32 host constant, so it is no model state.

    Raises:
      ValueError: channels is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"sine positions need channels divisible by 4, got {channels}")
    half = channels // 2
    frequency = temperature ** (2.0 * (np.arange(half) // 2) / half)

    def axis(length):
        position = np.arange(1, length + 1) / (length + 1e-6) * 2 * np.pi
        angle = position[:, None] / frequency
        return np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle))

    rows = np.broadcast_to(axis(height)[:, None], (height, width, half))
    columns = np.broadcast_to(axis(width)[None], (height, width, half))
    return np.concatenate([rows, columns], axis=-1).astype(np.float32)
