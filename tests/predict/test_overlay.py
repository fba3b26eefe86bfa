"""The overlay as a player finds it: pictures at their times, marked by the second, with sound."""

import av
import numpy as np
import pytest
from made_videos import beeps, grey, onsets, write_video

from ssp_jax.predict.orientation import upright
from ssp_jax.predict.overlay import colour, draw, overlay_size, write_overlay
from ssp_jax.predict.predictor import Sounding
from ssp_jax.predict.reading import VideoReader
from ssp_jax.predict.sound import samples


def bird(box, share=0.1):
    return Sounding(7, "bird", share, box, 0.9)


def mask(height, width, box, index=7):
    labels = np.zeros((height, width), np.uint8)
    left, top, right, bottom = box
    labels[top:bottom, left:right] = index
    return labels


def overlaid(path, box, seconds):
    """The overlay of a video in whose seconds (of those given) a box sounds."""
    video = VideoReader(path)
    list(video.clips())
    width, height = video.size
    sounding = [(bird(box),) if s in seconds else () for s in range(video.seconds)]
    nothing, marked = np.zeros((height, width), np.uint8), mask(height, width, box)
    out = path.with_name(f"{path.stem}_overlay.mp4")
    write_overlay(out, video, lambda s: marked if sounding[s] else nothing, sounding)
    return VideoReader(out)


def test_a_video_keeps_its_pictures_times_and_sound(tmp_path):
    path = write_video(
        tmp_path / "a.mkv",
        [grey(100, 480, 640)] * 65,
        fps=25,
        sound=beeps(0.5, 1.7, seconds=2.6),
    )
    video = overlaid(path, (200, 120, 400, 360), {1})
    shown = list(video.pictures())
    assert (len(shown), video.size) == (65, (640, 480))
    assert [timed.time for timed in shown] == pytest.approx([i / 25 for i in range(65)], abs=0.001)
    for timed in shown:
        frame = upright(timed.picture, av.video.reformatter.VideoReformatter()).astype(int)
        expected = 0.6 * 100 + 0.4 * np.array(colour(7)) if 1 <= timed.time < 2 else 100
        np.testing.assert_allclose(frame[200:300, 250:350].mean((0, 1)), expected, atol=6)
        np.testing.assert_allclose(frame[380:, 450:].mean((0, 1)), 100, atol=4)
    with av.open(str(video.path)) as file:
        assert [s.codec_context.name for s in file.streams] == ["h264", "aac"]
    sound = np.concatenate([piece for _, piece in samples(video.path, video.origin)], axis=1)
    assert onsets(sound[0], 48_000) == pytest.approx([0.5, 1.7], abs=0.03)
    assert np.abs(sound[1]).max() < 0.05  # the right channel stays as it was


def test_held_pictures_portraits_and_odd_sides(tmp_path):
    # A single picture is held for three seconds, in one of which something sounds.
    path = write_video(tmp_path / "held.mp4", [grey(90)] * 2, times=[0.0, 2.9], fps=10)
    shown = list(overlaid(path, (10, 10, 80, 50), {1}).pictures())
    times = [timed.time for timed in shown]
    assert times[:4] == pytest.approx([0.0, 1.0, 2.0, 2.9], abs=0.001)
    turned = write_video(tmp_path / "p.mp4", [grey(90, 480, 640)] * 10, rotation=-90)
    video = overlaid(turned, (100, 200, 300, 400), {0})
    assert video.size == (480, 640)
    assert next(video.pictures()).picture.rotation == 0  # the pixels themselves are upright
    odd = [grey(90, 479, 641)] * 5
    assert overlaid(
        write_video(tmp_path / "odd.avi", odd, codec="mjpeg", pix_fmt="yuvj444p"), (0, 0, 9, 9), {0}
    ).size == (640, 480)
    assert overlay_size(3840, 2160) == (1920, 1080)
    assert overlay_size(96, 96) == (480, 480)
    assert overlay_size(1, 3000) == (2, 1920)


def test_names_are_drawn_inside_and_apart():
    frame = np.full((360, 480, 3), 128, np.uint8)
    labels = mask(360, 480, (0, 0, 30, 30), 1) | mask(360, 480, (400, 0, 480, 360), 4)
    labels[0:30, 30:60] = 2
    names = {1: "accordion", 2: "emergency-car", 4: "vacuum-cleaner"}
    sounding = [Sounding(i, name, 0.1, (0, 0, 1, 1), 0.5) for i, name in names.items()]
    drawn = draw(frame, labels, sounding)
    assert drawn.shape == frame.shape
    assert (frame == 128).all()
    # Each name's box, of its colour, is there as a whole.
    sizes = [int((drawn == colour(index)).all(-1).sum()) for index in names]
    alone = []
    for one in sounding:
        single = draw(frame, np.where(labels == one.class_index, labels, 0), [one])
        alone.append(int((single == colour(one.class_index)).all(-1).sum()))
    assert np.array(sizes) == pytest.approx(np.array(alone), rel=0.1)
    np.testing.assert_array_equal(draw(frame, np.zeros_like(labels), []), frame)
