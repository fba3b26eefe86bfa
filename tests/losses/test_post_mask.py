import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.batch import fake_batch
from ssp_jax.errors import UserError
from ssp_jax.losses.mask_losses import set_criterion
from ssp_jax.losses.post_mask import post_mask_bce

SHARP = 12.0


def test_readings_differ_outside_of_the_flow():
    # Points: sounding and moving, sounding and still, silent and moving, silent and still.
    truth, moving = jnp.array([1.0, 1.0, 0.0, 0.0]), jnp.array([1.0, 0.0, 1.0, 0.0])
    as_truth, as_both = SHARP * (2 * truth - 1), SHARP * (2 * truth * moving - 1)
    for reading in ("shared", "head"):
        assert post_mask_bce(as_both, truth, moving, reading) < 1e-4
        np.testing.assert_allclose(
            post_mask_bce(as_truth, truth, moving, reading), SHARP / 4, rtol=1e-3
        )
    assert post_mask_bce(as_truth, truth, moving, "within_flow") < 1e-4
    # What is outside of the flow does not matter to it, and nothing at all where nothing moves.
    flipped = as_truth * jnp.array([1.0, -1.0, 1.0, -1.0])
    assert post_mask_bce(flipped, truth, moving, "within_flow") < 1e-4
    assert post_mask_bce(flipped, truth, 0 * moving, "within_flow") == 0


def loss_of(batch, masks, **settings):
    """Two queries: background and class 1, sure of their classes."""
    classes = SHARP * jnp.tile(jnp.eye(3)[:2], (len(batch.labels), 1, 1))
    return set_criterion(
        {"mask_logits": masks, "class_logits": classes},
        [],
        jnp.asarray(batch.labels),
        jnp.asarray(batch.annotated),
        num_classes=2,
        max_targets=2,
        keys=jax.random.split(jax.random.key(0), len(batch.labels)),
        num_points=4096,
        importance_sample_ratio=0.0,  # points anywhere, not just at the uncertain borders
        flow_mask=batch.prompts()["flow_mask"],
        **settings,
    )


def masks_of(foreground):
    return SHARP * (2 * jnp.stack([1 - foreground, foreground], axis=1) - 1)


def test_the_criterion_adds_the_post_mask_of_what_sounds():
    batch = fake_batch(4, flow_mask=True)
    truth = jnp.asarray(batch.labels > 0, jnp.float32)
    both = truth * batch.prompts()["flow_mask"]
    assert 0 < both.sum() < truth.sum()
    plain, _ = loss_of(batch, masks_of(truth))
    for reading, best in (("shared", both), ("within_flow", truth)):
        loss, parts = loss_of(batch, masks_of(truth), post_mask=reading, post_mask_weight=7.0)
        np.testing.assert_allclose(loss, plain + parts["post_mask"], rtol=1e-5)
        _, at_best = loss_of(batch, masks_of(best), post_mask=reading, post_mask_weight=7.0)
        assert bool(parts["post_mask"] > 2 * at_best["post_mask"]) is (reading == "shared")
    # A head of its own leaves the masks to the other losses.
    settings = {"post_mask": "head", "post_mask_weight": 7.0}
    _, parts = loss_of(batch, masks_of(truth), post_mask_logits=masks_of(both), **settings)
    assert parts["post_mask"] < 0.2
    np.testing.assert_allclose(parts["mask"] + parts["dice"] + parts["class"], plain, rtol=1e-5)
    _, parts = loss_of(batch, masks_of(truth), post_mask_logits=masks_of(truth), **settings)
    assert parts["post_mask"] > 0.4


def test_the_weight_scales_it():
    batch = fake_batch(4, flow_mask=True)
    masks = masks_of(jnp.asarray(batch.labels > 0, jnp.float32))
    one, two = (
        loss_of(batch, masks, post_mask="shared", post_mask_weight=w)[1]["post_mask"]
        for w in (5.0, 10.0)
    )
    np.testing.assert_allclose(2 * one, two, rtol=1e-6)


def test_bad_choices():
    batch = fake_batch(2, flow_mask=True)
    masks = masks_of(jnp.asarray(batch.labels > 0, jnp.float32))
    with pytest.raises(UserError, match="expected one of none, shared, head, within_flow"):
        loss_of(batch, masks, post_mask="everywhere")
    with pytest.raises(ValueError, match="flow_mask"):
        set_criterion(
            {"mask_logits": masks, "class_logits": jnp.zeros((2, 2, 3))},
            [],
            jnp.asarray(batch.labels),
            jnp.asarray(batch.annotated),
            num_classes=2,
            max_targets=2,
            keys=jax.random.split(jax.random.key(0), 2),
            post_mask="shared",
        )
