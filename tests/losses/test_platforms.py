"""The losses as they are lowered for each platform: what each computes, and that it is the same."""

import jax
import numpy as np
import pytest

from ssp_jax.losses import mask_losses, matching, points
from ssp_jax.losses.draws import draw
from ssp_jax.losses.targets import targets_from_labels

FRAMES, QUERIES, CLASSES, SIZE, WIDTH, POINTS = 2, 6, 5, 8, 3, 600


def computed_as_on(monkeypatch, platform):
    """The formulas that the platform's program has, computed here."""

    def choose(*arrays, default, **ways):
        return ways.get(platform, default)(*arrays)

    jax.clear_caches()
    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    yield
    jax.clear_caches()


@pytest.fixture
def as_on_a_tpu(monkeypatch):
    yield from computed_as_on(monkeypatch, "tpu")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    yield from computed_as_on(monkeypatch, "cuda")


def inputs():
    rng = np.random.default_rng(0)
    masks = rng.normal(0, 3, (FRAMES, QUERIES, SIZE, SIZE)).astype(np.float32)
    classes = rng.normal(size=(FRAMES, QUERIES, CLASSES + 1)).astype(np.float32)
    labels = np.zeros((FRAMES, 16, 16), np.uint8)
    labels[0, 2:9, 3:12], labels[1, 8:, :5] = 1, 4
    moving = rng.uniform(size=(FRAMES, 12, 12)).astype(np.float32)
    own = rng.normal(size=masks.shape).astype(np.float32)
    return masks, classes, labels, moving, own


def loss_and_gradients(reading):
    masks, classes, labels, moving, own = inputs()
    more = {"post_mask_logits": own} if reading == "head" else {}
    keys = jax.random.split(jax.random.key(3), FRAMES)

    def loss(masks, more):
        prediction = {"mask_logits": masks, "class_logits": classes}
        targets = targets_from_labels(
            labels, np.ones(FRAMES, bool), num_classes=CLASSES, max_targets=WIDTH
        )
        flow = {} if reading == "none" else {"flow_mask": moving}
        return mask_losses.criterion(
            prediction,
            [{"mask_logits": masks[:, ::-1], "class_logits": classes}],
            targets,
            keys=keys,
            num_points=POINTS,
            post_mask=reading,
            **flow,
            **more,
        )

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(masks, more)


@pytest.mark.parametrize("reading", ["none", "shared", "head", "within_flow"])
def test_a_tpu_computes_the_same_losses(reading, request):
    here = loss_and_gradients(reading)
    request.getfixturevalue("as_on_a_tpu")
    (loss, parts), gradients = loss_and_gradients(reading)
    # Places of labels count there to 1/256 of a pixel.
    np.testing.assert_allclose(loss, here[0][0], rtol=2e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), parts, here[0][1])
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(here[1]), strict=True):
        largest = np.abs(theirs).max()
        assert largest > 1e-3
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * largest)


@pytest.mark.parametrize("reading", ["none", "head"])
def test_a_gpu_computes_the_same_losses(reading, request):
    here = loss_and_gradients(reading)
    request.getfixturevalue("as_on_a_gpu")
    there = loss_and_gradients(reading)
    for ours, theirs in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_masks_are_sampled_exactly(platform, request):
    masks, *_ = inputs()
    at = np.random.default_rng(1).uniform(size=(FRAMES, QUERIES, POINTS, 2))
    at, gradient = at.astype(np.float32), np.linspace(-1, 1, POINTS, dtype=np.float32)

    def sampled():
        value, pull = jax.vjp(lambda masks: points.sample_masks(masks, at), masks)
        shared = points.sample_masks_at_shared_points(masks, at[:, 0])
        return value, pull(np.broadcast_to(gradient, value.shape))[0], shared

    here = sampled()
    request.getfixturevalue(f"as_on_a_{platform}")
    for ours, theirs in zip(sampled(), here, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_a_tpu_picks_no_point_by_index():
    keys = jax.random.split(jax.random.key(0), FRAMES)
    masks, *_ = inputs()
    drawn = draw(
        keys,
        num_predictions=1,
        num_targets=WIDTH,
        num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )

    def sampled(masks):
        return points.sample_masks(masks[:, None, :WIDTH], drawn.candidates).sum()

    traced = jax.jit(jax.value_and_grad(sampled)).trace(masks)
    for platform, gathers in (("cpu", True), ("cuda", True), ("tpu", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.gather" in text) == gathers == ("stablehlo.scatter" in text)


def test_a_gpu_matches_without_loops():
    cost, real = (
        np.zeros((FRAMES, 2, QUERIES, WIDTH), np.float32),
        np.ones((FRAMES, 2, WIDTH), bool),
    )
    traced = jax.jit(matching.match).trace(cost, real)
    for platform, loops in (("cpu", True), ("cuda", False), ("tpu", True)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.while" in text) == loops


def test_uncertain_points_are_found_without_loops():
    traced = jax.jit(lambda values: points.least(values, 40)).trace(np.zeros((2, 100), np.float32))
    for platform in ("cpu", "cuda"):
        assert "stablehlo.while" not in traced.lower(lowering_platforms=(platform,)).as_text()
