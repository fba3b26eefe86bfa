"""JAX's strict modes, all of them together: nothing promotes, transfers or compiles unsaid.

The guard of transfers sees those to a device; on a CPU reading from one is none.
"""

import logging
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssp_jax import stage_training
from ssp_jax.batch import fake_batch
from ssp_jax.evaluators.saved_masks import soft_masks
from ssp_jax.export import export_run
from ssp_jax.mask_prompts import Stage1Masks
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.predict.predictor import Predictor
from ssp_jax.run import open_stages, run
from ssp_jax.sharding import make_mesh
from ssp_jax.stage_training import trained_params
from ssp_jax.train_state import path_name, seed_key, split_model, state_maker
from ssp_jax.train_step import Loss, class_scores, make_train_step
from tests.tiny_run import TINY_MODEL, get_config

_MODES = {
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_transfer_guard": "disallow",
}


@pytest.fixture
def strict():
    """As JAX_NUMPY_RANK_PROMOTION=raise, ... set them, in all threads."""
    before = {name: getattr(jax.config, name) for name in _MODES}
    for name, mode in _MODES.items():
        jax.config.update(name, mode)
    yield
    for name, mode in before.items():
        jax.config.update(name, mode)


class Stopped(Exception):
    """As by a kill."""


@pytest.fixture
def compiled():
    """What compiles from now on: names of programs with the types of their inputs."""
    programs = []

    def keep(record):
        if record.getMessage().startswith("Compiling "):
            programs.append(record.getMessage().partition(". Argument mapping")[0])
        return False

    logger = logging.getLogger("jax._src.interpreters.pxla")
    level = logger.level
    logger.addFilter(keep)
    logger.setLevel(logging.DEBUG)
    yield programs
    logger.setLevel(level)
    logger.removeFilter(keep)


def test_a_run_compiles_once_and_transfers_nothing_unsaid(strict, compiled, tmp_path, monkeypatch):
    config = get_config(str(tmp_path / "prepared"))
    config.stages, config.negative_sounds, config.avs.eval_first = "avs", "silence", True
    before_steps, compile_once = [], stage_training.compile_once
    stopped = []

    def counting(step, name, speed):
        call = compile_once(step, name, speed)

        def counted(*inputs):
            if len(before_steps) == 3 and not stopped:
                stopped.append(name)
                raise Stopped
            before_steps.append(len(compiled))
            return call(*inputs)

        return counted

    monkeypatch.setattr(stage_training, "compile_once", counting)
    with pytest.raises(Stopped):
        run(config, tmp_path / "run")
    # Two evaluations, steps, lines of the log and a saving are over: a third step needs nothing.
    first, third = list(compiled), before_steps[2]
    assert first[third:] == []
    compiled.clear()
    before_steps.clear()
    results = run(config, tmp_path / "run")
    assert len(before_steps) == 2  # goes on from the step that was saved
    # Each start compiled the step, and nothing twice.
    for programs in (first, compiled):
        assert sum("train_step" in program for program in programs) == 1
        assert [program[:80] for program, n in Counter(programs).items() if n > 1] == []
    assert 0 <= results["s4"]["silence"]["miou"] <= 1
    # Among that were a second epoch and a batch that is not full.
    stage = open_stages(config, tmp_path / "run")["avs"]
    train, size = stage.data.source(stage.words["train"]["train"]), config.avs.batch_size
    assert len(train) < config.avs.steps * size
    counts = [stage.data.source(x).table.num_annotated.sum() for x in stage.words["val"].values()]
    assert any(count % size for count in counts)

    # What uses the trained network.
    predictor = Predictor.from_run(tmp_path / "run")
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    assert [second.labels.shape for second in predictor(frames)] == [(40, 50)] * 3
    export_run(tmp_path / "run", tmp_path / "served")
    size = stage.spec.label_size
    masks = Stage1Masks(stage, trained_params(stage), tmp_path / "masks", size)
    words = stage.words["val"]["s4"]
    assert masks.store(words, "own").next_clip() == len(stage.data.source(words))
    assert soft_masks(np.ones((2, 2, 4, 4), np.float32), "logit").shape == (2, 4, 4)


