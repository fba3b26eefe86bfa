"""The segmentation loss: Mask2Former's set criterion (method 3.7), without a host callback.

Same values as Hugging Face's Mask2FormerLoss (5.x; for earlier ones and AAVS see
`matching_class_weight`) for the same random points. What differs is the layout: targets are padded
to M per frame, pairs and layers are batched, masks are never built at the image's size
(`targets.py`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from ssp_jax.errors import UserError
from ssp_jax.losses import matching, points
from ssp_jax.losses.draws import Draws, draw
from ssp_jax.losses.pair_losses import pair_losses
from ssp_jax.losses.post_mask import READINGS
from ssp_jax.losses.targets import Targets, Totals, count_totals, targets_from_labels

Prediction = dict[str, jax.Array]


def set_criterion(
    predictions: Prediction,
    aux_layers: Sequence[Prediction],
    labels: UInt8[Array, "N h w"],
    annotated: Bool[Array, " N"],
    *,
    num_classes: int,
    max_targets: int,
    **settings,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`criterion` for the classes present in label maps (`targets_from_labels`).

    Masks are sampled bilinearly at the label maps' own resolution; AAVS first resizes them to
    384 x 384 by nearest neighbour, which a caller can do for the very same borders.
    """
    targets = targets_from_labels(
        labels, annotated, num_classes=num_classes, max_targets=max_targets
    )
    return criterion(predictions, aux_layers, targets, **settings)


