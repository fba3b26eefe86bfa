import cv2
import numpy as np
import pytest
from moving_clips import PAN, STEP, moving_clip

from ssp_jax.errors import UserError
from ssp_jax.flow.estimators import DisFlow, make_estimator
from ssp_jax.flow.mask import flow_masks
from ssp_jax.json_files import write_sealed


@pytest.mark.parametrize("size", [(96, 96), (80, 120), (120, 80)])
def test_dis_tells_the_camera_from_what_moves(size):
    frames, maps = moving_clip(0, 2, *size)
    flow = DisFlow()(*frames)
    assert flow.dtype == np.float32
    assert np.isfinite(flow).all()
    flow = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(np.median(flow[maps[0]], axis=0), STEP, atol=0.5)
    np.testing.assert_allclose(np.median(flow[~maps[0]], axis=0), PAN, atol=0.3)
    # Away from where the square is and will be, and from where the scene leaves the picture.
    near = cv2.dilate((maps[0] | maps[1]).astype(np.uint8), np.ones((11, 11)))[8:-8, 8:-8]
    assert np.abs(flow - PAN)[8:-8, 8:-8][near == 0].max() < 1


def test_flow_is_in_pixels_of_the_frames_whatever_the_working_size():
    frames, maps = moving_clip(1, 2, 96, 96)
    large = [cv2.resize(frame, (288, 288), interpolation=cv2.INTER_CUBIC) for frame in frames]
    for given, factor in ((frames, 1), (large, 3)):
        for side in (64, 128):
            flow = cv2.resize(DisFlow(side=side)(*given), (96, 96))
            expected = factor * np.array(STEP)
            np.testing.assert_allclose(np.median(flow[maps[0]], axis=0), expected, atol=factor)


def test_the_mask_of_a_clip_finds_what_moves():
    frames, maps = moving_clip(2, 4, 96, 96)
    flows = np.stack([cv2.resize(DisFlow()(*frames[t : t + 2]), (96, 96)) for t in range(3)]) / 96
    masks, truth = flow_masks(flows) > 0, np.stack(maps)
    between = slice(1, 3)
    hits, union = (masks & truth)[between].sum(), (masks | truth)[between].sum()
    assert hits / union > 0.75
    still = flow_masks(np.stack([cv2.resize(DisFlow()(frames[0], frames[0]), (96, 96))]))
    assert not still.any()


def test_narrow_frames_do_not_stop_it():
    frames, _ = moving_clip(3, 2, 96, 96)
    assert np.isfinite(DisFlow()(*(np.ascontiguousarray(f[:, :4]) for f in frames))).all()


def test_unknown_estimators_and_misplaced_weights(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="dis or perceiver, got 'raft'"):
        make_estimator("raft")
    with pytest.raises(UserError, match="leave --weights out"):
        make_estimator("dis", tmp_path)
    with pytest.raises(UserError, match=r"--weights=DIR.*perceiver_flow"):
        make_estimator("perceiver")
    with pytest.raises(UserError, match="no weight folder"):
        make_estimator("perceiver", tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"one")
    write_sealed(tmp_path / "weights.json", {"source": "vggish"})
    with pytest.raises(UserError, match="weights imported as vggish, expected those of a flow"):
        make_estimator("perceiver", tmp_path)
    monkeypatch.setattr("ssp_jax.flow.perceiver.check_perceiver_weights", lambda _: None)
    settings = make_estimator("perceiver", tmp_path).settings
    (tmp_path / "weights.safetensors").write_bytes(b"two")
    assert make_estimator("perceiver", tmp_path).settings != settings
