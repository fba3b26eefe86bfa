"""One step as a pure function: precision, what is frozen, memory of what it compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ssp_jax.batch import fake_batch
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.sharding import make_mesh
from ssp_jax.summary import parameter_table
from ssp_jax.train_state import path_name, split_model, state_maker
from ssp_jax.train_step import Loss, compile_once, make_predict, make_train_step
from tests.tiny_run import TINY_MODEL

# With the parts of AAVS's stage 2.
TINY = TINY_MODEL | {
    "adapters": True,
    "decoder_adapter": "after",
    "mask_prompt": True,
    "audio_visual_map": False,
    "decoder_trains_features": True,
}


KEY = jax.random.key(0)
DEAF = {"sounds": 0.0, "map": 0.0, "contrast": 0.0}


def split(overrides, size="small", classes=5, queries=6, listen=DEAF):
    return split_model(
        lambda rngs: TrainedNetwork(
            classes,
            size=size,
            num_queries=queries,
            num_sounds=3,
            listen=listen,
            overrides=overrides,
            rngs=rngs,
        )
    )


def losses(graphdef, **settings):
    return Loss(
        graphdef,
        num_classes=5,
        max_targets=3,
        criterion={"num_points": 256},
        **{"listen": DEAF} | settings,
    )


def example_batch():
    return fake_batch(4, num_classes=5, num_sounds=0, reference=True)


def test_bfloat16_computes_the_same_with_float32_parameters():
    graphdef, init = split(TINY)
    params, batch, key = init(jax.random.key(0)), example_batch(), jax.random.key(1)
    results = {}
    for dtype in ("float32", "bfloat16"):
        loss = jax.jit(jax.value_and_grad(losses(graphdef, dtype=dtype), has_aux=True))
        results[dtype] = loss(params, batch, key)
    (exact, _), exact_grads = results["float32"]
    (rounded, _), grads = results["bfloat16"]
    assert rounded.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, rtol=0.02)
    flat = [jnp.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in (grads, exact_grads)]
    cosine = flat[0] @ flat[1] / jnp.linalg.norm(flat[0]) / jnp.linalg.norm(flat[1])
    assert cosine > 0.95  # masks of attention flip where logits are nearly 0


def test_bfloat16_reaches_every_matrix_product():
    # One float32 constant would quietly turn all that follows it to float32.
    graphdef, init = split(TINY)
    shapes = jax.eval_shape(init, jax.random.key(0))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes)
    frames = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.bfloat16)
    sounds = jax.ShapeDtypeStruct((2, 96, 64), jnp.bfloat16)
    prompt = jax.ShapeDtypeStruct((2, 56, 56), jnp.bfloat16)

    def run(params, frames, sounds, prompt):
        return nnx.merge(graphdef, params).network(frames, sounds, reference=prompt)

    predictions, aux = jax.eval_shape(run, params, frames, sounds, prompt)
    results = jax.tree.leaves((predictions, aux["layers"], aux["backbone"], aux["mask_features"]))
    assert {leaf.dtype for leaf in results} == {jnp.dtype(jnp.bfloat16)}


def sgd_step(overrides, listen, accumulate):
    """(a step that subtracts the gradients, its first state)."""
    graphdef, init = split(overrides, listen=listen)
    mesh, tx = make_mesh(), optax.sgd(1.0)
    shapes = jax.tree_util.tree_leaves_with_path(jax.eval_shape(init, KEY))
    trained = frozenset(path_name(path) for path, _ in shapes)
    states = state_maker(init, tx, trained, mesh)
    loss = losses(graphdef, listen=listen)
    step = make_train_step(loss, tx, mesh, states.shardings, trained, accumulate=accumulate)
    return step, states.new(KEY)


def test_parts_of_a_batch_add_up_to_its_step(caplog):
    listen = {"sounds": 1.0, "map": 1.0, "contrast": 0.0}
    # Parts with one annotated frame and with two, with sounds that are known and that are not.
    annotated, known = np.array([1, 0, 1, 1], bool), np.array([1, 1, 0, 0], bool)
    batch = fake_batch(4, num_classes=5)
    labels = batch.labels * annotated[:, None, None]
    batch = dataclasses.replace(batch, labels=labels, annotated=annotated, sounds_known=known)
    results = []
    with caplog.at_level("INFO", logger="ssp_jax.train_step"):
        for accumulate in (1, 2):
            step, state = sgd_step(TINY_MODEL, listen, accumulate)
            step = compile_once(step, f"in {accumulate}")
            start = jax.device_get(state.params)
            state, scalars = step(state, batch, KEY, 0)
            gradients = jax.tree.map(lambda x, y: x - y, start, jax.device_get(state.params))
            results.append((scalars, gradients))
    (whole, gradients), (parts, added_up) = results
    assert whole["loss/targets"] == 6
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, err_msg=name)
    for one, other in zip(*map(jax.tree.leaves, (gradients, added_up)), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max() + 1e-6)
    # A step says what it costs when it compiles, and takes no other shapes.
    assert ["in 1: step compiled" in caplog.messages[0], len(caplog.messages)] == [True, 2]
    assert "GB a device" in caplog.messages[0]
    state, _ = step(state, batch, KEY, 1)
    assert int(state.step) == 2
    with pytest.raises(TypeError):
        step(state, fake_batch(8, num_classes=5), KEY, 2)


def test_parts_of_a_batch_whose_sounds_have_no_columns():
    # That of a stage which does not learn sounds.
    step, state = sgd_step(TINY, DEAF, 2)
    batch = example_batch()
    assert batch.sounds.shape == (4, 0)
    new, _ = jax.eval_shape(step, state, batch, KEY, 0)
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_prediction_reads_the_prompt():
    graphdef, init = split(TINY)
    params, batch = init(jax.random.key(0)), example_batch()
    mesh = make_mesh()
    shardings = jax.tree.map(lambda _: jax.sharding.NamedSharding(mesh, jax.P()), params)
    predict = make_predict(graphdef, mesh, shardings, 32)
    prompted = predict(params, batch)
    # Not in place: the first prediction may still be reading the array.
    empty = dataclasses.replace(batch, reference=np.zeros_like(batch.reference))
    assert prompted.shape == (4, 5, 32, 32)
    assert np.any(np.asarray(prompted) != np.asarray(predict(params, empty)))


def test_the_real_size_has_aavs_numbers_of_parameters():
    # AAVS: 114.4 M without what hears, 93.9 M of them Swin with its adapters. It keeps the fifteen
    # projections of 256 x 256 that its stage 1 replaces by adapters.
    _, init = split({}, size="base", classes=2, queries=30)
    shapes = jax.eval_shape(init, jax.random.key(0))
    network = shapes["network"]
    count = {part: sum(x.size for x in jax.tree.leaves(network[part])) for part in network}
    assert round(count["encoder"] / 1e6, 1) == 93.9
    kept = sum(count[part] for part in ("encoder", "pixel_decoder", "mask_decoder"))
    assert round((kept + 15 * (256 * 256 + 256)) / 1e6, 1) == 114.4
    table = parameter_table(shapes, {"trained": frozenset()})
    assert any("encoder" in line and " 93.89" in line for line in table.splitlines())
    for size in ("swin-tiny", "swin-small", "swin-large"):
        assert jax.eval_shape(split({}, size=size)[1], jax.random.key(0))