def criterion(
    predictions: Prediction,
    aux_layers: Sequence[Prediction],
    targets: Targets,
    *,
    keys: Key[Array, " N"] | None = None,
    draws: Draws | None = None,
    totals: Totals | None = None,
    num_points: int = 12544,
    oversample_ratio: float = 3.0,
    importance_sample_ratio: float = 0.75,
    no_object_weight: float = 0.1,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    matching_class_weight: float | None = None,
    post_mask: str = "none",
    post_mask_weight: float = 10.0,
    post_mask_logits: Float[Array, "N Q H W"] | None = None,
    flow_mask: Float[Array, "N h w"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mask2Former's loss summed over the final and the auxiliary predictions.

    Args:
      predictions: `mask_logits` (N, Q, H, W) and `class_logits` (N, Q, K+1), the last class being
        "no object". aux_layers: the same of the earlier layers, in order.
      targets: label maps or masks; frames that are not annotated contribute nothing.
      keys, draws: one of them: the source of random points, or the points themselves (then
        num_points and oversample_ratio are what they hold).
      totals: what sums are divided by, where these frames are a part of a batch: a part's loss and
        gradients then add up, over the parts, to the batch's. By default of these frames.
      matching_class_weight: weight of the class in the matching cost; None takes class_weight, as
        Mask2Former and method 3.7 say. AAVS's code (and transformers before 5) uses 1 there.
      post_mask, post_mask_weight: reading and weight of the post-mask loss (method 4.3), which
        aims at the targets that are not background; `head` takes post_mask_logits, a mask a query
        of the final prediction. flow_mask: M_O in [0, 1], needed for it.

    Returns:
      (loss, parts), float32. `class`, `mask`, `dice` and (if asked for) `post_mask` are weighted
      and add up to the loss; `class_final`, ... the final prediction's share; `targets` and
      `dropped_targets` counts.

    Raises:
      UserError: fewer queries than targets per frame, an unknown reading of the post-mask.
      ValueError: neither or both of keys, draws; no flow mask for a post-mask.
    """
    if post_mask not in READINGS:
        raise UserError(f"post_mask={post_mask!r}: expected one of {', '.join(READINGS)}")
    if post_mask != "none" and flow_mask is None:
        raise ValueError("a post-mask loss needs flow_mask")
    layers = [predictions, *aux_layers]
    if (keys is None) == (draws is None):
        raise ValueError("criterion needs exactly one of keys and draws")
    if draws is None:
        draws = draw(
            keys,
            num_predictions=len(layers),
            num_targets=targets.class_labels.shape[1],
            num_points=num_points,
            oversample_ratio=oversample_ratio,
            importance_sample_ratio=importance_sample_ratio,
        )
    weights = {
        "class_weight": class_weight if matching_class_weight is None else matching_class_weight,
        "mask_weight": mask_weight,
        "dice_weight": dice_weight,
    }
    totals = totals or count_totals(targets)
    # Else XLA on CPU runs the generator again in each of its uses.
    draws = jax.lax.optimization_barrier(draws)
    query, target, matched = _match_layers(layers, targets, draws, weights)
    per_layer = {
        "class": class_weight
        * _class_loss(layers, targets, query, target, matched, totals, no_object_weight)
    }
    pairs = jnp.stack(
        [_chosen(layer["mask_logits"], query[:, i]) for i, layer in enumerate(layers)], axis=1
    ).astype(jnp.float32)
    own = None
    if post_mask == "head":
        own = _chosen(post_mask_logits, query[:, 0]).astype(jnp.float32)
    found = pair_losses(
        pairs,
        targets,
        target,
        draws,
        int(importance_sample_ratio * draws.matching.shape[2]),
        post_mask=post_mask,
        post_mask_pairs=own,
        flow_mask=flow_mask,
    )
    losses = [("mask", mask_weight, matched), ("dice", dice_weight, matched)]
    if post_mask != "none":
        classes = jnp.take_along_axis(targets.class_labels[:, None], target, axis=-1)
        counted = (matched & (classes > 0))[:, : found["post_mask"].shape[1]]
        losses.append(("post_mask", post_mask_weight, counted))
    divisor = jnp.maximum(totals.targets, 1).astype(jnp.float32)
    for name, weight, counted in losses:
        of_pairs = jnp.where(counted, found[name], 0)
        per_layer[name] = weight * of_pairs.sum(axis=(0, 2)) / divisor
    parts = {name: loss.sum() for name, loss in per_layer.items()}
    total = sum(parts.values())
    parts |= {f"{name}_final": loss[0] for name, loss in per_layer.items()}
    counts = {"targets": (targets.class_labels >= 0).sum(), "dropped_targets": targets.dropped}
    parts |= {name: count.astype(jnp.float32) for name, count in counts.items()}
    return total, parts


def _chosen(masks: Float[Array, "N Q H W"], query: Int[Array, "N M"]) -> Float[Array, "N M H W"]:
    return jax.vmap(lambda masks, index: masks[index])(masks, query)


@jax.named_scope("matching")
def _match_layers(
    layers: list[Prediction], targets: Targets, draws: Draws, weights: dict[str, float]
) -> tuple[Int[Array, "N L M"], Int[Array, "N L M"], Bool[Array, "N L M"]]:
    costs = []
    for number, layer in enumerate(layers):
        at = draws.matching[:, number]
        # Layer by layer: all queries at all points of all layers would take gigabytes at full size.
        masks = jax.lax.stop_gradient(layer["mask_logits"])
        costs.append(
            matching.matching_cost(
                points.sample_masks_at_shared_points(masks, at),
                jax.lax.stop_gradient(layer["class_logits"]),
                targets.at_shared_points(at),
                targets.class_labels,
                **weights,
            )
        )
    cost = jnp.stack(costs, axis=1)
    real = jnp.broadcast_to((targets.class_labels >= 0)[:, None], (*cost.shape[:2], cost.shape[3]))
    return matching.match(cost, real)


def _class_loss(
    layers: list[Prediction],
    targets: Targets,
    query: Int[Array, "N L M"],
    target: Int[Array, "N L M"],
    matched: Bool[Array, "N L M"],
    totals: Totals,
    no_object_weight: float,
) -> Float[Array, " L"]:
    """Cross entropy of every query of the annotated frames, unmatched ones aiming at "no object";
    per layer the mean weighted by class weight."""
    logits = jnp.stack([layer["class_logits"] for layer in layers], axis=1).astype(jnp.float32)
    queries, no_object = logits.shape[2], logits.shape[3] - 1
    classes = jnp.take_along_axis(targets.class_labels[:, None], target, axis=-1)
    chosen = (query[..., None] == jnp.arange(queries)[None, None, None]) & matched[..., None]
    aim = jnp.where(chosen.any(2), jnp.where(chosen, classes[..., None], 0).sum(2), no_object)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    entropy = -jnp.take_along_axis(log_probability, aim[..., None], axis=-1)[..., 0]
    weight = jnp.where(aim == no_object, no_object_weight, 1.0)
    weight *= targets.annotated[:, None, None].astype(weight.dtype)
    # Every target has a query. Only a batch without any annotated frame has no weight at all; its
    # loss is 0.
    unmatched = (queries * totals.annotated - totals.targets).astype(jnp.float32)
    total = totals.targets.astype(jnp.float32) + no_object_weight * unmatched
    return (weight * entropy).sum(axis=(0, 2)) / jnp.where(total > 0, total, 1.0)
