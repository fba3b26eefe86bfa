"""Small weight files of every kind, made without PyTorch from the golden values."""

import functools
import json
import pathlib

import numpy as np
from safetensors.numpy import load_file, save_file

from ssp_jax.weights import aavs, swin, vggish
from ssp_jax.weights.reference import Reference
from ssp_jax.weights.rules import to_source

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"


@functools.cache
def reference(stage):
    return Reference(GOLDEN / f"aavs_stage{stage}_tiny.npz")


def released(stage):
    """The golden weights under the names of AAVS's released checkpoints."""
    return {aavs.released_name(name): value for name, value in reference(stage).state.items()}


def mask2former_state():
    """The golden stage 1 as a Mask2Former: without adapters and audio."""
    foreign = ("swin_adapt", "avs_adapt", "audio_proj")
    return {k: v for k, v in reference(1).state.items() if not any(f in k for f in foreign)}


def encoder_params():
    params = reference(1).params()
    return {
        name: value
        for name, value in params.items()
        if name.startswith("encoder/") and "_adapter/" not in name
    }


def swin_state(prefix="swin."):
    """A classifier's file: no norms but the last stage's, and a head."""
    norms = tuple(f"encoder/output_norms/{i}/" for i in range(3))
    params = {k: v for k, v in encoder_params().items() if not k.startswith(norms)}
    state = to_source(params, swin.CLASSIFIER_RULES, what="Swin")
    state = {prefix + name: value for name, value in state.items()}
    return state | {"classifier.weight": np.zeros((5, 64)), "classifier.bias": np.zeros(5)}


def original_swin_state():
    norms = tuple(f"encoder/output_norms/{i}/" for i in range(3))
    params = {k: v for k, v in encoder_params().items() if not k.startswith(norms)}
    state = to_source(params, swin.ORIGINAL_RULES, what="Swin")
    return state | {
        "layers.0.blocks.0.attn.relative_position_index": aavs.position_index(4),
        "layers.0.blocks.1.attn_mask": np.zeros((49, 16, 16), np.float32),
        "head.weight": np.zeros((5, 64), np.float32),
        "head.bias": np.zeros(5, np.float32),
    }


def vggish_state(width=1 / 32):
    random = np.random.default_rng(0)
    params = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in vggish.shapes(width).items()
    }
    return to_source(params, vggish.RULES, what="VGGish")


STATES = {
    "aavs": lambda: released(1),
    "mask2former": mask2former_state,
    "swin": swin_state,
    "swin-original": original_swin_state,
    "vggish": vggish_state,
}


def write(state, path):
    """A safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.array(value, order="C") for name, value in state.items()}, path)
    return path


def config():
    """config.json of the golden model, as in a folder of the hub."""
    return reference(1).config


def assert_same_arrays(ours, theirs):
    """Names, shapes, types and every bit."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        assert ours[name].shape == value.shape, name
        assert ours[name].tobytes() == value.tobytes(), name


def read(path):
    return load_file(path)


def write_hub_folder(folder, state, hub_config):
    """A folder as the hub has it."""
    write(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hub_config))
    return folder
