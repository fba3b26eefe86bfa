"""The parts of the method by name in the programs, which are the same without the names."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest

from ssp_jax.batch import fake_batch
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.sharding import make_mesh
from ssp_jax.train_state import named_leaves, seed_key, split_model, state_maker
from ssp_jax.train_step import PARTS, Loss, make_train_step
from tests.tiny_run import TINY_MODEL

_LISTEN = {"sounds": 1.0, "map": 1.0, "contrast": 0.0}
# All parts of a step, VTA in its smallest form.
_PARTS = TINY_MODEL | {
    "mask_prompt": True,
    "premask": True,
    "premask_form": "paper",
    "own_reference": "heard",
    "audio_visual_map": True,
    "vta": "cross_attention",
    "bert_vocabulary": 30,
    "bert_length": 16,
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "bert_ffn": 16,
}


def _lowered():
    graphdef, init = split_model(
        lambda rngs: TrainedNetwork(
            3,
            size="small",
            num_queries=4,
            num_sounds=3,
            listen=_LISTEN,
            overrides=_PARTS,
            rngs=rngs,
        )
    )
    settings = {"num_points": 64, "post_mask": "within_flow"}
    loss = Loss(graphdef, num_classes=3, max_targets=2, listen=_LISTEN, criterion=settings)
    trained = frozenset(name for name, _ in named_leaves(jax.eval_shape(init, seed_key(0))))
    mesh, tx = make_mesh(), optax.adamw(1e-3)
    states = state_maker(init, tx, trained, mesh)
    step = make_train_step(loss, tx, mesh, states.shardings, trained)
    batch = fake_batch(2, num_classes=3, reference=True, flow_mask=True, text_length=12)
    return step.lower(states.shapes, batch, seed_key(0), jax.ShapeDtypeStruct((), jnp.int32))


@pytest.fixture(scope="module")
def lowered():
    """A training step, as it goes to the compiler."""
    return _lowered()


def test_operations_say_which_part_of_the_method_they_are(lowered):
    text = lowered.as_text("hlo", debug_info=True)
    names = re.findall(r'op_name="([^"]*)"', text)
    for part in PARTS:
        assert any(f"({part})" in name or f"/{part}/" in name for name in names), part
    # Forward, and backward by JAX's own rules and by ours (deformable sampling, convolutions).
    for part in ("encoder", "pixel_decoder", "vta", "mask_decoder"):
        assert any(f"transpose(jvp({part}))/" in name for name in names), part
    for part in ("matching", "points"):
        assert any("losses" in name and f"/{part}/" in name for name in names), part
    # What has no name is little: products of all parts have one.
    products = re.findall(r' dot\(.*op_name="([^"]*)"', text)
    unnamed = [name for name in products if not re.search("|".join(PARTS), name)]
    assert len(products) > 100
    assert unnamed == []


def test_names_change_nothing_in_the_program(lowered, monkeypatch):
    scope = type(jax.named_scope("any"))
    monkeypatch.setattr(scope, "__enter__", lambda self: None)
    monkeypatch.setattr(scope, "__exit__", lambda self, *error: None)
    jax.clear_caches()  # of what was traced with names
    without = _lowered()
    names = re.findall(r'op_name="([^"]*)"', without.as_text("hlo", debug_info=True))
    assert names
    assert not any("jvp(pixel_decoder)" in name for name in names)
    # Without places and names of its operations, of which the compilation cache's key is made.
    assert without.as_text() == lowered.as_text()
