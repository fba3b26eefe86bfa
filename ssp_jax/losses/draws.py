"""The random points at which the mask losses look."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ssp_jax.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The uniform random points in [0, 1] of one loss over L predictions, the final one first.

    Attributes:
      matching: points of the matching cost. candidates, random: per matched pair (ascending query
      within a frame, padded ones last) the points to choose uncertain ones from, and the rest.
    """

    matching: Float[Array, "N L P 2"]
    candidates: Float[Array, "N L M C 2"]
    random: Float[Array, "N L M R 2"]


def draw(
    keys: Key[Array, " N"],
    *,
    num_predictions: int,
    num_targets: int,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
) -> Draws:
    """Fresh points: P for the matching, P * oversample candidates and P * (1 - importance) others
    per pair (PointRend's and Mask2Former's counts, rounded down as there).

    Args:
      keys: one a frame, so that its points depend neither on where it stands in a batch nor on
        which part or device computes it.

    Raises:
      UserError: num_points < 1, oversample_ratio < 1 or importance_sample_ratio outside [0, 1].
    """
    if num_points < 1 or oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
        raise UserError(
            f"num_points = {num_points}, oversample_ratio = {oversample_ratio}, "
            f"importance_sample_ratio = {importance_sample_ratio}: expected at least 1 point, a "
            "ratio of at least 1, and a share between 0 and 1."
        )
    candidates = int(num_points * oversample_ratio)
    others = num_points - int(importance_sample_ratio * num_points)
    sizes = num_points, num_targets * candidates, num_targets * others
    # One call, and one random word per point, since on CPU the generator is a good part of the
    # loss: 16 bits a coordinate place a point to a hundredth of a mask's pixel and better.
    shape = num_predictions, sum(sizes)
    bits = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(keys)
    halves = jnp.stack([bits >> 16, bits & 0xFFFF], axis=-1).astype(jnp.float32)
    at = (halves + 0.5) / 2**16
    matching_points, candidate_points, other_points = jnp.split(at, np.cumsum(sizes)[:-1], axis=2)
    per_pair = (len(keys), num_predictions, num_targets)
    return Draws(
        matching_points,
        candidate_points.reshape(*per_pair, candidates, 2),
        other_points.reshape(*per_pair, others, 2),
    )
