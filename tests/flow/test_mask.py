import cv2
import numpy as np
import pytest

from ssp_jax.errors import UserError
from ssp_jax.flow.mask import camera_motion, flow_masks

H, W = 60, 80
SQUARE = (slice(10, 30), slice(40, 65))


def still(count=4):
    return np.zeros((count, H, W, 2), np.float32)


def with_square(flows, vector=(0.08, -0.05)):
    flows = flows.copy()
    flows[:, *SQUARE] += np.float32(vector)
    return flows


def inside():
    square = np.zeros((H, W), bool)
    square[SQUARE] = True
    return square


def zoom_and_roll(count=4):
    """As of a camera that goes 5 % nearer and rolls by 2 degrees, about a place off the centre."""
    rows, columns = np.mgrid[:H, :W] / H
    x, y = columns - 0.5, rows - 0.4
    c, s = 1.05 * np.cos(np.deg2rad(2)), 1.05 * np.sin(np.deg2rad(2))
    field = np.stack([c * x - s * y - x, s * x + c * y - y], axis=-1)
    return np.repeat(field[None], count, axis=0).astype(np.float32)


def iou(masks, square):
    found = masks > 0
    return (found & square).sum() / (found | square).sum()


@pytest.mark.parametrize("camera", ["none", "median", "affine", "homography"])
@pytest.mark.parametrize("threshold", ["mad", "otsu"])
def test_what_moves_is_marked_in_every_frame(camera, threshold):
    masks = flow_masks(with_square(still()), camera=camera, threshold=threshold)
    assert masks.dtype == np.uint8
    assert masks.shape == (5, H, W)
    assert set(np.unique(masks)) == {0, 255}
    assert iou(masks, inside()) > 0.95


def test_a_pan_counts_only_where_the_camera_is_left_in():
    flows = with_square(still() + np.float32([0.05, 0.02]))
    for camera in ("median", "affine", "homography"):
        assert iou(flow_masks(flows, camera=camera), inside()) > 0.95
    assert (flow_masks(flows, camera="none", deviations=0, floor=0.01)[1] > 0).mean() < 0.2
    paper = flow_masks(flows, camera="none", threshold="nonzero", smoothing="mean", despeckle=1)
    assert (paper == 255).all()


def test_zoom_and_roll_need_a_fit():
    flows = with_square(zoom_and_roll())
    for camera in ("affine", "homography"):
        assert iou(flow_masks(flows, camera=camera), inside()) > 0.95
        motion = camera_motion(flows[0], camera)
        np.testing.assert_allclose(motion, zoom_and_roll(1)[0], atol=2e-3)
    assert iou(flow_masks(flows, camera="median", deviations=0), inside()) < 0.5


def test_the_fit_does_not_depend_on_opencvs_random_numbers():
    rng = np.random.default_rng(0)
    flows = with_square(zoom_and_roll(1)) + rng.normal(0, 0.004, (1, H, W, 2)).astype(np.float32)
    for camera in ("affine", "homography"):
        fits = []
        for seed in (1, 2, 3):
            cv2.setRNGSeed(seed)
            fits.append(camera_motion(flows[0], camera))
        np.testing.assert_array_equal(fits[0], fits[1])
        np.testing.assert_array_equal(fits[0], fits[2])


def test_a_flow_without_a_fit_gets_the_median():
    wild = np.random.default_rng(0).uniform(-1e6, 1e6, (H, W, 2)).astype(np.float32)
    for camera in ("affine", "homography"):
        assert np.isfinite(camera_motion(wild, camera)).all()
    nowhere = np.full((H, W, 2), np.float32(0.3)) - np.stack(
        np.mgrid[:H, :W][::-1] / np.float32(H), axis=-1
    )  # every pixel goes to the same place
    for camera in ("affine", "homography"):
        assert np.isfinite(camera_motion(nowhere, camera)).all()


def test_which_flows_a_frame_takes():
    flows = still(3)
    places = [(slice(0, 20), slice(0, 20)), (slice(0, 20), slice(40, 60)), (slice(40, 60),) * 2]
    for flow, place in zip(flows, places, strict=True):
        flow[place] = 0.1
    common = {"camera": "none", "despeckle": 1}
    mean = flow_masks(flows, smoothing="mean", **common) > 0
    expected = [(0,), (0, 1), (1, 2), (2,)]
    for mask, which in zip(mean, expected, strict=True):
        true = np.zeros((H, W), bool)
        for number in which:
            true[places[number]] = True
        np.testing.assert_array_equal(mask, true)
    smaller = flow_masks(flows, smoothing="min", **common) > 0
    np.testing.assert_array_equal(smaller[[0, 3]], mean[[0, 3]])
    assert not smaller[1:3].any()
    two_flows = still(2)
    two_flows[0][places[0]] = 0.1
    halved = flow_masks(two_flows, smoothing="mean", floor=0.1, **common)
    assert halved[0][places[0]].all()
    assert not halved[1:].any()


def test_still_clips_stay_empty():
    noise = np.random.default_rng(0).normal(0, 0.002, (4, H, W, 2)).astype(np.float32)
    for threshold in ("mad", "otsu"):
        assert not flow_masks(noise, threshold=threshold).any()
    assert not flow_masks(still(), threshold="nonzero").any()


def test_noise_raises_the_threshold_of_mad():
    noise = np.random.default_rng(0).normal(0, 0.02, (4, H, W, 2)).astype(np.float32)
    flows = with_square(noise, (0.3, 0.3))
    assert iou(flow_masks(flows, deviations=8), inside()) > 0.9
    assert iou(flow_masks(flows, deviations=0), inside()) < 0.3


def test_nonzero_is_the_eight_bit_grey_level():
    flows = still(1)
    flows[0, :, :, 0] = 1.0
    flows[0, :20, :, 0] = 0.5 / 255
    flows[0, 20:40, :, 0] = 1.5 / 255
    masks = flow_masks(flows, threshold="nonzero", camera="none", despeckle=1)
    assert masks.shape == (2, H, W)
    assert not masks[:, :20].any()
    assert masks[:, 20:].all()


@pytest.mark.parametrize("threshold", ["nonzero", "otsu", "mad"])
def test_a_clip_of_one_frame_has_an_empty_mask(threshold):
    masks = flow_masks(still(0), threshold=threshold)
    assert masks.shape == (1, H, W)
    assert masks.dtype == np.uint8
    assert not masks.any()


def test_unknown_choices_are_listed_together():
    with pytest.raises(UserError) as error:
        flow_masks(still(), threshold="huang", camera="static", smoothing="max")
    for part in ("nonzero, otsu, mad", "'huang'", "median, affine", "'static'", "mean, min"):
        assert part in str(error.value)
    with pytest.raises(UserError, match=r"despeckle.*4"):
        flow_masks(still(), despeckle=4)
