import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssp_jax.config import stage
from ssp_jax.errors import UserError
from ssp_jax.optim import make_optimizer, make_schedule, trained_names
from ssp_jax.train_state import replace_leaves, split_trained

PARAMS = {
    "encoder": {"dense": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}},
    "audio": {"dense": {"kernel": jnp.ones((4, 6))}, "conv": {"kernel": jnp.ones((3, 3, 2, 2))}},
    "queries": jnp.ones((5, 4)),
}


def config_with(**changes):
    config = stage(val={}, test={}).optim
    config.update({"lr": 0.1, "schedule": "constant", "warmup_steps": 0} | changes)
    return config


def step(config, grads=None):
    """The parameters' change in one step under gradients of random numbers."""
    names = trained_names(config, jax.eval_shape(lambda: PARAMS))
    leaves, frozen = split_trained(PARAMS, names)
    optimizer = make_optimizer(config, jax.eval_shape(lambda: leaves), 10)
    tx, joined = optimizer.tx, optimizer.joined
    rng = np.random.default_rng(0)
    grads = grads or jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), PARAMS)
    grads, _ = split_trained(grads, names)

    @jax.jit
    def changes(grads):
        old = joined.join(leaves)
        return joined.split(tx.update(joined.join(grads), tx.init(old), old)[0])

    change = changes(grads)
    return replace_leaves(PARAMS, change | {name: 0 * leaf for name, leaf in frozen.items()})


def test_rates_scale_and_freeze():
    config = config_with(rates=(("encoder", 0.0), ("audio", 0.5)), weight_decay=0.0)
    change = step(config)
    assert not np.any(change["encoder"]["dense"]["kernel"])
    # Adam's first step is the rate times the gradient's sign.
    np.testing.assert_allclose(np.abs(change["audio"]["conv"]["kernel"]), 0.05, rtol=1e-4)
    np.testing.assert_allclose(np.abs(change["queries"]), 0.1, rtol=1e-4)
    names = {"audio/dense/kernel", "audio/conv/kernel", "queries"}
    assert trained_names(config, PARAMS) == names


def test_muon_trains_the_chosen_matrices_only():
    plain = step(config_with(weight_decay=0.0))
    muon = step(config_with(weight_decay=0.0, muon_lr=0.02, muon_on="encoder|conv|queries"))
    for path in (("encoder", "dense", "bias"), ("audio", "dense", "kernel"), ("queries",)):
        a, b = plain, muon
        for key in path:
            a, b = a[key], b[key]
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(muon["audio"]["conv"]["kernel"], plain["audio"]["conv"]["kernel"])
    # Orthogonalised: about equal singular values, whatever the gradient's were.
    values = np.linalg.svd(muon["encoder"]["dense"]["kernel"], compute_uv=False)
    assert values.min() / values.max() > 0.5
    assert values.max() == pytest.approx(0.02 * np.sqrt(6 / 4), rel=0.3)


def test_norms_and_biases_do_not_decay():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    change = step(config_with(weight_decay=0.1), zero)
    np.testing.assert_allclose(change["encoder"]["dense"]["kernel"], -0.01, rtol=1e-5)
    assert not np.any(change["encoder"]["dense"]["bias"])
    assert not np.any(change["queries"])


def test_schedule_warms_up_and_ends_low():
    config = config_with(schedule="cosine", warmup_steps=10, final_share=0.1)
    schedule = make_schedule(config, 100)
    assert schedule(0) == 0
    assert schedule(10) == pytest.approx(0.1)
    assert schedule(100) == pytest.approx(0.01)


def test_the_constant_schedule_starts_at_once_or_warms_up():
    schedule = make_schedule(config_with(), 100)
    assert schedule(0) == schedule(99) == pytest.approx(0.1)
    schedule = make_schedule(config_with(warmup_steps=10), 100)
    assert [float(schedule(step)) for step in (0, 5, 10, 50)] == pytest.approx([0, 0.05, 0.1, 0.1])


def test_mistakes_are_named():
    with pytest.raises(UserError, match="'sine'"):
        make_schedule(config_with(schedule="sine"), 10)
    with pytest.raises(UserError, match="no parameter matches 'encodr'"):
        step(config_with(rates=(("encodr", 0.0),)))
    with pytest.raises(UserError, match="freezes every parameter"):
        step(config_with(rates=((".", 0.0),)))


def test_clipping_bounds_the_whole_gradient():
    config = config_with(clip_norm=1.0, weight_decay=0.0)
    leaves, _ = split_trained(PARAMS, trained_names(config, PARAMS))
    optimizer = make_optimizer(config, leaves, 10)
    old = optimizer.joined.join(leaves)
    huge = jax.tree.map(lambda x: 1e6 * jnp.ones_like(x), old)
    _, state = optimizer.tx.update(huge, optimizer.tx.init(old), old)
    momenta = [x for x in jax.tree.leaves(state) if getattr(x, "ndim", 0)]
    assert optax.tree.norm(momenta) < 1.0
