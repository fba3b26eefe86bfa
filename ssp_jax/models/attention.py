"""Softmax attention, as every transformer here computes it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ssp_jax.models.adapters import ProjectionWithAdapter
from ssp_jax.models.linear import Linear
from ssp_jax.models.promotion import promoted

_BLOCKED = -1e30

xavier_uniform = nnx.initializers.xavier_uniform()


def attend(
    query: Float[Array, "*n L D"],
    key: Float[Array, "*n M D"],
    value: Float[Array, "*n M D"],
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "*n L D"]:
    """softmax(query key^T / sqrt(D) + bias) value; softmax in float32.

    Two ways with one result: what is cheap differs by platform.

    Args:
      bias: broadcasts to the logits (*n, L, M).
    """
    inputs = *promoted(query, key, value), _of_rank(query.ndim, bias)
    return jax.lax.platform_dependent(*inputs, cpu=_divide_last, tpu=_divide_last, default=_shares)


def _of_rank(rank: int, bias: Array | None) -> Array | None:
    if bias is None:
        return None
    return jnp.expand_dims(bias, range(rank - bias.ndim)).astype(jnp.float32)


def _logits(query: Array, key: Array, bias: Array | None) -> Float[Array, "*n L M"]:
    scaled = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("...ld,...md->...lm", scaled, key).astype(jnp.float32)
    return logits if bias is None else logits + bias


def _divide_last(query: Array, key: Array, value: Array, bias: Array | None) -> Array:
    """Attend with the division after the second product.

    With heads among the leading axes it takes a CPU a third to a fifth of the time of
    `jax.nn.softmax` between two products of (L, heads, D) (Swin-B's windows;
    benchmarks/README.md).
    """
    logits = _logits(query, key, bias)
    shares = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = shares.sum(-1, keepdims=True)
    attended = jnp.einsum("...lm,...md->...ld", shares.astype(value.dtype), value)
    return attended / total.astype(value.dtype)


@jax.custom_vjp
def _shares(query: Array, key: Array, value: Array, bias: Array | None) -> Array:
    """Attend with one array of the logits' size between steps, in the inputs' precision.

    A GPU is bound by what it writes and reads, and XLA makes one kernel of the softmax and its
    casts, and one of the logits' gradients.
    """
    return _shares_forward(query, key, value, bias)[0]


def _shares_forward(query, key, value, bias):
    shares = jax.nn.softmax(_logits(query, key, bias)).astype(value.dtype)
    # Else XLA undoes the cast for the backward pass, which then reads float32.
    shares = jax.lax.optimization_barrier(shares)
    attended = jnp.einsum("...lm,...md->...ld", shares, value)
    return attended, (query, key, value, bias, shares, attended)


def _shares_backward(kept, gradient):
    query, key, value, bias, shares, attended = kept
    to_shares = jnp.einsum("...ld,...md->...lm", gradient, value).astype(jnp.float32)
    # The shares' mean of that, which is a sum over the few channels here.
    mean = (gradient.astype(jnp.float32) * attended.astype(jnp.float32)).sum(-1, keepdims=True)
    to_logits = shares.astype(jnp.float32) * (to_shares - mean)
    to_bias = None
    if bias is not None:
        axes = [axis for axis, length in enumerate(to_logits.shape) if bias.shape[axis] < length]
        to_bias = to_logits.sum(axes, keepdims=True)
    to_logits, scale = to_logits.astype(query.dtype), query.shape[-1] ** -0.5
    return (
        jnp.einsum("...lm,...md->...ld", to_logits, key) * scale,
        jnp.einsum("...lm,...ld->...md", to_logits, query * scale),
        jnp.einsum("...lm,...ld->...md", shares, gradient),
        to_bias,
    )


_shares.defvjp(_shares_forward, _shares_backward)


def attend_tokens_last(
    query: Float[Array, "*n D L"],
    key: Float[Array, "*n D M"],
    value: Float[Array, "*n D M"],
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "*n D L"]:
    """As `attend`, for a TPU, where a last axis of few channels leaves most lanes empty."""
    query, key, value = promoted(query, key, value)
    scaled = query * query.shape[-2] ** -0.5
    logits = jnp.einsum("...dl,...dm->...lm", scaled, key).astype(jnp.float32)
    if bias is not None:
        logits += _of_rank(logits.ndim, bias)
    shares = jax.nn.softmax(logits).astype(value.dtype)
    return jnp.einsum("...lm,...dm->...dl", shares, value)


class Attention(nnx.Module):
    """Multi-head attention with separate inputs for queries, keys and values."""

    def __init__(self, channels: int, heads: int, *, decoder_adapter: str = "none", rngs: nnx.Rngs):
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads = heads
        self.query = Linear(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.key = Linear(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.value = Linear(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.output = ProjectionWithAdapter(channels, mode=decoder_adapter, rngs=rngs)

    def __call__(
        self,
        query: Float[Array, "N Q C"],
        key: Float[Array, "N S C"],
        value: Float[Array, "N S C"],
        blocked: Bool[Array, "N Q S"] | None = None,
    ) -> Float[Array, "N Q C"]:
        batch, queries, channels = query.shape

        def heads_first(x):
            x = x.reshape(batch, -1, self.heads, channels // self.heads)
            return x.transpose(0, 2, 1, 3)

        bias = None if blocked is None else jnp.where(blocked[:, None], _BLOCKED, 0.0)
        attended = attend(
            heads_first(self.query(query)),
            heads_first(self.key(key)),
            heads_first(self.value(value)),
            bias,
        )
        return self.output(attended.transpose(0, 2, 1, 3).reshape(batch, queries, channels))
