"""Bottleneck adapters and the checkpointing of layers."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.linear import Linear
from ssp_jax.models.promotion import add

trunc_normal = nnx.initializers.truncated_normal(0.02)


class Adapter(nnx.Module):
    """Bottleneck A(x): channels -> channels / reduction -> ReLU -> channels (method 3.1, 3.3).

    With `residual` the result is x + A(x), and the up-projection starts at zero: the adapted
    network begins as the unadapted one. Without, it stands in place of a projection.
    """

    def __init__(self, channels: int, *, reduction: int = 4, residual: bool = True, rngs: nnx.Rngs):
        self.residual = residual
        inner = channels // reduction
        xavier = nnx.initializers.xavier_uniform()
        zero = nnx.initializers.zeros_init()
        self.down = Linear(channels, inner, kernel_init=xavier, rngs=rngs)
        self.up = Linear(inner, channels, kernel_init=zero if residual else xavier, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
        adapted = self.up(jax.nn.relu(self.down(x)))
        return add(x, adapted) if self.residual else adapted


class ProjectionWithAdapter(nnx.Module):
    """Output projection of an attention, with AAVS's adapter (method 3.3, 3.5).

    `mode`: 'none' projects only; 'replace' puts a non-residual adapter in the projection's place
    (stage 1); 'after' applies the non-residual adapter to the projection's result (stage 2).

    Raises:
      ValueError: unknown mode.
    """

    def __init__(self, channels: int, *, mode: str, rngs: nnx.Rngs):
        if mode not in ("none", "replace", "after"):
            raise ValueError(f"decoder_adapter is 'none', 'replace' or 'after', not {mode!r}")
        self.mode = mode
        if mode != "replace":
            self.projection = Linear(
                channels, channels, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs
            )
        if mode != "none":
            self.adapter = Adapter(channels, residual=False, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
        if self.mode != "replace":
            x = self.projection(x)
        return self.adapter(x) if self.mode != "none" else x


def apply_layer(layer: nnx.Module, *inputs, remat: bool = False, **static):
    """`layer(*inputs, **static)`, recomputed in the backward pass instead of stored where `remat`.

    Split and merged by hand: the recomputed function is then a pure one of arrays, which composes
    with every outer transformation.
    """
    if not remat:
        return layer(*inputs, **static)
    graphdef, state = nnx.split(layer)

    @jax.checkpoint
    def run(state, *inputs):
        return nnx.merge(graphdef, state)(*inputs, **static)

    return run(state, *inputs)
