"""Weighted sums of bilinear samples of several maps, the core of deformable attention.

Four ways with one result; what they cost differs by platform and size. The choice is made where the
program is lowered, so that what is compiled or exported for another platform holds that one's own.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssp_jax.models import deformable_kernels
from ssp_jax.models.blocks import in_blocks, out_of_blocks
from ssp_jax.models.by_platform import ByPlatform
from ssp_jax.models.deformable_kernels import Sizes

# Up to this many tokens in all levels (those of 224 x 224 pixels) an interpolation map per query
# is cheaper than gathering its samples. The maps' memory grows with their square.
MAP_TOKENS = 1100


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A way to sample, and its backward pass.

    Attributes:
      forward: (sizes, values, points, weights) -> sums, as `sample`.
      backward: (sizes, values, points, weights, gradient of the sums) -> gradients of the three.
    """

    forward: Callable[..., Float[Array, "N heads T D"]]
    backward: Callable[..., tuple[Array, Array, Array]]


def sample(
    way: str,
    sizes: Sizes,
    values: Float[Array, "N heads S D"],
    points: Float[Array, "N heads levels P 2 T"],
    weights: Float[Array, "N heads levels P T"],
) -> Float[Array, "N heads T D"]:
    """Weighted sums of bilinear samples, T of each head.

    Args:
      way: a name of `SAMPLERS`, or 'auto', what is cheapest on the platform that the program is
        lowered for.
      sizes: (height, width) of the levels that `values` holds one after the other.
      points: (x, y) in pixels of their level, 0 = centre of the first pixel. Pixels outside of
        the level count as zeros.

    Raises:
      KeyError: another way.
    """
    # Called from here, so that programs and profiles say of its gradients, too, that they come from
    # this file.
    return _sample(way, sizes, values, points, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sample(way, sizes, values, points, weights):
    return _forward(way, sizes, values, points, weights)[0]


def _forward(way, sizes, values, points, weights):
    inputs = values, points, weights
    return _SAMPLE((way, sizes), *inputs)[0], inputs


def _backward(way, sizes, inputs, gradient):
    return tuple(_SAMPLE_GRADIENTS((way, sizes), *inputs, gradient))


_sample.defvjp(_forward, _backward)


def _calls(what: str, setting: tuple[str, Sizes]) -> dict[str, Callable]:
    way, sizes = setting
    calls = {}
    for platform, name in _ways(way, sizes).items():
        call = jax.named_scope(f"by_{name}")(getattr(SAMPLERS[name], what))
        # What is no TPU's compiles no kernel, but computes one step by step, for tests.
        options = {"interpret": platform != "tpu"} if name == "kernel" else {}
        calls[platform] = functools.partial(call, sizes, **options)
    return calls


_SAMPLE = ByPlatform(
    "sample",
    lambda setting: {
        platform: lambda *inputs, call=call: [call(*inputs)]
        for platform, call in _calls("forward", setting).items()
    },
    lambda _, values, points, weights: [
        jax.ShapeDtypeStruct((*values.shape[:2], points.shape[-1], values.shape[3]), values.dtype)
    ],
)
_SAMPLE_GRADIENTS = ByPlatform(
    "sample_gradients",
    functools.partial(_calls, "backward"),
    lambda _, *arrays: [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays[:3]],
)


def _ways(way: str, sizes: Sizes) -> dict[str, str]:
    """{platform: a name of `SAMPLERS`}."""
    if way != "auto":
        return {"tpu": way, "default": way}
    tokens = sum(height * width for height, width in sizes)
    return {
        "cpu": "fused",
        "tpu": "kernel" if deformable_kernels.fits(sizes) else "map",
        "default": "map" if tokens <= MAP_TOKENS else "gather",
    }


def _corner(
    sizes: Sizes,
    points: Float[Array, "*n levels P 2 T"],
    weights: Float[Array, "*n levels P T"],
    right: int | Int[np.ndarray, "..."],
    down: int | Int[np.ndarray, "..."],
) -> tuple[Float[Array, "*n levels P T"], Int[Array, "*n levels P T"]]:
    """(weight, token) of one of the four tokens around each point, that a query reads.

    Args:
      points: (x, y) in pixels of their level, 0 = centre of the first pixel. Pixels outside of
        the level count as zeros: their weight is 0.
      right, down: 0 or 1, which corner; or several of them, (4, 1, 1, 1), which are then an axis
        before the levels'.
    """

    def of_levels(numbers):
        return np.array(numbers, np.int32).reshape(*[1] * (weights.ndim - 3), -1, 1, 1)

    def share_of(far, fraction):
        if isinstance(far, int):
            return fraction if far else 1 - fraction
        return jnp.where(far == 1, fraction, 1 - fraction)

    corner = jnp.floor(points)
    fraction = points - corner
    corner = corner.astype(jnp.int32)
    if np.ndim(right):
        corner, fraction = jnp.expand_dims(corner, -5), jnp.expand_dims(fraction, -5)
        weights = jnp.expand_dims(weights, -4)
        right, down = (x.reshape(*[1] * (weights.ndim - 4), *x.shape) for x in (right, down))
    width = of_levels([width for _, width in sizes])
    height = of_levels([height for height, _ in sizes])
    start = of_levels(np.cumsum([0] + [height * width for height, width in sizes[:-1]]))
    x, y = corner[..., 0, :] + right, corner[..., 1, :] + down
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    share = share_of(right, fraction[..., 0, :]) * share_of(down, fraction[..., 1, :]) * weights
    share = jnp.where(inside, share, 0.0)
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    return share, start + y * width + x


def _corners(sizes, points, weights):
    """(shares, tokens) of the four corners, one after the other."""
    corners = [_corner(sizes, points, weights, right, down) for down in (0, 1) for right in (0, 1)]
    return tuple(list(parts) for parts in zip(*corners, strict=True))


def _corner_arrays(sizes, points, weights):
    """(shares, tokens) of the four corners, each one array: (*n, 4, levels, P, T)."""
    corner = np.arange(4, dtype=np.int32).reshape(4, 1, 1, 1)
    return _corner(sizes, points, weights, corner % 2, corner // 2)


def _maps(
    sizes: Sizes,
    points: Float[Array, "N heads levels P 2 T"],
    weights: Float[Array, "N heads levels P T"],
) -> list[Float[Array, "N heads T s"]]:
    """Weight of every token of a level for each query, level by level.

    A bilinear sample at x weighs pixel i with max(0, 1 - |x - i|) in each axis, so nothing has to
    be scattered.
    """
    maps = []
    for level, (height, width) in enumerate(sizes):
        point = points[:, :, level]
        in_row, in_column = (
            jax.nn.relu(1 - jnp.abs(point[:, :, :, axis, :, None] - _pixels(size, point)))
            for axis, size in ((0, width), (1, height))
        )
        in_column *= weights[:, :, level, :, :, None]
        # Without the barrier XLA's CPU backend computes them anew for every pixel of the map.
        in_row, in_column = jax.lax.optimization_barrier((in_row, in_column))
        level_map = sum(
            in_column[:, :, point, :, :, None] * in_row[:, :, point, :, None, :]
            for point in range(points.shape[3])
        )
        maps.append(level_map.reshape(*level_map.shape[:3], height * width))
    return jax.lax.optimization_barrier(maps)


def _pixels(size: int, like: Array) -> Float[np.ndarray, "..."]:
    return np.arange(size, dtype=like.dtype).reshape(*[1] * (like.ndim - 1), size)


def _split_levels(sizes: Sizes, values: Float[Array, "N heads S D"]) -> list[Array]:
    return jnp.split(values, np.cumsum([height * width for height, width in sizes])[:-1], axis=2)


def _map_forward(sizes, values, points, weights):
    """As (T x S) interpolation maps times the values, block by block of queries.

    Forwards and backwards without gather or scatter, hence also deterministic on every platform.
    """

    def block(inputs):
        maps = [level_map.astype(values.dtype) for level_map in _maps(sizes, *inputs)]
        return sum(
            jnp.einsum("nhts,nhsd->nhtd", level_map, level)
            for level_map, level in zip(maps, _split_levels(sizes, values), strict=True)
        )

    blocks = in_blocks(points, 5, MAP_TOKENS), in_blocks(weights, 4, MAP_TOKENS)
    return out_of_blocks(jax.lax.map(block, blocks), 2, points.shape[-1])


def _map_backward(sizes, values, points, weights, gradient):
    kind = weights.dtype

    def block(total, inputs):
        *at, gradient = inputs
        # Made anew: cheaper than kept, and differentiated through the hat functions.
        maps, pull = jax.vjp(functools.partial(_maps, sizes), *at)
        to_values = jnp.concatenate(
            [
                jnp.einsum("nhts,nhtd->nhsd", level_map, gradient, preferred_element_type=kind)
                for level_map in (level_map.astype(values.dtype) for level_map in maps)
            ],
            axis=2,
        )
        to_maps = [
            jnp.einsum("nhtd,nhsd->nhts", gradient, level, preferred_element_type=kind)
            for level in _split_levels(sizes, values)
        ]
        return total + to_values, pull(to_maps)

    blocks = (
        in_blocks(points, 5, MAP_TOKENS),
        in_blocks(weights, 4, MAP_TOKENS),
        in_blocks(gradient, 2, MAP_TOKENS),
    )
    zeros = jnp.zeros(values.shape, kind)
    to_values, (to_points, to_weights) = jax.lax.scan(block, zeros, blocks)
    queries = points.shape[-1]
    to_points = out_of_blocks(to_points, 5, queries)
    return to_values.astype(values.dtype), to_points, out_of_blocks(to_weights, 4, queries)


def _gathered(
    values: Float[Array, "N heads S D"], tokens: Int[Array, "N heads 4 levels P T"]
) -> Float[Array, "N heads K T D"]:
    """The values at the tokens, K of all corners, levels and points."""
    at = tokens.reshape(*values.shape[:2], -1, 1)
    rows = jnp.take_along_axis(values, at, axis=2, mode="promise_in_bounds")
    return rows.reshape(*values.shape[:2], -1, tokens.shape[-1], values.shape[-1])


def _of_rows(corners: Float[Array, "N heads 4 levels P T"]) -> Float[Array, "N heads K T 1"]:
    return corners.reshape(*corners.shape[:2], -1, corners.shape[-1], 1)


def _gather_forward(sizes, values, points, weights):
    """Sample by one gather of all corners: memory linear in S.

    As a sum of products and not as an `einsum`, which XLA may take for a matrix product: then a GPU
    writes all samples out, and reads them again.
    """
    shares, tokens = _corner_arrays(sizes, points, weights)
    samples = _gathered(values, tokens).astype(shares.dtype)
    return (_of_rows(shares) * samples).sum(2).astype(values.dtype)


def _gather_backward(sizes, values, points, weights, gradient):
    shares, pull, tokens = jax.vjp(
        functools.partial(_corner_arrays, sizes), points, weights, has_aux=True
    )
    kind = weights.dtype
    to_shares = jnp.einsum(
        "nhtd,nhktd->nhkt", gradient, _gathered(values, tokens), preferred_element_type=kind
    )
    # In float32: a token of a large map is read by some fifty points, too many for bfloat16's sums.
    # And at once, so that the sums are read and written once.
    added = _of_rows(shares) * gradient[:, :, None].astype(kind)
    at = tokens.reshape(*values.shape[:2], -1)
    add = jax.vmap(jax.vmap(lambda x, at, y: x.at[at].add(y, mode="promise_in_bounds")))
    to_values = add(jnp.zeros(values.shape, kind), at, added.reshape(*at.shape, -1))
    return to_values.astype(values.dtype), *pull(to_shares.reshape(shares.shape))


def _fused_forward(sizes, values, points, weights):
    """As one sum of many small gathers, which XLA's CPU backend fuses into one loop.

    At 384 x 384 pixels the gathered samples are 149 MB a frame and layer: not writing them makes
    the CPU several times faster (benchmarks/README.md).
    """
    # Head by head, since a loop's body is compiled by itself: else forward and backward pass would
    # share gathers, which are then written out, or compute one another's results again.
    inputs = values, points, weights
    sampled = jax.lax.map(functools.partial(_sample_head, sizes), _heads_first(inputs))
    return sampled.swapaxes(0, 1)


def _fused_backward(sizes, *inputs):
    inputs = _heads_first(inputs)
    return _heads_first(jax.lax.map(functools.partial(_head_gradients, sizes), inputs))


def _heads_first(arrays: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(x.swapaxes(0, 1) for x in arrays)


def _taken(values: Float[Array, "N S D"], token: Int[Array, "N T"]) -> Float[Array, "N T D"]:
    return jnp.take_along_axis(values, token[..., None], axis=1, mode="promise_in_bounds")


def _sample_head(sizes: Sizes, inputs) -> Float[Array, "N T D"]:
    values, points, weights = inputs
    shares, tokens = _corners(sizes, points, weights)
    return sum(
        share[:, level, point, :, None].astype(values.dtype)
        * _taken(values, token[:, level, point])
        for level, point in np.ndindex(weights.shape[1:3])
        for token, share in zip(tokens, shares, strict=True)
    )


def _head_gradients(sizes: Sizes, inputs) -> tuple[Array, Array, Array]:
    values, points, weights, gradient = inputs
    shares, pull, tokens = jax.vjp(
        functools.partial(_corners, sizes), points, weights, has_aux=True
    )
    kind, corners = weights.dtype, range(len(tokens))

    def products(level, point):
        return tuple(
            (gradient * _taken(values, token[:, level, point])).astype(kind) for token in tokens
        )

    def add(xs, ys):
        return tuple(x + y for x, y in zip(xs, ys, strict=True))

    # One reduction of four arrays, since XLA's CPU backend fuses no gather into that of one.
    zeros = (np.zeros((), kind),) * len(tokens)
    to_points = [
        jax.lax.reduce(products(*at), zeros, add, [2]) for at in np.ndindex(weights.shape[1:3])
    ]
    to_shares = [
        jnp.stack([of_corner[corner] for of_corner in to_points], axis=1).reshape(weights.shape)
        for corner in corners
    ]

    def scatter(total, corners):
        token, share = corners
        added = share[..., None].astype(values.dtype) * gradient[:, :, None]
        added = added.reshape(len(added), -1, added.shape[-1])
        token = token.reshape(len(token), -1)
        return jax.vmap(lambda x, at, y: x.at[at].add(y, mode="promise_in_bounds"))(
            total, token, added
        ), None

    # Point by point, so that what is added stays in the cache.
    by_point = [
        jnp.stack(corner, axis=-1)
        .reshape(len(values), -1, *gradient.shape[1:2], len(corners))
        .swapaxes(0, 1)
        for corner in (tokens, shares)
    ]
    to_values = jax.lax.scan(scatter, jnp.zeros_like(values), by_point)[0]
    return to_values, *pull(to_shares)


SAMPLERS = {
    "map": Sampler(_map_forward, _map_backward),
    "gather": Sampler(_gather_forward, _gather_backward),
    "fused": Sampler(_fused_forward, _fused_backward),
    "kernel": Sampler(deformable_kernels.sample, deformable_kernels.gradients),
}
