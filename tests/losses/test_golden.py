"""The criterion against the loss that AAVS's public code computed (tests/data/golden)."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.losses import mask_losses, targets

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"
# What AAVS's code has in its matching cost, where method 3.7 and Mask2Former say 2.
AAVS = {"matching_class_weight": 1.0}
FRAMES, LAYERS, POINTS, RANDOM = 3, 5, 128, 32


def load(stage):
    stored = np.load(GOLDEN / f"aavs_stage{stage}_tiny.npz")
    names = ["out", *(f"out/aux/{i}" for i in range(LAYERS - 1))]
    final, *aux = [
        {
            "mask_logits": jnp.asarray(stored[f"{name}/masks_queries_logits"]),
            "class_logits": jnp.asarray(stored[f"{name}/class_queries_logits"]),
        }
        for name in names
    ]
    masks = [stored[f"in/mask_labels/{t}"] for t in range(FRAMES)]
    classes = [stored[f"in/class_labels/{t}"] for t in range(FRAMES)]
    return stored, final, aux, masks, classes


def padded_draws(stored, counts, width):
    """The flat stored draws in the padded layout."""
    matching = np.zeros((FRAMES, LAYERS, POINTS, 2), np.float32)
    candidates = np.full((FRAMES, LAYERS, width, 3 * POINTS, 2), 0.5, np.float32)
    random = np.full((FRAMES, LAYERS, width, RANDOM, 2), 0.5, np.float32)
    for layer in range(LAYERS):
        *per_frame, flat_candidates, flat_random = (
            stored[f"draws/{5 * layer + i}"] for i in range(5)
        )
        ends = np.cumsum(counts)
        for frame, (end, count) in enumerate(zip(ends, counts, strict=True)):
            matching[frame, layer] = per_frame[frame][0]
            candidates[frame, layer, :count] = flat_candidates[end - count : end]
            random[frame, layer, :count] = flat_random[end - count : end]
    return mask_losses.Draws(*map(jnp.asarray, (matching, candidates, random)))


def explicit_targets(masks, classes, width):
    padded = np.ones((FRAMES, width, *masks[0].shape[1:]), np.float32)
    class_labels = np.full((FRAMES, width), -1)
    for frame, (mask, label) in enumerate(zip(masks, classes, strict=True)):
        padded[frame, : len(label)] = mask
        class_labels[frame, : len(label)] = label
    return targets.MaskTargets(
        jnp.asarray(padded), jnp.asarray(class_labels), jnp.ones(FRAMES, bool), jnp.zeros((), int)
    )


@pytest.mark.parametrize(("stage", "width"), [(1, 2), (2, 5)])
def test_explicit_masks_give_the_stored_loss_and_gradients(stage, width):
    stored, final, aux, masks, classes = load(stage)
    draws = padded_draws(stored, [len(c) for c in classes], width)
    aims = explicit_targets(masks, classes, width)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def criterion(layers, aims, draws):
        return mask_losses.criterion(layers[0], layers[1:], aims, draws=draws, **AAVS)

    (loss, parts), grads = criterion([final, *aux], aims, draws)
    np.testing.assert_allclose(loss, stored["out/loss"][0], rtol=1e-5)
    np.testing.assert_allclose(parts["class"] + parts["mask"] + parts["dice"], loss, rtol=1e-6)
    assert parts["targets"] == sum(map(len, classes))
    # The gradient of a last bias is the sum of the gradients of what it was added to.
    norms = json.loads(stored["grad_norms_json"].tobytes())
    bias = sum(g["class_logits"].sum((0, 1)) for g in grads)
    np.testing.assert_allclose(jnp.linalg.norm(bias), norms["class_predictor.bias"], rtol=1e-4)
    if stage == 1:  # in stage 2 the prompt is added to the stored mask features
        pixels = stored["out/mask_features"]
        bias = sum(jnp.einsum("nqhw,nchw->c", g["mask_logits"], pixels) for g in grads)
        name = "model.transformer_module.decoder.mask_predictor.mask_embedder.2.0.bias"
        np.testing.assert_allclose(jnp.linalg.norm(bias), norms[name], rtol=1e-4)


def test_label_maps_give_the_stored_loss():
    stored, final, aux, masks, classes = load(stage=2)
    labels = np.stack(
        [np.tensordot(c, m, 1).astype(np.uint8) for m, c in zip(masks, classes, strict=True)]
    )
    draws = padded_draws(stored, [len(c) for c in classes], 3)
    criterion = functools.partial(mask_losses.set_criterion, num_classes=71, max_targets=3, **AAVS)
    loss, _ = jax.jit(criterion)(
        final, aux, jnp.asarray(labels), jnp.ones(FRAMES, bool), draws=draws
    )
    np.testing.assert_allclose(loss, stored["out/loss"][0], rtol=1e-5)
