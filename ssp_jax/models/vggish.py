"""VGGish audio encoder (method 3.2; avsbench.md section 4)."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.convolution import Conv3x3
from ssp_jax.models.promotion import PlainLinear

_CONVOLUTIONS = ((64, True), (128, True), (256, False), (256, True), (512, False), (512, True))
_DENSE = 4096
EMBEDDING = 128
_ROWS = 9


class VGGish(nnx.Module):
    """The VGGish network: six 3x3 convolutions with four poolings, three dense layers.

    Args:
      width: factor on the channels of every layer but the last; 1 is VGGish, 1/4 trains on a CPU.
      final_relu: ReLU on the embedding. AVSBench's code has it, AAVS's operator seems not to.
    """

    def __init__(self, *, width: float = 1.0, final_relu: bool = False, rngs: nnx.Rngs):
        self.final_relu = final_relu
        self.pooled = tuple(pooled for _, pooled in _CONVOLUTIONS)
        channels = [1, *(int(channels * width) for channels, _ in _CONVOLUTIONS)]
        he_normal = nnx.initializers.he_normal()
        self.convolutions = nnx.List(
            Conv3x3(source, target, kernel_init=he_normal, rngs=rngs)
            for source, target in itertools.pairwise(channels)
        )
        dense = [6 * 4 * channels[-1], int(_DENSE * width), int(_DENSE * width), EMBEDDING]
        self.dense = nnx.List(
            PlainLinear(source, target, kernel_init=he_normal, rngs=rngs)
            for source, target in itertools.pairwise(dense)
        )

    def __call__(self, log_mel: Float[Array, "N 96 64"]) -> Float[Array, "N 128"]:
        """Log-mel windows of 0.96 s (natural log of mel + 0.01) to one embedding each."""
        x = log_mel[..., None]
        for convolution, pooled in zip(self.convolutions, self.pooled, strict=True):
            x = jax.nn.relu(convolution(x))
            if pooled:
                batch, time, bands, channels = x.shape
                # A maximum over a reshaped view: reduce_window is slow in reverse on a CPU.
                x = x.reshape(batch, time // 2, 2, bands // 2, 2, channels).max((2, 4))
        x = x.reshape(x.shape[0], -1)
        windows = x.shape[0]  # no number where a function for any number is exported
        # XLA's CPU backend takes 0.5 s for these layers with two to eight rows, 20 ms with nine.
        missing = max(0, _ROWS - windows) if isinstance(windows, int) else _ROWS
        x = jnp.pad(x, ((0, missing), (0, 0)))
        for layer in list(self.dense)[:-1]:
            x = jax.nn.relu(layer(x))
        x = self.dense[-1](x)[:windows]
        return jnp.maximum(x, 0.0) if self.final_relu else x
