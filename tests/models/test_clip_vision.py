"""ClipVision's input against PIL's, recomputed layers and refusals; see also the parity test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from ssp_jax.models.clip_vision import CLIP_MEAN, CLIP_STD, ClipVision, clip_input

SIZES = {"width": 8, "layers": 1, "heads": 2, "ffn": 12, "patch": 4, "image_size": 12}
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)


@pytest.mark.parametrize("shape", [(96, 96), (384, 384), (250, 171)])
def test_input_is_that_of_clip(shape):
    """As PIL resizes, but for what it computes with whole numbers, and rows first if cheaper."""
    rough = np.random.default_rng(0).integers(0, 256, (2, 12, 9, 3), np.uint8)
    frames = np.stack(
        [np.asarray(Image.fromarray(f).resize(shape[::-1], Image.Resampling.BOX)) for f in rough]
    )
    ours = np.asarray(clip_input(frames)) * np.array(CLIP_STD) + np.array(CLIP_MEAN)
    assert ours.shape == (2, 224, 224, 3)
    bicubic = Image.Resampling.BICUBIC
    theirs = np.stack([Image.fromarray(frame).resize((224, 224), bicubic) for frame in frames])
    difference = np.abs(255 * ours - theirs)
    assert difference.mean() <= 0.01
    if shape[0] == shape[1]:
        assert difference.max() <= 1.01


def test_recomputing_changes_nothing():
    found = []
    for remat in (False, True):
        model = ClipVision(**SIZES, remat=remat, rngs=nnx.Rngs(0))
        graphdef, params = nnx.split(model, nnx.Param)

        def loss(params, graphdef=graphdef):
            tokens, pooled = nnx.merge(graphdef, params)(IMAGES)
            assert tokens.shape == (2, 10, 8)
            return jnp.sum(jnp.sin(tokens)) + jnp.sum(jnp.sin(pooled))

        found.append(jax.tree.leaves(jax.jit(jax.grad(loss))(params)))
    for stored, recomputed in zip(*found, strict=True):
        np.testing.assert_allclose(recomputed, stored, rtol=1e-4, atol=1e-5)


def test_each_patch_is_seen_at_its_place():
    """Before any layer mixes them: a changed pixel changes one token, counted row by row."""
    model = ClipVision(**SIZES | {"layers": 0}, rngs=nnx.Rngs(0))
    changed = IMAGES.copy()
    changed[:, 5, 11] += 1
    tokens, others = model(IMAGES)[0], model(changed)[0]
    assert np.unique(np.argwhere(np.abs(tokens - others) > 1e-6)[:, 1]).tolist() == [1 + 3 + 2]


def test_refusals():
    with pytest.raises(ValueError, match="12 pixels do not divide into patches of 5"):
        ClipVision(**SIZES | {"patch": 5}, rngs=nnx.Rngs(0))
    model = ClipVision(**SIZES, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="8 x 12 pixels, expected 12 x 12: see clip_input"):
        model(IMAGES[:, :8])
