import functools
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from ssp_jax.errors import UserError
from ssp_jax.losses import mask_losses, targets
from ssp_jax.losses.draws import Draws, draw

FRAMES, QUERIES, SIZE, CLASSES, WIDTH = 4, 6, 8, 5, 3


def random_layers(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "mask_logits": rng.normal(0, 3, (FRAMES, QUERIES, SIZE, SIZE)).astype(np.float32),
            "class_logits": rng.normal(0, 1, (FRAMES, QUERIES, CLASSES + 1)).astype(np.float32),
        }
        for _ in range(count)
    ]


def some_labels():
    """Background and one or two squares per frame."""
    labels = np.zeros((FRAMES, 16, 16), np.uint8)
    for frame in range(FRAMES):
        labels[frame, 2:8, 2:9] = 1 + frame % 4
    labels[1, 10:15, 10:15] = 4
    return labels


def draws_for(layers, width=WIDTH):
    drawn = functools.partial(
        draw,
        num_predictions=layers,
        num_targets=width,
        num_points=64,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    return jax.jit(drawn)(jax.random.split(jax.random.key(7), FRAMES))


@functools.cache
def compiled():
    """One program for all tests: (loss, parts) and gradients of two layers."""

    def criterion(layers, labels, annotated, draws):
        return mask_losses.set_criterion(
            layers[0],
            layers[1:],
            labels,
            annotated,
            num_classes=CLASSES,
            max_targets=WIDTH,
            draws=draws,
        )

    return jax.jit(jax.value_and_grad(criterion, has_aux=True))


def test_annotated_frames_alone_are_learnt_from():
    layers, labels, draws = random_layers(2), some_labels(), draws_for(2)
    annotated = np.asarray([True, True, False, True])
    (loss, parts), grads = compiled()(layers, labels, annotated, draws)
    # Whatever the other frame holds changes nothing.
    stretch = np.where(annotated, 1, 50).astype(np.float32)
    changed = jax.tree.map(lambda x: x * stretch.reshape(-1, *[1] * (x.ndim - 1)), layers)
    relabelled = np.where(annotated[:, None, None], labels, 3).astype(np.uint8)
    (other, _), _ = compiled()(changed, relabelled, annotated, draws)
    assert loss == other
    assert parts["targets"] == 2 + 3 + 2
    for grad in map(np.asarray, jax.tree.leaves(grads)):
        assert np.isfinite(grad).all()
        assert (grad[2] == 0).all()
        assert (np.abs(grad[[0, 1, 3]]).max(tuple(range(1, grad.ndim))) > 0).all()


def test_matched_queries_alone_get_mask_gradients():
    layers, labels = random_layers(2), some_labels()
    _, grads = compiled()(layers, labels, np.ones(FRAMES, bool), draws_for(2))
    for grad in jax.tree.map(np.asarray, grads):
        moved = (np.abs(grad["mask_logits"]).max((2, 3)) > 0).sum(1)
        np.testing.assert_array_equal(moved, [2, 3, 2, 2])
        assert (np.abs(grad["class_logits"]).max(-1) > 0).all()


def test_a_batch_without_annotations_costs_nothing():
    layers, labels = random_layers(2), some_labels()
    (loss, parts), grads = compiled()(layers, labels, np.zeros(FRAMES, bool), draws_for(2))
    assert loss == 0
    assert parts["targets"] == 0
    assert all((grad == 0).all() for grad in jax.tree.leaves(grads))


def test_parts_add_up_and_layers_are_summed():
    layers, labels, draws = random_layers(2), some_labels(), draws_for(2)
    everywhere = np.ones(FRAMES, bool)
    (loss, parts), _ = compiled()(layers, labels, everywhere, draws)
    np.testing.assert_allclose(parts["class"] + parts["mask"] + parts["dice"], loss, rtol=1e-6)
    swapped = jax.tree.map(lambda d: d[:, ::-1], draws)
    (_, last), _ = compiled()(layers[::-1], labels, everywhere, swapped)
    for name in ("class", "mask", "dice"):
        both = parts[f"{name}_final"] + last[f"{name}_final"]
        np.testing.assert_allclose(both, parts[name], rtol=1e-5)


def test_perfect_predictions_cost_almost_nothing_and_wrong_ones_do():
    small = np.random.default_rng(0).choice([0, 3], (FRAMES, 2, 2))
    small[:, 0, 0], small[:, 1, 1] = 0, 3
    labels = np.kron(small, np.ones((4, 4))).astype(np.uint8)
    masks = np.full((FRAMES, QUERIES, SIZE, SIZE), -30.0, np.float32)
    classes = np.full((FRAMES, QUERIES, CLASSES + 1), -30.0, np.float32)
    classes[..., CLASSES] = 30.0
    for query, label in ((4, 0), (1, 3)):
        masks[:, query][labels == label] = 30.0
        classes[:, query] = -30.0
        classes[:, query, label] = 30.0
    layer = {"mask_logits": masks, "class_logits": classes}
    # At the centres of mask pixels, off the border: there no sample mixes two classes.
    inside = jax.tree.map(
        lambda d: (np.clip(np.floor(np.asarray(d) * SIZE), 1, SIZE - 2) + 0.5) / SIZE, draws_for(2)
    )
    everywhere = np.ones(FRAMES, bool)
    labels = np.kron(labels, np.ones((2, 2), np.uint8))  # 16 x 16: the compiled program serves
    (loss, _), _ = compiled()([layer, layer], labels, everywhere, inside)
    assert loss < 1e-3
    wrong = layer | {"class_logits": np.roll(classes, 1, axis=-1)}
    (_, parts), _ = compiled()([wrong, layer], labels, everywhere, inside)
    assert parts["class_final"] > 10
    assert parts["class"] - parts["class_final"] < 1e-3
    # Not merely inverted masks: those the matching would give to the other target.
    everything = layer | {"mask_logits": np.full_like(masks, 30.0)}
    (_, parts), _ = compiled()([layer, everything], labels, everywhere, inside)
    assert parts["mask"] > 10
    assert parts["mask_final"] < 1e-3


def test_padding_the_targets_changes_nothing():
    layers, labels, annotated = random_layers(2), some_labels(), np.ones(FRAMES, bool)
    wide = draws_for(2, width=5)
    narrow = Draws(wide.matching, wide.candidates[:, :, :3], wide.random[:, :, :3])
    (expected, _), _ = compiled()(layers, labels, annotated, narrow)
    wider = functools.partial(mask_losses.set_criterion, num_classes=CLASSES, max_targets=5)
    loss, _ = jax.jit(wider)(layers[0], layers[1:], labels, annotated, draws=wide)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_class_loss_is_the_weighted_mean_and_totals_divide():
    (layer,) = random_layers(1)
    aims = targets.targets_from_labels(
        some_labels(), np.ones(FRAMES, bool), num_classes=CLASSES, max_targets=WIDTH
    )
    run = jax.jit(functools.partial(mask_losses.criterion, draws=draws_for(1)))
    settings = {"class_weight": 2.0, "matching_class_weight": 2.0}
    _, parts = run(layer, [], aims, **settings)
    # Half of a batch: its sums are divided by twice as much.
    half = targets.Totals(np.int32(18), np.int32(2 * FRAMES))
    _, halved = run(layer, [], aims, totals=half, **settings)
    assert parts["targets"] == halved["targets"] == 9
    for name in ("class", "mask", "dice"):
        np.testing.assert_allclose(halved[name], parts[name] / 2, rtol=1e-6)
    _, parts = run(layer, [], aims, **settings | {"class_weight": 0.0})
    assert parts["class"] == 0
    # All queries sure of "no object": 9 targets weigh 1, the 15 others 0.1.
    sure = layer | {
        "class_logits": np.broadcast_to(20.0 * np.eye(6, dtype=np.float32)[5], (4, 6, 6))
    }
    _, parts = run(sure, [], aims, **settings)
    np.testing.assert_allclose(parts["class"], 2 * 9 * 20 / (9 + 15 * 0.1), rtol=1e-5)


def test_draws_are_uniform_and_reproducible():
    draws = draws_for(2)
    assert draws.matching.shape == (FRAMES, 2, 64, 2)
    assert draws.candidates.shape == (FRAMES, 2, WIDTH, 192, 2)
    assert draws.random.shape == (FRAMES, 2, WIDTH, 16, 2)
    values = np.asarray(draws.candidates).reshape(-1, 2)
    assert (values >= 0).all()
    assert (values < 1).all()
    np.testing.assert_allclose(values.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(values.var(0), 1 / 12, atol=0.005)
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.05
    jax.tree.map(np.testing.assert_array_equal, draws, draws_for(2))


def test_impossible_settings_are_named():
    (layer,) = random_layers(1)
    common = {"num_classes": CLASSES, "max_targets": WIDTH}
    args = (layer, [], some_labels(), np.ones(FRAMES, bool))
    keys = jax.random.split(jax.random.key(0), FRAMES)
    with pytest.raises(UserError, match=r"oversample_ratio = 0\.5"):
        mask_losses.set_criterion(*args, keys=keys, oversample_ratio=0.5, **common)
    with pytest.raises(ValueError, match="exactly one of keys and draws"):
        mask_losses.set_criterion(*args, **common)


def test_eight_devices_give_the_loss_of_one():
    script = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from ssp_jax.losses import mask_losses

        key = jax.random.key(0)
        layer = {
            "mask_logits": jax.random.normal(key, (8, 6, 8, 8)),
            "class_logits": jax.random.normal(key, (8, 6, 6)),
        }
        labels = np.random.default_rng(0).choice([0, 2, 4], (8, 4, 4)).astype(np.uint8)
        annotated = np.arange(8) % 3 > 0

        def loss(layer, labels, annotated, keys):
            return mask_losses.set_criterion(
                layer, [], labels, annotated, num_classes=5, max_targets=3, keys=keys, num_points=32
            )[0]

        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        args = (layer, labels, annotated, jax.random.split(key, 8))
        results = [
            jax.jit(loss)(*jax.device_put(args, NamedSharding(mesh, spec)))
            for spec in (P(), P("data"))
        ]
        print("LOSSES", jax.device_count(), *map(float, results))
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    name, devices, one, eight = done.stdout.split()[-4:]
    assert (name, devices) == ("LOSSES", "8")
    assert float(one) > 1
    np.testing.assert_allclose(float(eight), float(one), rtol=1e-5)
