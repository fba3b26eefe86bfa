import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax.losses import listening

LOG2 = np.log(2.0)
audio_visual_map = jax.jit(listening.audio_visual_map)
audio_visual_contrast = jax.jit(listening.audio_visual_contrast)
sound_classification = jax.jit(jax.value_and_grad(listening.sound_classification))
sounding_share = jax.jit(listening.sounding_share, static_argnums=1)


def test_sounds_are_learnt_where_known():
    sounds = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    known, valid = jnp.asarray([True, True, False, True]), jnp.asarray([True, True, True, False])
    logits = jnp.zeros((4, 2)).at[0].set(jnp.asarray([100.0, -100.0])).at[2].set(-1e4)
    value, grad = sound_classification(logits, sounds, known, valid)
    np.testing.assert_allclose(value, LOG2 / 2, rtol=1e-6)  # frame 0 is right, frame 1 undecided
    assert (grad[2:] == 0).all()
    np.testing.assert_allclose(grad[1], [0.125, -0.125], rtol=1e-6)


@pytest.mark.parametrize("known", [True, False])
def test_nothing_known_costs_nothing(known):
    sounds = jnp.zeros((3, 0)) if known else jnp.ones((3, 2))
    args = (sounds, jnp.full(3, known), jnp.ones(3, bool))
    logits = jnp.ones((3, max(sounds.shape[1], 1)))
    value, grad = sound_classification(logits, *args)
    assert value == 0
    assert (grad == 0).all()


def test_sounding_share_is_the_area():
    labels = jnp.zeros((1, 4, 6), jnp.uint8).at[0, :2, :3].set(7).at[0, 3, 5].set(1)
    exact = sounding_share(labels, (2, 2))
    np.testing.assert_allclose(exact, [[[1, 0], [0, 1 / 6]]], atol=1e-6)
    uneven = sounding_share(labels, (2, 4))  # cells 1.5 pixels wide
    np.testing.assert_allclose(uneven, [[[1, 1, 0, 0], [0, 0, 0, 1 / 3]]], atol=1e-6)
    finer = sounding_share(labels, (8, 12))
    np.testing.assert_array_equal(finer, (labels > 0).repeat(2, 1).repeat(2, 2))


def scene():
    """Two frames, left half sounding in the first, nothing in the second; features tell where."""
    labels = jnp.zeros((2, 8, 8), jnp.uint8).at[0, :, :4].set(3)
    pixels = jnp.zeros((2, 4, 4, 2)).at[..., 1].set(1.0)
    pixels = pixels.at[0, :, :2].set(jnp.asarray([1.0, 0.0]))
    return pixels, jnp.asarray([[1.0, -1.0], [1.0, -1.0]]), labels


def test_the_map_is_right_wrong_or_undecided():
    pixels, sound, labels = scene()
    annotated = jnp.ones(2, bool)
    right = audio_visual_map(pixels, sound, labels, annotated, scale=30.0)
    assert right < 1e-3
    wrong = audio_visual_map(pixels, -sound, labels, annotated, scale=30.0)
    assert wrong > 30
    undecided = audio_visual_map(pixels, sound, labels, annotated, scale=0.0)
    dice = (1 - (2 * 4 + 1) / (8 + 8 + 1)) + (1 - 1 / (8 + 1))
    np.testing.assert_allclose(undecided, LOG2 + dice / 2, rtol=1e-6)
    only_first = audio_visual_map(pixels, sound, labels, jnp.asarray([True, False]), scale=0.0)
    np.testing.assert_allclose(only_first, LOG2 + 1 - 9 / 17, rtol=1e-6)
    shifted = audio_visual_map(
        pixels, sound, labels, jnp.asarray([False, True]), scale=0.0, bias=-30.0
    )
    assert shifted < 1e-3


def frames(vectors, masks=None):
    """One frame per vector: the sounding half looks like `vectors`, the other half like noise."""
    vectors = jnp.asarray(vectors, jnp.float32)
    count = len(vectors)
    labels = jnp.zeros((count, 4, 4), jnp.uint8).at[:, :, :2].set(1)
    if masks is not None:
        labels *= jnp.asarray(masks, jnp.uint8)[:, None, None]
    pixels = jnp.full((count, 2, 2, vectors.shape[1]), 9.0).at[:, :, 0].set(vectors[:, None])
    return pixels, labels


def contrast(pixels, sound, labels, sounds, *, annotated=None, known=None, clip=None, scale=10.0):
    everywhere = jnp.ones(len(pixels), bool)
    return audio_visual_contrast(
        pixels,
        jnp.asarray(sound, jnp.float32),
        labels,
        everywhere if annotated is None else annotated,
        jnp.asarray(sounds, jnp.float32),
        everywhere if known is None else known,
        scale,
        clip=clip,
    )


def test_contrast_of_matching_and_of_swapped_pairs():
    pixels, labels = frames(np.eye(2))
    matching = contrast(pixels, 5 * np.eye(2), labels, np.eye(2))
    np.testing.assert_allclose(matching, np.log1p(np.exp(-10.0)), atol=2e-6)
    swapped = contrast(pixels, np.eye(2)[::-1], labels, np.eye(2))
    np.testing.assert_allclose(swapped, np.log1p(np.exp(10.0)), rtol=1e-5)
    alike = contrast(pixels, np.ones((2, 2)), labels, np.eye(2))
    np.testing.assert_allclose(alike, (LOG2 + np.log1p(np.exp(0.0))) / 2, rtol=1e-5)


def test_frames_that_share_a_sound_are_no_negatives():
    pixels, labels = frames(np.ones((3, 2)))
    sounds = np.array([[1, 0, 1], [0, 1, 1], [0, 1, 0]])
    # Frames 0 and 2 alone differ, and look and sound the same: log 2 each; frame 1 has no negative.
    np.testing.assert_allclose(contrast(pixels, np.ones((3, 2)), labels, sounds), LOG2, rtol=1e-5)
    assert contrast(pixels, np.eye(3)[:, :2], labels, np.ones((3, 1))) == 0


def test_empty_and_unannotated_frames_take_no_part():
    pixels, labels = frames(np.ones((4, 2)), masks=[1, 1, 0, 1])
    annotated = jnp.asarray([True, True, True, False])
    value = contrast(pixels, np.ones((4, 2)), labels, np.eye(4), annotated=annotated)
    np.testing.assert_allclose(value, LOG2, rtol=1e-5)


def test_unknown_sounds_are_negatives_outside_their_clip():
    pixels, labels = frames(np.ones((3, 2)))
    unknown, clip = jnp.zeros(3, bool), jnp.asarray([0, 0, 1])
    args = (pixels, np.ones((3, 2)), labels, np.zeros((3, 0)))
    np.testing.assert_allclose(contrast(*args, known=unknown), np.log(3.0), rtol=1e-5)
    # The first two have one negative, the third has two.
    expected = (2 * LOG2 + np.log(3.0)) / 3
    np.testing.assert_allclose(contrast(*args, known=unknown, clip=clip), expected, rtol=1e-5)


def test_gradients_are_finite_where_everything_is_empty():
    pixels, sound = jnp.zeros((3, 4, 4, 2)), jnp.zeros((3, 2))
    labels = jnp.zeros((3, 8, 8), jnp.uint8).at[0].set(1)

    def loss(pixels, sound):
        everywhere = jnp.ones(3, bool)
        sounds = jnp.eye(3)
        return audio_visual_contrast(
            pixels, sound, labels, everywhere, sounds, everywhere
        ) + audio_visual_map(pixels, sound, labels, everywhere)

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(pixels, sound)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(grad).all() for grad in grads)
