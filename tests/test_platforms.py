"""Which formulas stand in the programs for a CPU, a GPU and a TPU, all lowered on a CPU."""

import os
import re

import jax
import pytest

from benchmarks.full_size import full_size_step
from ssp_jax.batch import fake_batch
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.train_state import split_model
from ssp_jax.train_step import class_scores

PLATFORMS = ("cpu", "cuda", "tpu")
# Names that operations of a program bear, of scopes and of functions; at 384 pixels, which has more
# tokens than `MAP_TOKENS`.
SAMPLING = {"cpu": "by_fused", "cuda": "by_gather", "tpu": "by_kernel"}
ATTENTION = {"cpu": "_divide_last", "cuda": "_shares_forward", "tpu": "_divide_last"}
_MOVED = "SwinBlock._attend_by_moves"
WINDOWS = {"cpu": _MOVED, "cuda": _MOVED, "tpu": "SwinBlock._attend_by_products"}
LOSSES = {"cpu": "_gather_masks", "cuda": "_gather_masks", "tpu": "point_products.py"}


def said_by(traced) -> dict[str, set[str]]:
    """{platform: scopes, functions and files that the operations of its program come from}."""
    lowered = (traced.lower(lowering_platforms=(platform,)) for platform in PLATFORMS)
    texts = (program.as_text(debug_info=True) for program in lowered)
    return {p: set(re.findall(r"[\w.]+", text)) for p, text in zip(PLATFORMS, texts, strict=True)}


def check(found: dict[str, set[str]], formulas: dict[str, str]) -> None:
    for platform, names in found.items():
        assert formulas[platform] in names, platform
        assert not (set(formulas.values()) - {formulas[platform]}) & names, platform


_SLOW = pytest.mark.skipif(
    os.environ.get("SSP_JAX_SLOW") != "1", reason="a minute on two cores: SSP_JAX_SLOW=1"
)


@pytest.mark.parametrize(
    ("stage", "trains"),
    [
        ("avs", "phase1"),
        ("avss", "phase2"),
        *(
            pytest.param(*case, marks=_SLOW)
            for case in (("avs", "phase2"), ("avs", "all"), ("avss", "phase1"), ("avss", "all"))
        ),
    ],
)
def test_a_step_has_each_platforms_formulas(stage, trains):
    full = full_size_step(
        stage, trains, size="small", frames=1, num_queries=10, overrides={"adapters": True}
    )
    found = said_by(full.step.trace(full.state, full.batch, full.key, 0))
    for formulas in (SAMPLING, ATTENTION, WINDOWS, LOSSES):
        check(found, formulas)


def test_a_prediction_has_each_platforms_formulas():
    graphdef, init = split_model(
        lambda rngs: TrainedNetwork(
            2,
            size="small",
            num_queries=10,
            num_sounds=0,
            listen=dict.fromkeys(("sounds", "map", "contrast"), 0.0),
            rngs=rngs,
        )
    )
    params = jax.eval_shape(init, jax.random.key(0))
    batch = fake_batch(1, frame_size=384)
    traced = jax.jit(lambda p, b: class_scores(graphdef, p, b, 96, "float32")).trace(params, batch)
    found = said_by(traced)
    check(found, SAMPLING)
    check(found, ATTENTION)
    check(found, WINDOWS)
