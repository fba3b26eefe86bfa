import io

import numpy as np
import pytest
from PIL import Image
from tiny_clips import encode

from ssp_jax.data.transforms import (
    Augment,
    Colour,
    Geometry,
    decode_frame,
    decode_labels,
    resize_labels,
)
from ssp_jax.errors import UserError


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_frames_are_resized_as_by_pillow(picture):
    frame = decode_frame(encode(picture).getvalue(), 24, where="here")
    expected = Image.fromarray(picture).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(frame, np.asarray(expected))
    same = decode_frame(encode(picture[:, :48]).getvalue(), 48, where="here")
    np.testing.assert_array_equal(same, picture[:, :48])


def test_grey_and_palette_frames_become_rgb(picture):
    grey = decode_frame(encode(picture[:, :48, 0]).getvalue(), 48, where="here")
    np.testing.assert_array_equal(grey, np.repeat(picture[:, :48, :1], 3, axis=2))


@pytest.mark.parametrize("damage", [lambda b: b[:200], lambda b: b"", lambda b: b"not an image"])
def test_bad_bytes_are_named(picture, damage):
    encoded = damage(encode(picture).getvalue())
    with pytest.raises(UserError, match="DATA: clip c, frame 3"):
        decode_frame(encoded, 24, where="DATA: clip c, frame 3")
    with pytest.raises(UserError, match="DATA: clip c, label map 3"):
        decode_labels(encoded, where="DATA: clip c, label map 3")


def test_colour_label_maps_are_refused(picture):
    with pytest.raises(UserError, match="mode RGB"):
        decode_labels(encode(picture).getvalue(), where="here")


def test_palette_label_maps_give_indices():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(labels)
    image.putpalette(list(range(255, -1, -1)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    np.testing.assert_array_equal(decode_labels(buffer.getvalue(), where="here"), labels)


def test_nearest_keeps_classes_and_bilinear_dilates():
    rows, columns = np.mgrid[:120, :200]
    ellipse = ((rows - 60) / 25) ** 2 + ((columns - 90) / 40) ** 2 < 1
    labels = (7 * ellipse).astype(np.uint8)
    nearest = resize_labels(labels, 96)
    assert set(np.unique(nearest)) == {0, 7}
    dilated = resize_labels(labels, 96, "bilinear_above_zero")
    assert set(np.unique(dilated)) == {0, 1}
    assert (dilated >= (nearest > 0)).all()
    overlap = (nearest > 0).sum() / dilated.sum()
    assert 0.9 < overlap < 1.0
    with pytest.raises(UserError, match="cubic"):
        resize_labels(labels, 96, "cubic")


def test_everything_off_changes_nothing(picture):
    rng = np.random.default_rng(0)
    square, labels = picture[:, :48], picture[:, :48, 0]
    augment = Augment()
    geometry, colour = augment.geometry(rng), augment.colour(rng)
    np.testing.assert_array_equal(colour.frame(geometry.frame(square)), square)
    np.testing.assert_array_equal(geometry.labels(labels), labels)


def test_flip():
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(Geometry(flip=True).labels(labels), labels[:, ::-1])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_frame_and_labels_stay_aligned_at_different_sizes(flip, scale):
    def disc(size):
        y, x = (np.mgrid[:size, :size] + 0.5) / size
        return ((x - 0.4) ** 2 + (y - 0.55) ** 2 < 0.15**2).astype(np.uint8)

    geometry = Geometry(flip, scale, 0.2, 0.9)
    frame = geometry.frame(np.repeat(255 * disc(96)[:, :, None], 3, axis=2))
    labels = geometry.labels(disc(64))
    # The border colour counts as neither: the disc is white, all else at most 124.
    assert labels.sum() > 50
    y, x = (np.argwhere(frame[:, :, 0] > 200).mean(axis=0) + 0.5) / 96
    assert (y, x) == pytest.approx((np.argwhere(labels).mean(axis=0) + 0.5) / 64, abs=0.006)
    room = 1 - 1 / scale
    expected = (0.4 - 0.2 * room) * scale
    assert x == pytest.approx(1 - expected if flip else expected, abs=0.006)
    assert y == pytest.approx((0.55 - 0.9 * room) * scale, abs=0.006)


def test_colour_factors(picture):
    flat = np.full((4, 4, 3), (100, 60, 20), np.uint8)
    assert Colour(brightness=1.5).frame(flat)[0, 0].tolist() == [150, 90, 30]
    grey = Colour(saturation=0.0).frame(flat)[0, 0].astype(int)
    assert np.ptp(grey) <= 1
    assert grey[0] == pytest.approx(0.299 * 100 + 0.587 * 60 + 0.114 * 20, abs=1)
    assert Colour(contrast=0.0).frame(picture).std() < 1
    turned = Colour(hue=0.5).frame(flat)[0, 0].astype(int)
    assert turned[2] > turned[1] > turned[0]
    assert np.dot(turned, [0.299, 0.587, 0.114]) == pytest.approx(67.4, abs=1)


def test_draws_stay_in_range():
    augment = Augment(flip=0.5, scale=(0.5, 2.0), brightness=0.3, hue=0.1)
    rng = np.random.default_rng(0)
    geometries = [augment.geometry(rng) for _ in range(200)]
    assert 60 < sum(g.flip for g in geometries) < 140
    scales = np.array([g.scale for g in geometries])
    assert 0.5 <= scales.min() < 0.6
    assert 1.8 < scales.max() <= 2.0
    colours = [augment.colour(rng) for _ in range(200)]
    assert all(0.7 <= c.brightness <= 1.3 and abs(c.hue) <= 0.1 for c in colours)
    assert all(c.contrast == 1.0 and c.saturation == 1.0 for c in colours)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"scale": (2.0, 1.0)},
        {"scale": (0.0, 1.0)},
        {"hue": -0.1},
        {"noise": -0.1},
        {"foreign_sound": 0.6, "silence": 0.5},
    ],
)
def test_impossible_settings_are_named(wrong):
    with pytest.raises(UserError, match=f"augment.{next(iter(wrong))}"):
        Augment(**wrong)
