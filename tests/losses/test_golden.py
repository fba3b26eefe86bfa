"""The criterion against the loss that AAVS's public code computed (tests/data/golden)."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.losses import mask_losses
from ssp_jax.weights.reference import Reference

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"
# What AAVS's code has in its matching cost, where method 3.7 and Mask2Former say 2.
AAVS = {"matching_class_weight": 1.0}


def load(stage):
    """The reference, and its final and auxiliary predictions."""
    stored = Reference(GOLDEN / f"aavs_stage{stage}_tiny.npz")
    names = ["out", *(f"out/aux/{i}" for i in range(stored.layers - 1))]
    final, *aux = [
        {
            "mask_logits": jnp.asarray(stored[f"{name}/masks_queries_logits"]),
            "class_logits": jnp.asarray(stored[f"{name}/class_queries_logits"]),
        }
        for name in names
    ]
    return stored, final, aux


@pytest.mark.parametrize(("stage", "width"), [(1, 2), (2, 5)])
def test_explicit_masks_give_the_stored_loss_and_gradients(stage, width):
    stored, final, aux = load(stage)
    draws, aims = stored.draws(width), stored.targets(width)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def criterion(layers, aims, draws):
        return mask_losses.criterion(layers[0], layers[1:], aims, draws=draws, **AAVS)

    (loss, parts), grads = criterion([final, *aux], aims, draws)
    np.testing.assert_allclose(loss, stored["out/loss"][0], rtol=1e-5)
    np.testing.assert_allclose(parts["class"] + parts["mask"] + parts["dice"], loss, rtol=1e-6)
    assert parts["targets"] == sum(stored.counts)
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
    stored, final, aux = load(stage=2)
    pairs = [(stored[f"in/class_labels/{t}"], stored[f"in/mask_labels/{t}"]) for t in range(3)]
    labels = np.stack([np.tensordot(*pair, 1).astype(np.uint8) for pair in pairs])
    draws = stored.draws(3)
    criterion = functools.partial(mask_losses.set_criterion, num_classes=71, max_targets=3, **AAVS)
    loss, _ = jax.jit(criterion)(
        final, aux, jnp.asarray(labels), jnp.ones(len(labels), bool), draws=draws
    )
    np.testing.assert_allclose(loss, stored["out/loss"][0], rtol=1e-5)
