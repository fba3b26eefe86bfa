"""Which query answers for which target: exact assignment on the device (method 3.7)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ssp_jax.errors import UserError
from ssp_jax.losses.assignment import assign

# Beyond any cost of finite logits worth matching, and small enough for float32 to add up precisely.
WORST_COST = 1e5


def matching_cost(
    mask_values: Float[Array, "N Q P"],
    class_logits: Float[Array, "N Q K1"],
    target_values: Float[Array, "N M P"],
    class_labels: Int[Array, "N M"],
    *,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
) -> Float[Array, "N Q M"]:
    """Cost of giving target m to query q: Mask2Former's, on mask logits and targets at P points.

    class_weight * (-probability of the target's class) + mask_weight * mean BCE + dice_weight *
    (1 - (2 sum pt + 1) / (sum p + sum t + 1)). Source: Mask2Former (Cheng et al. 2022) section 3.3,
    as in Hugging Face's Mask2FormerHungarianMatcher.
    """
    mask_values = mask_values.astype(jnp.float32)
    probability = jax.nn.sigmoid(mask_values)
    product = jax.lax.Precision.HIGHEST  # a bfloat16 product would change the assignment
    overlap = jnp.einsum("nqp,nmp->nqm", probability, target_values, precision=product)
    sizes = probability.sum(-1)[:, :, None] + target_values.sum(-1)[:, None, :]
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    # BCE(x, t) = softplus(x) - x t, so one product serves both of its terms.
    agreement = jnp.einsum("nqp,nmp->nqm", mask_values, target_values, precision=product)
    bce = (jax.nn.softplus(mask_values).sum(-1)[:, :, None] - agreement) / mask_values.shape[-1]
    class_probability = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)
    of_target = jnp.take_along_axis(
        class_probability, jnp.maximum(class_labels, 0)[:, None, :], axis=-1
    )
    return mask_weight * bce + dice_weight * dice - class_weight * of_target


def match(
    cost: Float[Array, "*n Q M"], real: Bool[Array, "*n M"]
) -> tuple[Int[Array, "*n M"], Int[Array, "*n M"], Bool[Array, "*n M"]]:
    """Cheapest one-to-one assignment of every real target to a query, all problems at once.

    Padded targets get the same constant cost at every query, which leaves the assignment of the
    real ones optimal. Costs that are not finite count as the worst possible.

    Returns:
      (query, target, matched): pairs in ascending order of query as scipy's
      `linear_sum_assignment` gives them, pairs with padded targets (matched = False) last.

    Raises:
      UserError: there are fewer queries than targets.
    """
    queries, targets = cost.shape[-2:]
    if queries < targets:
        raise UserError(
            f"{queries} queries cannot be matched to up to {targets} targets per frame: expected "
            "num_queries >= max_targets. Raise the model's num_queries or lower the loss's "
            "max_targets."
        )
    cost = jax.lax.stop_gradient(cost)
    cost = jnp.clip(jnp.nan_to_num(cost, nan=WORST_COST), -WORST_COST, WORST_COST)
    cost = jnp.where(real[..., None, :], cost, 0.0)
    query, target = assign(cost)
    matched = jnp.take_along_axis(real, target, axis=-1)
    order = jnp.argsort(jnp.where(matched, query, query + queries), axis=-1)
    return tuple(jnp.take_along_axis(x, order, axis=-1) for x in (query, target, matched))
