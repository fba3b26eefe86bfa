"""Videos of all kinds as clips: which pictures, which sound, and what is refused."""

import itertools

import av
import numpy as np
import pytest
from made_videos import beeps, grey, level_of, onsets, write_video
from PIL import Image

from ssp_jax.errors import UserError
from ssp_jax.predict import reading
from ssp_jax.predict.clips import as_waveform, cut
from ssp_jax.predict.reading import VideoReader


def clips_of(path):
    return list(VideoReader(path).clips())


def test_pictures_are_those_of_avsbench_and_sound_is_in_time(tmp_path):
    levels = [grey(40 + 2 * (i % 100)) for i in range(12 * 25 + 5)]
    path = write_video(
        tmp_path / "a.mp4", levels, sound=beeps(2.0, 11.3, seconds=12.2), sound_from=0.0
    )
    video = VideoReader(path)
    one, two = video.clips()
    assert (video.size, video.seconds, video.has_sound) == ((96, 64), 12, True)
    assert video.end == pytest.approx(12.2)
    # Decoded picture floor(l F + 15/16 F) of second l, as the authors took it.
    expected = [level_of(levels[int(second * 25 + 15 / 16 * 25)]) for second in range(12)]
    found = [level_of(frame) for frame in (*one.frames, *two.frames)]
    np.testing.assert_allclose(found, expected, atol=2)
    assert (len(one.frames), len(two.frames), one.before, two.after) == (10, 2, None, None)
    np.testing.assert_array_equal(one.after, two.frames[0])
    np.testing.assert_array_equal(two.before, one.frames[-1])
    # Mono, 16 kHz, 16 bits: the mean of the channels, in time to a few milliseconds.
    sound = np.concatenate([one.waveform, two.waveform]) / 32768
    assert len(one.waveform) == 160_000
    np.testing.assert_allclose(onsets(sound, 16_000), [2.0, 11.3], atol=0.005)
    assert np.abs(sound).max() == pytest.approx(0.4, abs=0.05)


def test_pictures_at_odd_times(tmp_path):
    times = [0.0, 0.5, 0.95, 4.2, 4.9, 5.3]
    frames = [grey(30 * i + 30) for i in range(6)]
    (clip,) = clips_of(write_video(tmp_path / "vfr.mp4", frames, times=times, fps=10))
    # Shown at 0.9375, 1.9375, ... s; mp4 shows the last one as long as the one before, to 5.7 s.
    expected = [60, 90, 90, 90, 150, 180]
    np.testing.assert_allclose([level_of(f) for f in clip.frames], expected, atol=2)


def test_portraits_are_turned(tmp_path):
    stored = grey(20, 64, 96)
    stored[:, :20] = 220  # on the left
    for rotation, side in ((90, "bottom"), (-90, "top")):
        path = write_video(tmp_path / "p.mp4", [stored] * 25, rotation=rotation)
        video = VideoReader(path)
        (frame,) = next(video.clips()).frames
        assert video.size == (64, 96)
        assert frame.shape == (96, 64, 3)
        bright = frame[-10:] if side == "bottom" else frame[:10]
        assert bright.mean() > 200, rotation
        assert frame.mean() < 100


def test_sound_that_begins_late_ends_early_or_is_not_there(tmp_path):
    frames = [grey(90)] * 60
    late = write_video(
        tmp_path / "l.mkv", frames, fps=10, sound=beeps(0.0, seconds=1.0), sound_from=2.5
    )
    (clip,) = clips_of(late)
    assert len(clip.waveform) == 6 * 16_000  # silence where whole seconds lack
    np.testing.assert_allclose(onsets(clip.waveform / 32768, 16_000), [2.5], atol=0.03)
    video = VideoReader(write_video(tmp_path / "s.mp4", frames, fps=10))
    (clip,) = video.clips()
    assert not video.has_sound
    assert not clip.waveform.any()
    assert len(clip.waveform) == 6 * 16_000


@pytest.mark.parametrize(
    ("name", "codec", "audio_codec"),
    [("a.avi", "mpeg4", "mp3"), ("a.webm", "libvpx-vp9", "libopus"), ("a.ts", "libx264", "aac")],
)
def test_formats(tmp_path, name, codec, audio_codec):
    path = write_video(
        tmp_path / name,
        [grey(60 if i < 25 else 160) for i in range(50)],
        sound=beeps(1.0, seconds=2, rate=48_000),
        codec=codec,
        audio_codec=audio_codec,
        rate=48_000,
    )
    (clip,) = clips_of(path)
    np.testing.assert_allclose([level_of(f) for f in clip.frames], [60, 160], atol=4)
    assert onsets(clip.waveform / 32768, 16_000) == pytest.approx([1.0], abs=0.06)


def test_a_single_picture(tmp_path):
    (clip,) = clips_of(write_video(tmp_path / "one.mp4", [grey(120)]))
    assert [level_of(frame) for frame in clip.frames] == pytest.approx([120], abs=2)
    assert len(clip.waveform) == 16_000


