"""ClipVision and its input against transformers' classes, with random weights."""

import jax
import numpy as np
import pytest
from flax import nnx
from parity_cases import TOLERANCE, full
from PIL import Image
from random_weights import randomise

from ssp_jax.models.clip_vision import CLIP_STD, ClipVision, clip_input
from ssp_jax.weights import clip_vision as tables
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.shapes import abstract
from ssp_jax.weights.verify import relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "patch_size": 8,
        "image_size": 40,
    },
    "vit-b/16": {"patch_size": 16},
    "vit-l/14": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "patch_size": 14,
    },
}


FACTORS = {"position": 0.2}


def our_clip(folder):
    """images -> (tokens, pooled), from a weight folder."""
    arguments = load_facts(folder)["model"]
    made = abstract(lambda rngs: ClipVision(**arguments, rngs=rngs))
    graphdef, _ = nnx.split(made, nnx.Param)
    found = load_weights(folder).items()
    params = nested({name.removeprefix(tables.ROOT): value for name, value in found})

    @jax.jit
    def run(params, images):
        with jax.default_matmul_precision("highest"):
            return nnx.merge(graphdef, params)(images)

    return lambda images: run(params, images)


@pytest.mark.parametrize(
    "size",
    ["tiny", pytest.param("vit-b/16", marks=full), pytest.param("vit-l/14", marks=full)],
)
def test_transformers_clip(tmp_path, size):
    config = transformers.CLIPVisionConfig(**SIZES[size])
    model = randomise(transformers.CLIPVisionModel(config), FACTORS)
    model.save_pretrained(tmp_path / "hub")
    facts = import_weights("clip_vision", tmp_path / "hub", tmp_path / "w")
    assert facts["model"]["heads"] == config.num_attention_heads
    side = config.image_size
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    tokens, pooled = our_clip(tmp_path / "w")(images)
    errors = [
        relative_error(tokens, theirs.last_hidden_state.numpy()),
        relative_error(pooled, theirs.pooler_output.numpy()),
    ]
    print(f"{size}: {[f'{error:.1e}' for error in errors]}")
    assert max(errors) <= TOLERANCE


def test_whole_clip(tmp_path):
    """The text's half is left out."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    config = transformers.CLIPConfig(
        vision_config=SIZES["tiny"], text_config=text | {"intermediate_size": 16}
    )
    model = randomise(transformers.CLIPModel(config), FACTORS)
    model.save_pretrained(tmp_path / "hub")
    facts = import_weights("clip_vision", tmp_path / "hub", tmp_path / "w")
    assert {"text_model.*", "visual_projection.*", "logit_scale*"} <= facts["ignored"].keys()
    images = np.random.default_rng(0).normal(size=(1, 40, 40, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model.vision_model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    tokens, _ = our_clip(tmp_path / "w")(images)
    assert relative_error(tokens, theirs.last_hidden_state.numpy()) <= TOLERANCE


def test_input_of_the_image_processor():
    """A square frame as transformers prepares it: the mean, the deviation and their order."""
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    processor = transformers.CLIPImageProcessorPil()
    theirs = processor(images=Image.fromarray(frame), return_tensors="np")["pixel_values"]
    ours = np.moveaxis(np.asarray(clip_input(frame[None])), -1, 1)
    difference = np.abs(ours - theirs) * 255 * min(CLIP_STD)
    assert difference.max() <= 2.01  # of noise, a level more or less in both passes
    assert difference.mean() <= 0.01
