"""One step as a pure function: precision, what is frozen, memory of what it compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import avss
from ssp_jax.batch import fake_batch
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.phases import make_phases
from ssp_jax.sharding import make_mesh
from ssp_jax.summary import parameter_table
from ssp_jax.train_state import split_model
from ssp_jax.train_step import Loss, compile_once, make_predict, make_train_step

# `small` with the parts of AAVS's stage 2.
TINY = {
    "adapters": True,
    "decoder_adapter": "after",
    "mask_prompt": True,
    "audio_visual_map": False,
    "decoder_trains_features": True,
}


def split(overrides, size="small", classes=5, queries=6):
    listen = {"sounds": 0.0, "map": 0.0, "contrast": 0.0}
    return split_model(
        lambda rngs: TrainedNetwork(
            classes,
            size=size,
            num_queries=queries,
            num_sounds=0,
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
        listen={"sounds": 0.0, "map": 0.0, "contrast": 0.0},
        **settings,
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


def test_parts_of_a_batch_add_up_to_its_step():
    listen = {"sounds": 1.0, "map": 1.0, "contrast": 0.0}
    graphdef, init = split_model(
        lambda rngs: TrainedNetwork(
            5, size="small", num_queries=6, num_sounds=3, listen=listen, overrides={}, rngs=rngs
        )
    )
    config = avss.get_config("small")
    config.avss.steps, config.avss.optim.muon_lr, config.avss.optim.warmup_steps = 10, 0.0, 0
    mesh = make_mesh()
    (phase,) = make_phases(config, "avss", init, mesh)
    # Parts with one annotated frame and with two, with sounds that are known and that are not.
    annotated, known = np.array([1, 0, 1, 1], bool), np.array([1, 1, 0, 0], bool)
    batch = dataclasses.replace(
        fake_batch(4, num_classes=5), annotated=annotated, sounds_known=known
    )
    batch = dataclasses.replace(batch, labels=batch.labels * annotated[:, None, None])
    loss = Loss(
        graphdef, num_classes=5, max_targets=3, criterion={"num_points": 256}, listen=listen
    )
    results = []
    for accumulate in (1, 2):
        step = make_train_step(
            loss, phase.tx, mesh, phase.states.shardings, phase.trained, accumulate=accumulate
        )
        state = phase.states.new(jax.random.key(0))
        results.append(jax.device_get(step(state, batch, jax.random.key(1), 0)))
    (whole_state, whole), (parts_state, parts) = results
    assert whole["loss/targets"] == 6
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, err_msg=name)
    # Adam's moments: gradients and their squares. Those of keys' biases are nothing but rounding.
    moments = [jax.tree.leaves(state.opt_state) for state in (whole_state, parts_state)]
    for one, other in zip(*moments, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max() + 1e-9)


def test_a_compiled_step_refuses_other_shapes(caplog):
    config = avss.get_config("small")
    config.avss.steps = 10
    config.avss.optim.muon_lr = 0.0
    graphdef, init = split(TINY)
    mesh = make_mesh()
    (phase,) = make_phases(config, "avss", init, mesh)
    step = make_train_step(losses(graphdef), phase.tx, mesh, phase.states.shardings, phase.trained)
    step = compile_once(step, "avss")
    state = phase.states.new(jax.random.key(0))
    with caplog.at_level("INFO", logger="ssp_jax.train_step"):
        for number in range(2):
            state, scalars = step(state, example_batch(), jax.random.key(1), number)
    assert np.isfinite(scalars["loss"])
    assert int(state.step) == 2
    assert len(caplog.messages) == 1
    assert "GB a device" in caplog.messages[0]
    with pytest.raises(TypeError):
        step(
            state, fake_batch(8, num_classes=5, num_sounds=0, reference=True), jax.random.key(1), 2
        )


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
