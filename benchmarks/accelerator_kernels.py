"""Formulas that are another on each platform, against those of a CPU on the same arrays.

What `ssp_jax` chooses for the accelerator is compiled for it; the reference is compiled for the CPU
beside it, in float32.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.accelerator_report import Findings
from benchmarks.accelerator_setting import Setting, computed_on
from ssp_jax.losses import points
from ssp_jax.losses.mask_losses import set_criterion
from ssp_jax.metrics_binary import binary_frame_stats
from ssp_jax.metrics_semantic import semantic_frame_stats
from ssp_jax.models.convolution import Conv3x3
from ssp_jax.models.deformable_sampling import sample
from ssp_jax.train_step import multiplied_in

# Largest difference, in parts of the largest value. Float32 in another order of sums; float32 at
# JAX's default precision or bfloat16, whose products take values to 8 bits; and what
# `point_products` says of labels at a TPU's points, 1/256 of a pixel.
FLOAT32, ROUNDED, LABELS = 1e-4, 2e-2, 1 / 128
# Share of pixels whose score lies so near to a threshold that another rounding counts it elsewhere.
_AT_THRESHOLD = 1e-3
# Sides of frames; strides 32, 16 and 8 of each are sampled. A GPU has another way up to 224 pixels
# than beyond, a TPU than for frames so large that its kernels have no room.
_SIDES = (224, 384, 800)
_BY = re.compile(r"by_(\w+)")


def kernels(found: Findings, setting: Setting) -> None:
    """Part: compare each of them."""
    rng = np.random.default_rng(0)
    for side in (64,) if setting.tiny else _SIDES:
        _sampling(found, setting, side, rng)
    _convolution(found, setting, rng)
    _points(found, setting, rng)
    _choice(found, setting, rng)
    _losses(found, setting, rng)
    _metrics(found, setting, rng)


def difference(ours: Any, reference: Any) -> float:
    """Largest difference of two arrays, or of the arrays of two trees, in parts of the largest
    value of the reference's array."""

    def of(ours, reference):
        ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
        largest = np.abs(reference).max()
        return np.abs(ours - reference).max() / (largest if largest > 0 else 1.0)

    # `np.max`, which hands a NaN on.
    return float(np.max(jax.tree.leaves(jax.tree.map(of, ours, reference))))


def _compare(
    found: Findings, setting: Setting, name: str, call: Callable, inputs: tuple, limit: float
) -> None:
    expected = computed_on(setting.cpu, call, *inputs)
    found.check(name, difference(computed_on(setting.device, call, *inputs), expected), limit)


def _sampling(found: Findings, setting: Setting, side: int, rng: np.random.Generator) -> None:
    sizes = tuple((side // stride,) * 2 for stride in (32, 16, 8))
    tokens = sum(height * width for height, width in sizes)
    frames, heads, channels = (1, 2, 8) if setting.tiny else (2, 4, 32)
    values = rng.normal(size=(frames, heads, tokens, channels)).astype(np.float32)
    # Of each level's pixels: around a place of the query, some beyond the border.
    spread = np.array([height for height, _ in sizes]).reshape(1, 1, -1, 1, 1, 1)
    at = rng.uniform(-0.1, 1.1, (frames, heads, 1, 1, 2, tokens)) * spread
    at = (at + rng.normal(0, 2, (frames, heads, len(sizes), 4, 2, tokens))).astype(np.float32)
    weights = rng.uniform(size=(frames, heads, len(sizes), 4, tokens)).astype(np.float32)
    weights /= weights.sum((2, 3), keepdims=True)
    gradient = rng.normal(size=(frames, heads, tokens, channels)).astype(np.float32)

    def sums(way, precision, dtype):
        @multiplied_in(precision)
        def call(values, at, weights, gradient):
            given = values.astype(dtype), at, weights
            sampled, pull = jax.vjp(lambda *inputs: sample(way, sizes, *inputs), *given)
            return jax.tree.map(
                lambda x: x.astype(jnp.float32), (sampled, *pull(gradient.astype(dtype)))
            )

        return call

    inputs = values, at, weights, gradient
    expected = computed_on(setting.cpu, sums("gather", "highest", "float32"), *inputs)
    for dtype, precision, limit in (
        ("float32", "highest", FLOAT32),
        ("float32", "default", ROUNDED),
        ("bfloat16", "default", ROUNDED),
    ):
        call = sums("auto", precision, dtype)
        lowered = jax.jit(call).lower(*jax.device_put(inputs, setting.device))
        ways = sorted(set(_BY.findall(lowered.as_text(debug_info=True))) - {"platform"})
        ours = computed_on(setting.device, call, *inputs)
        title = f"sampling at {side} px by {'/'.join(ways)}, {dtype}, {precision}"
        for what, one, other in zip(
            ("samples", "gradient of values", "of places", "of weights"),
            *(ours, expected),
            strict=True,
        ):
            # A place's gradient jumps where the place is rounded over a pixel's edge, which no
            # precision here does: places are float32 in all of them.
            found.check(f"{title}: {what}", difference(one, other), limit)


def _convolution(found: Findings, setting: Setting, rng: np.random.Generator) -> None:
    side, channels = (8, 8) if setting.tiny else (96, 256)
    inputs = rng.normal(size=(2, side, side, channels)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, channels, channels)).astype(np.float32)
    gradient = rng.normal(size=inputs.shape).astype(np.float32)

    def make():
        zeros = nnx.initializers.zeros
        return Conv3x3(channels, channels, use_bias=False, kernel_init=zeros, rngs=nnx.Rngs(0))

    module = nnx.graphdef(nnx.eval_shape(make))

    def convolve(inputs, kernel):
        return nnx.merge(module, {"kernel": kernel})(inputs)

    def gradients(precision):
        @multiplied_in(precision)
        def call(inputs, kernel, gradient):
            result, pull = jax.vjp(convolve, inputs, kernel)
            return result, *pull(gradient)

        return call

    for precision, limit in (("highest", FLOAT32), ("default", ROUNDED)):
        name = f"3x3 convolution and its gradients, float32, {precision}"
        _compare(found, setting, name, gradients(precision), (inputs, kernel, gradient), limit)


def _points(found: Findings, setting: Setting, rng: np.random.Generator) -> None:
    side, count = (8, 300) if setting.tiny else (96, 12544)
    masks = rng.normal(size=(2, 4, side, side)).astype(np.float32)
    at = rng.uniform(size=(2, 4, count, 2)).astype(np.float32)
    gradient = rng.normal(size=(2, 4, count)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 2 * side, 2 * side)).astype(np.uint8)
    classes = np.array([[0, 1, 4, -1]] * 2, np.int32)

    def own(masks, at, gradient):
        values, pull = jax.vjp(lambda masks: points.sample_masks(masks, at), masks)
        return values, pull(gradient)[0]

    name = "masks at their own points, and the gradient"
    _compare(found, setting, name, own, (masks, at, gradient), FLOAT32)
    shared = points.sample_masks_at_shared_points
    _compare(found, setting, "masks at shared points", shared, (masks, at[:, 0]), FLOAT32)
    _compare(
        *(found, setting, "labels at points", points.sample_classes),
        *((labels, classes, at), LABELS),
    )


