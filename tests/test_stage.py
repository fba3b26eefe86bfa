"""A stage that reads CLIP's tokens: batches, width, what it notes, and mistakes."""

import jax
import numpy as np
import pytest
from flax import nnx

from ssp_jax.data.datasets import open_datasets
from ssp_jax.data.transforms import decode_frame
from ssp_jax.errors import UserError
from ssp_jax.models.clip_vision import ClipVision, clip_input
from ssp_jax.stage import Stage
from ssp_jax.weights import clip_vision
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import save_weights
from tests.tiny_run import get_config

MODEL = {"width": 8, "layers": 1, "heads": 2, "ffn": 12, "patch": 8, "image_size": 32}
VAL = "builtin_tiny:val_v1s"


def params(seed):
    random = np.random.default_rng(seed)
    shapes = clip_vision.shapes(MODEL)
    return {path: random.normal(0, 0.3, s).astype(np.float32) for path, s in shapes.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The prepared data and two weight folders."""
    folder = tmp_path_factory.mktemp("clip")
    for seed in (0, 1):
        arrays = {clip_vision.ROOT + path: value for path, value in params(seed).items()}
        facts = {"source": "clip_vision", "model": MODEL}
        save_weights(folder / f"weights{seed}", arrays, facts)
    return folder


def clip_config(folders, seed=0):
    config = get_config(str(folders / "prepared"))
    config.model.vta, config.model.vta_visual = "joint", "clip"
    config.clip.weights = str(folders / f"weights{seed}")
    config.data.augment.flip, config.data.augment.scale = 0.0, (1.0, 1.0)
    return config


def make_stage(config):
    return Stage(config, "avs", open_datasets(config, [*config.avs.train, VAL]), None)


@jax.jit
def encoded(params, frames):
    graphdef = nnx.graphdef(ClipVision(**MODEL, rngs=nnx.Rngs(0)))
    return nnx.merge(graphdef, params)(clip_input(frames, MODEL["image_size"]))[0][:, 1:]


def test_batches_hold_the_tokens_of_their_frames(folders):
    stage = make_stage(clip_config(folders))
    source = stage.data.source(VAL)
    with stage.batches(VAL) as batches:
        batch = next(batches)
    assert batch.visual_tokens.shape == (8, 4, 4, 8)
    slots = [source[c].frames[s] for c, s in zip(batch.clip, batch.second, strict=True)]
    frames = np.stack([decode_frame(slot, 64, where="") for slot in slots])
    expected = np.asarray(encoded(nested(params(0)), frames)).reshape(8, 4, 4, 8)
    different = expected[:, None] - batch.visual_tokens[None].astype(np.float32)
    error = np.abs(different).mean((2, 3, 4))
    # But for a level of grey where Pillow rounds otherwise; other frames have other tokens.
    assert np.diag(error).max() < 0.001
    assert (error + np.eye(8)).min() > 0.005
    # The model takes them, and the width is that of the weights.
    shapes = stage.phases[0].states.shapes.params
    scores = jax.eval_shape(stage.predict, shapes, batch)
    assert scores.shape[:2] == (8, 2)
    assert shapes["network"]["vta"]["visual"]["kernel"].shape[0] == MODEL["width"]
    # Predictions depend on the weights of CLIP, so these are noted.
    other = make_stage(clip_config(folders, 1))
    assert stage.reads()["clip"]["weights"] != other.reads()["clip"]["weights"]
    assert stage.reads() == make_stage(clip_config(folders)).reads()


def test_they_are_read_for_texts_alone(folders):
    config = clip_config(folders)
    config.model.vta = "none"
    config.clip.weights = ""
    stage = make_stage(config)
    assert "clip" not in stage.reads()
    assert not stage.spec.visual_tokens


def test_mistakes_are_named(folders):
    config = clip_config(folders)
    config.clip.weights, config.data.augment.flip = "", 0.5
    with pytest.raises(
        UserError, match=r"config\.clip\.weights is empty.*--source=clip_vision"
    ) as e:
        make_stage(config)
    assert "config.data.augment.flip=0.5, scale=(1.0, 1.0)" in str(e.value)
    config = clip_config(folders)
    config.data.augment.scale = (0.8, 1.25)
    with pytest.raises(UserError, match=r"scale=\(0\.8, 1\.25\): CLIP's tokens are kept"):
        make_stage(config)
    config = clip_config(folders)
    config.model.clip_width = 768
    with pytest.raises(UserError, match=r"clip_width=768: .*weights0 have width 8"):
        make_stage(config)
    config = clip_config(folders)
    config.clip.weights += "x"
    with pytest.raises(UserError, match=r"weights0x.*Expected a weight folder"):
        make_stage(config)
