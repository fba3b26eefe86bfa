"""Losses of every matched pair's mask at its points, most of them where it is uncertain."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssp_jax.losses import points
from ssp_jax.losses.draws import Draws
from ssp_jax.losses.post_mask import post_mask_bce, weighted_mean
from ssp_jax.losses.targets import Targets

PairLosses = dict[str, Float[Array, "N L M"]]


@jax.named_scope("points")
def pair_losses(
    pairs: Float[Array, "N L M H W"],
    targets: Targets,
    target: Int[Array, "N L M"],
    draws: Draws,
    num_uncertain: int,
    *,
    post_mask: str = "none",
    post_mask_pairs: Float[Array, "N M H W"] | None = None,
    flow_mask: Float[Array, "N h w"] | None = None,
) -> PairLosses:
    """`mask` (BCE), `dice` and, if asked for, `post_mask` of every pair.

    Args:
      pairs: mask logits of the matched queries. target: which of its frame's targets each aims at.
      num_uncertain: of the candidates in `draws`, those whose logits are nearest to 0.
      post_mask, post_mask_pairs, flow_mask: see `mask_losses.criterion`; with `head` the post-mask
        loss is (N, 1, M), of the final prediction alone.
    """

    def losses_at(choose):
        def call(pairs, own, targets, target, draws, flow_mask):
            where, logits, weight = choose(pairs, draws, num_uncertain)
            truth = jax.lax.stop_gradient(targets.at_own_points(target, where))
            losses = _mask_losses(logits, truth, weight)
            if post_mask == "none":
                return losses
            moving = _moving_at(flow_mask, where)
            if post_mask == "head":  # it has one prediction only, of the final queries
                where, truth, moving = (x[:, :1] for x in (where, truth, moving))
                weight = None if weight is None else weight[:, :1]
                logits = points.sample_masks(own[:, None], where)
            losses["post_mask"] = post_mask_bce(logits, truth, moving, post_mask, weight)
            return losses

        return call

    # To pick points by index means gathers of single numbers, which a TPU makes one by one. To give
    # weights means to read all candidates in every loss, three times as many.
    return jax.lax.platform_dependent(
        *(pairs, post_mask_pairs, targets, target, draws, flow_mask),
        tpu=losses_at(_by_weight),
        default=losses_at(_by_index),
    )


def _by_index(
    pairs: Float[Array, "N L M H W"], draws: Draws, num_uncertain: int
) -> tuple[Float[Array, "N L M P 2"], Float[Array, "N L M P"], None]:
    """Points, the uncertain ones first, and logits at them."""
    # Without the barriers XLA on CPU fuses the samples into the selection, and the selection into
    # every later gather, and computes them again and again: twice the time of these losses.
    barrier = jax.lax.optimization_barrier
    fixed = jax.lax.stop_gradient(pairs)
    certainty = barrier(jnp.abs(points.sample_masks(fixed, draws.candidates)))
    chosen = points.least(certainty, num_uncertain)
    uncertain = jnp.take_along_axis(draws.candidates, chosen[..., None], axis=-2)
    where = barrier(jnp.concatenate([uncertain, draws.random], axis=-2))
    return where, points.sample_masks(pairs, where), None


def _by_weight(
    pairs: Float[Array, "N L M H W"], draws: Draws, num_uncertain: int
) -> tuple[Float[Array, "N L M P 2"], Float[Array, "N L M P"], Float[Array, "N L M P"]]:
    """All points, logits at them, and 1 for those that count, else 0."""
    where = jnp.concatenate([draws.candidates, draws.random], axis=-2)
    logits = points.sample_masks(pairs, where)
    certainty = jnp.abs(jax.lax.stop_gradient(logits[..., : draws.candidates.shape[-2]]))
    uncertain = points.among_least(certainty, num_uncertain)
    others = jnp.ones(draws.random.shape[:-1], bool)
    return where, logits, jnp.concatenate([uncertain, others], axis=-1).astype(logits.dtype)


def _moving_at(
    flow_mask: Float[Array, "N h w"], at: Float[Array, "N L M P 2"]
) -> Float[Array, "N L M P"]:
    moves = (flow_mask >= 0.5).astype(jnp.uint8)[:, None]
    return points.sample_classes(moves, jnp.ones(at.shape[:3], jnp.int32), at)


def _mask_losses(
    logits: Float[Array, "N L M P"],
    truth: Float[Array, "N L M P"],
    weight: Float[Array, "N L M P"] | None,
) -> PairLosses:
    """BCE and dice of every pair at its points."""
    bce = weighted_mean(jax.nn.softplus(logits) - logits * truth, weight)
    probability = jax.nn.sigmoid(logits)
    if weight is not None:
        probability, truth = probability * weight, truth * weight
    # A weight is 0 or 1, so that it may stand in both factors.
    overlap = (probability * truth).sum(-1)
    dice = 1 - (2 * overlap + 1) / (probability.sum(-1) + truth.sum(-1) + 1)
    return {"mask": bce, "dice": dice}