_BERT = {
    "bert_vocabulary": 30,
    "bert_length": 16,
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "bert_ffn": 16,
    "bert_adapters": True,
}
_OURS = {
    "mask_prompt": True,
    "own_reference": "heard",
    "audio_visual_map": True,
    "premask": True,
    "post_mask_head": True,
    "vta": "joint",
    "vta_queries": True,
    "text_visual_map": True,
    "text_classes": True,
}
_PAPER = {
    "adapters": True,
    "decoder_adapter": "replace",
    "gelu": "exact",
    "mask_prompt": True,
    "premask": True,
    "premask_form": "paper",
    "own_reference": "self",
    "vta": "joint",
    "vta_visual": "clip",
    "clip_width": 8,
    "vta_norm": "all",
    "audio_visual_map": False,
    "decoder_trains_features": True,
    "sampling": "map",
}
_AAVS = {
    "adapters": True,
    "decoder_adapter": "after",
    "gelu": "exact",
    "mask_prompt": True,
    "audio_visual_map": False,
    "decoder_trains_features": True,
    "remat": True,
    "depths": (1, 1, 2, 1),
    "sampling": "gather",
}
_LISTEN = {"sounds": 1.0, "map": 10.0, "contrast": 0.2}
_DEAF = dict.fromkeys(_LISTEN, 0.0)
_TEXTS = {"flow_mask": True, "text_length": 12}
_MAPS = tuple((16 >> level, 16 >> level, 16 << level) for level in range(4))


# Parts of the network, the post-mask loss, other losses, computed in, parts of a batch, inputs.
@pytest.mark.parametrize(
    ("overrides", "post_mask", "listen", "dtype", "accumulate", "inputs"),
    [
        (_OURS, "head", _LISTEN, "float32", 1, {"reference": True} | _TEXTS),
        (_OURS | {"gelu": "exact"}, "head", _LISTEN, "bfloat16", 1, {"reference": True} | _TEXTS),
        (_PAPER, "shared", _DEAF, "float32", 1, {"visual_tokens": (4, 4, 8)} | _TEXTS),
        (_AAVS, "none", _DEAF, "float32", 2, {"reference": True}),
        ({"vta": "qformer"}, "within_flow", _LISTEN, "float32", 1, _TEXTS),
        ({"vta": "cross_attention"}, "none", _LISTEN, "float32", 1, {"backbone": _MAPS} | _TEXTS),
    ],
    ids=["ours", "in bfloat16", "the paper's", "AAVS's", "Q-Former", "cross-attention"],
)
def test_every_form_of_the_network_trains_and_predicts(
    strict, overrides, post_mask, listen, dtype, accumulate, inputs
):
    graphdef, init = split_model(
        lambda rngs: TrainedNetwork(
            5,
            size="small",
            num_queries=6,
            num_sounds=3,
            listen=listen,
            overrides=TINY_MODEL | _BERT | overrides,
            rngs=rngs,
        )
    )
    loss = Loss(
        graphdef,
        num_classes=5,
        max_targets=3,
        listen=listen,
        dtype=dtype,
        criterion={"num_points": 64, "post_mask": post_mask},
    )
    prompted = {"reference": True} if overrides.get("mask_prompt") else {}
    batch = fake_batch(4, num_classes=5, **prompted | inputs)
    shapes = jax.eval_shape(init, seed_key(0))
    leaves = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    tx = optax.sgd(1.0)  # the run above has Muon and AdamW
    states = state_maker(init, tx, frozenset(leaves), make_mesh())
    step = make_train_step(
        *(loss, tx, make_mesh(), states.shardings, frozenset(leaves)), accumulate=accumulate
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    new, _ = jax.eval_shape(step, states.shapes, batch, seed_key(0), number)
    assert jax.tree.structure(new) == jax.tree.structure(states.shapes)
    scores = jax.eval_shape(
        lambda params, batch: class_scores(graphdef, params, batch, 56, dtype), shapes, batch
    )
    assert scores.shape == (4, 5, 56, 56)