def _choice(found: Findings, setting: Setting, rng: np.random.Generator) -> None:
    candidates, count = (300, 75) if setting.tiny else (37632, 9408)
    # All apart from each other by more than what `least` takes for rounding.
    certainty = np.stack([rng.permutation(candidates) for _ in range(8)]).astype(np.float32)
    for name, chosen in (("index", points.least), ("weight", points.among_least)):
        call = functools.partial(chosen, count=count)
        ours, expected = (
            np.asarray(computed_on(device, call, certainty))
            for device in (setting.device, setting.cpu)
        )
        other = (ours != expected).sum()
        found.check(f"uncertain points by {name}: chosen otherwise", other, 0)


def _losses(found: Findings, setting: Setting, rng: np.random.Generator) -> None:
    """Matching, choice and points together, as on a prediction of stage avss."""
    queries, side, count = (6, 8, 300) if setting.tiny else (100, 96, 12544)
    masks = rng.normal(0, 3, (2, queries, side, side)).astype(np.float32)
    classes = rng.normal(size=(2, queries, 6)).astype(np.float32)
    labels = np.zeros((2, 2 * side, 2 * side), np.uint8)
    labels[0, : side // 2, side // 3 :], labels[1, side:, :side] = 1, 4

    def losses(masks, classes, labels):
        def total(masks, classes):
            return set_criterion(
                {"mask_logits": masks, "class_logits": classes},
                *([], labels, jnp.ones(2, bool)),
                num_classes=5,
                max_targets=3,
                num_points=count,
                keys=jax.random.split(jax.random.key(0), 2),
            )[0]

        return jax.value_and_grad(total, argnums=(0, 1))(masks, classes)

    inputs = masks, classes, labels
    (loss, gradients), (expected, reference) = (
        computed_on(device, losses, *inputs) for device in (setting.device, setting.cpu)
    )
    found.check("losses at points: loss", difference(loss, expected), LABELS)
    found.check("losses at points: gradients", difference(gradients, reference), LABELS)


def _metrics(found: Findings, setting: Setting, rng: np.random.Generator) -> None:
    side, classes = 32 if setting.tiny else 224, 71
    target = rng.integers(0, classes, (2, side, side)).astype(np.uint8)
    predicted = np.where(rng.uniform(size=target.shape) < 0.7, target, target[:, ::-1])
    scores = rng.uniform(size=(2, 2, side, side)).astype(np.float32)
    valid = np.ones(2, bool)
    calls = {
        "classes": (
            functools.partial(semantic_frame_stats, num_classes=classes),
            (predicted, target, valid),
            0.0,
        ),
        "thresholds": (
            functools.partial(binary_frame_stats, rule="logit"),
            (scores, target, valid),
            _AT_THRESHOLD,
        ),
    }
    for name, (call, inputs, share) in calls.items():
        ours, expected = (
            computed_on(device, call, *inputs) for device in (setting.device, setting.cpu)
        )
        most = max(
            np.abs(np.asarray(ours[key], int) - np.asarray(expected[key], int)).max()
            for key in expected
        )
        limit = round(share * side**2)
        found.check(f"pixel counts by {name}: most that a count differs by", most, limit)
