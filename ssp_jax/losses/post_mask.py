"""The post-mask loss: where it both sounds and moves (method 4.3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Which prediction is supervised, which the paper leaves open.
READINGS = ("none", "shared", "head", "within_flow")


def post_mask_bce(
    logits: Float[Array, "*n P"],
    truth: Float[Array, "*n P"],
    moving: Float[Array, "*n P"],
    reading: str,
    weight: Float[Array, "*n P"] | None = None,
) -> Float[Array, "*n"]:
    """Binary cross entropy of masks at their points.

    - shared, head: against M_O AND M_GT, mean over the points. `shared` takes the matched queries'
      masks themselves, which then have two targets that differ outside of the flow; `head` takes
      masks of their own.
    - within_flow: the matched queries' masks against M_GT, mean over the points that move; 0 where
      none does.

    Args:
      logits, truth, moving: prediction, M_GT and M_O at the same points.
      weight: how much each point counts, 0 or 1; by default all alike.
    """
    target = truth if reading == "within_flow" else truth * moving
    bce = jax.nn.softplus(logits) - logits * target
    if reading == "within_flow":
        moving = moving if weight is None else moving * weight
        return (bce * moving).sum(-1) / jnp.maximum(moving.sum(-1), 1.0)
    return weighted_mean(bce, weight)


def weighted_mean(
    values: Float[Array, "*n P"], weight: Float[Array, "*n P"] | None
) -> Float[Array, "*n"]:
    """Mean over the points; with weights, over what they count."""
    if weight is None:
        return values.mean(-1)
    return (values * weight).sum(-1) / weight.sum(-1)
