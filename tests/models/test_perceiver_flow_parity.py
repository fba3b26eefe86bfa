"""Perceiver's optical flow against transformers' class with random weights, layer by layer."""

import os

import jax
import numpy as np
import pytest
from flax import nnx
from parity_cases import TOLERANCE
from random_weights import randomise

from ssp_jax.models import perceiver_flow
from ssp_jax.models.perceiver_flow import PerceiverFlow
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.perceiver_flow import ROOT
from ssp_jax.weights.shapes import abstract
from ssp_jax.weights.verify import relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "tiny": {
        "num_latents": 24,
        "d_latents": 32,
        "num_self_attends_per_block": 3,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 2,
        "train_size": [12, 20],
    },
    # Of deepmind/optical-flow-perceiver.
    "published": {
        "num_latents": 2048,
        "d_latents": 512,
        "num_self_attends_per_block": 24,
        "num_self_attention_heads": 16,
        "num_cross_attention_heads": 1,
        "train_size": [368, 496],
    },
}
full = pytest.mark.skipif(
    os.environ.get("SSP_JAX_FULL_PARITY") != "1", reason="real size: SSP_JAX_FULL_PARITY=1"
)


# Queries and keys that attend to some more than others.
FACTORS = {"latents": 1.0}


def patches(pairs):
    """What transformers' class takes: 3 x 3 neighbourhoods, (row, column, colour) as channels."""
    batch, frames, height, width, colours = pairs.shape
    images = torch.from_numpy(pairs).permute(0, 1, 4, 2, 3).reshape(-1, colours, height, width)
    unfolded = torch.nn.functional.unfold(images, 3, padding=1).reshape(
        -1, colours, 9, height * width
    )
    return unfolded.transpose(1, 2).reshape(batch, frames, 9 * colours, height, width)


@pytest.mark.parametrize(
    ("size", "batch", "logits"),
    [
        ("tiny", 2, perceiver_flow._LOGITS),
        ("tiny", 2, 700),  # a few queries at a time, down to one, and some left over
        pytest.param("published", 1, perceiver_flow._LOGITS, marks=full),
    ],
)
def test_transformers_perceiver(tmp_path, monkeypatch, size, batch, logits):
    monkeypatch.setattr(perceiver_flow, "_LOGITS", logits)
    config = transformers.PerceiverConfig(**SIZES[size], d_model=322)
    model = randomise(transformers.PerceiverForOpticalFlow(config), FACTORS)
    model.save_pretrained(tmp_path / "hub")
    import_weights("perceiver_flow", tmp_path / "hub", tmp_path / "w")
    pairs = np.random.default_rng(0).uniform(-1, 1, (batch, 2, *config.train_size, 3))
    pairs = pairs.astype(np.float32)
    with torch.no_grad():
        theirs = model.perceiver(patches(pairs), output_hidden_states=True)

    arguments = load_facts(tmp_path / "w")["model"]
    ours = abstract(lambda rngs: PerceiverFlow(**arguments, rngs=rngs))
    graphdef, _ = nnx.split(ours, nnx.Param)
    weights = {k.removeprefix(ROOT): v for k, v in load_weights(tmp_path / "w").items()}

    @jax.jit
    def apply(params, pairs):
        with jax.default_matmul_precision("highest"):
            perceiver = nnx.merge(graphdef, params)
            return perceiver(pairs), perceiver.encode(perceiver.pixels(pairs))

    flow, states = apply(nested(weights), pairs)
    errors = {
        f"layer {i}": relative_error(state, reference.numpy())
        for i, (state, reference) in enumerate(zip(states, theirs.hidden_states, strict=True))
    }
    # transformers leaves out the factor to pixels of DeepMind's demo, FLOW_SCALE_FACTOR.
    errors["flow"] = relative_error(flow, theirs.logits.numpy() * 20)
    print(f"{size}:", {name: f"{error:.1e}" for name, error in errors.items()})
    assert flow.shape == (batch, *config.train_size, 2)
    assert np.asarray(flow).std() > 0.01
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