def test_cut_off_and_damaged_files_give_what_they_have(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(100)]
    whole = write_video(tmp_path / "w.mkv", noise, sound=beeps(seconds=4)).read_bytes()
    cut_off = tmp_path / "cut.mkv"
    cut_off.write_bytes(whole[: len(whole) // 2])
    video = VideoReader(cut_off)
    assert 0 < sum(len(clip.frames) for clip in video.clips()) <= 3
    assert video.claimed - video.end > 1
    damaged = bytearray(write_video(tmp_path / "w.mp4", noise).read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 30_000] = rng.bytes(30_000)
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    video = VideoReader(tmp_path / "damaged.mp4")
    assert sum(len(clip.frames) for clip in video.clips()) == 4
    assert video.damaged > 0


def test_what_is_no_video_is_refused(tmp_path, monkeypatch):
    good = write_video(tmp_path / "good.mp4", [grey(90)] * 5)
    sound = write_video(tmp_path / "sound.m4a", sound=beeps(seconds=1))
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{good}'\n")
    (tmp_path / "moov.mp4").write_bytes(good.read_bytes()[:600])
    for name, message in (
        ("nothing.mp4", "no such file"),
        ("text.mp4", "cannot be read as a video"),
        ("empty.mp4", "cannot be read as a video"),
        ("list.mp4", "cannot be read as a video"),  # and its files are not opened
        ("moov.mp4", "cannot be read as a video"),
    ):
        with pytest.raises(UserError, match=message):
            VideoReader(tmp_path / name)
    with pytest.raises(UserError, match="no video in it, only sound"):
        VideoReader(sound)
    monkeypatch.setattr(reading, "MAX_PIXELS", 64 * 95)
    with pytest.raises(UserError, match="pictures of 96 x 64 pixels; expected at most"):
        VideoReader(good)
    monkeypatch.undo()
    monkeypatch.setattr(reading, "MAX_HOURS", 0.1 / 3600)
    with pytest.raises(UserError, match="Cut the video into parts"):
        clips_of(good)


def test_a_video_is_read_as_it_is_asked_for(tmp_path):
    """Constant memory: of a long file no more is decoded than the first clip needs."""
    path = write_video(tmp_path / "long.mp4", [grey(i % 250) for i in range(1200)], fps=20)
    video = VideoReader(path)
    first = next(video.clips())
    assert len(first.frames) == 10
    assert 10 < video.end < 14


def test_arrays_are_cut_into_clips():
    frames = np.stack([grey(i) for i in range(13)])
    sound = np.arange(13 * 16_000) % 1000
    clips = list(cut(frames, sound.astype(np.int16)))
    assert [len(clip.frames) for clip in clips] == [10, 3]
    assert [clips[1].before[0, 0, 0], clips[0].after[0, 0, 0]] == [9, 10]
    np.testing.assert_array_equal(clips[1].waveform, sound[160_000:])
    # Whole seconds that lack are silent; less is left to the front end.
    lengths = [
        len(next(cut(frames[:5], sound[:n].astype(np.int16))).waveform) for n in (79_000, 64_000, 0)
    ]
    assert lengths == [79_000, 80_000, 80_000]


def test_sounds_as_arrays():
    stereo = beeps(0.5, seconds=2)
    mono = as_waveform(stereo.T, 44_100)
    assert (mono.dtype, len(mono)) == (np.int16, 32_000)
    assert onsets(mono / 32768, 16_000) == pytest.approx([0.5], abs=0.005)
    exact = (np.arange(-20_000, 20_000) % 32768).astype(np.int16)
    np.testing.assert_array_equal(as_waveform(exact / np.float32(32768), 16_000), exact)
    assert as_waveform(exact, 16_000) is exact
    for bad, rate in ((np.zeros(9, np.int32), 16_000), (np.zeros((1, 2, 3)), 16_000)):
        with pytest.raises(UserError, match="sound: expected"):
            as_waveform(bad, rate)
    with pytest.raises(UserError, match="0 Hz"):
        as_waveform(np.zeros(9), 0)
    with pytest.raises(UserError, match="not finite"):
        as_waveform(np.array([np.nan, *itertools.repeat(0.0, 9)]), 16_000)


def test_a_cover_picture_is_no_video(tmp_path):
    song, cover = tmp_path / "song.mp3", tmp_path / "cover.jpg"
    Image.fromarray(grey(9)).save(cover)
    with av.open(str(song), "w") as out, av.open(str(cover)) as picture:
        audio = out.add_stream("mp3", rate=44_100, layout="stereo")
        art = out.add_stream_from_template(picture.streams.video[0])
        art.disposition = av.stream.Disposition.attached_pic
        part = av.AudioFrame.from_ndarray(beeps(seconds=1), format="fltp", layout="stereo")
        part.sample_rate = 44_100
        out.mux(audio.encode(part))
        packet = next(picture.demux())
        packet.stream = art
        out.mux(packet)
        out.mux(audio.encode(None))
    with pytest.raises(UserError, match="only sound"):
        VideoReader(song)
