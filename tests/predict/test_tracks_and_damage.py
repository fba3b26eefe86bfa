"""Which track is heard, and what is said of one that is damaged, late or of an unknown format."""

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from made_videos import beeps, grey, onsets, write_video

from ssp_jax.errors import UserError
from ssp_jax.predict import reading
from ssp_jax.predict.reading import VideoReader


def read(path):
    """(reader, sound of all its clips in -1..1)."""
    video = VideoReader(path)
    return video, np.concatenate([clip.waveform for clip in video.clips()]) / 32768


def with_tracks(path, pictures, *tracks):
    """Copy a video's pictures and several files' sounds; the last track alone is the default."""
    sources = [av.open(str(name)) for name in (pictures, *tracks)]
    with av.open(str(path), "w") as out:
        pairs = []  # all streams first: the header is written with the first packet
        for number, source in enumerate(sources):
            given = source.streams.audio[0] if number else source.streams.video[0]
            stream = out.add_stream_from_template(given)
            wanted = number in (0, len(tracks))
            stream.disposition = av.stream.Disposition.default if wanted else 0
            pairs.append((source, given, stream))
        for source, given, stream in pairs:
            for packet in source.demux(given):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    return path


def damage(path, *, first=0, kind="audio"):
    """Overwrite all packets of a kind from the `first` on with 0xFF."""
    with av.open(str(path)) as file:
        packets = [(p.pos, p.size) for p in file.demux(**{kind: 0}) if p.size]
    content = bytearray(path.read_bytes())
    for place, size in packets[first:]:
        content[place : place + size] = b"\xff" * size
    path.write_bytes(content)
    return len(packets) - first


def test_of_several_sounds_the_default_is_heard_and_named(tmp_path):
    one, two = (
        write_video(tmp_path / f"{i}.mp4", [grey(9)] * 75, sound=beeps(t, seconds=3))
        for i, t in enumerate((0.5, 1.5))
    )
    video, sound = read(with_tracks(tmp_path / "b.mkv", one, one, two))
    assert onsets(sound, 16_000) == pytest.approx([1.5], abs=0.05)
    (line,) = video.choices
    assert line.startswith("has 2 tracks of sound; number 2 (")
    assert "the default" in line
    with av.open(str(video.path)) as file:
        assert file.streams.best("audio").index == 2
    video, sound = read(with_tracks(tmp_path / "c.mkv", one, two, one))
    assert onsets(sound, 16_000) == pytest.approx([0.5], abs=0.05)
    assert read(one)[0].choices == []


def test_sound_that_cannot_be_decoded_is_not_silence(tmp_path):
    path = write_video(tmp_path / "a.mp4", [grey(9)] * 75, sound=beeps(0.5, 2.5, seconds=3))
    assert read(path)[0].remarks() == []
    packets = damage(path, first=60)
    video, sound = read(path)
    assert onsets(sound, 16_000) == pytest.approx([0.5], abs=0.05)
    damaged, ends = video.remarks()
    assert damaged.startswith(f"{packets} parts of its sound are damaged")
    assert ends.startswith("its sound ends after 1.")
    packets = damage(path)
    with pytest.raises(UserError, match=f"all of its {packets} parts are damaged"):
        VideoReader(path)


def test_samples_that_are_no_numbers_are_counted(tmp_path):
    sound = beeps(0.5, seconds=2)
    sound[1, 50_000:50_007] = np.nan
    path = write_video(
        tmp_path / "a.mov", [grey(9)] * 50, sound=sound, audio_codec="pcm_f32le", codec="mpeg4"
    )
    assert read(path)[0].remarks() == ["its sound has 7 samples that are not finite numbers"]


def test_pictures_that_begin_after_the_sound_are_all_there(tmp_path):
    times = [1.5 + i / 10 for i in range(40)]
    path = write_video(
        tmp_path / "a.mkv", [grey(9)] * 40, fps=10, times=times, sound=beeps(0.2, seconds=6)
    )
    video, _ = read(path)
    assert video.end == pytest.approx(4.0, abs=0.11)
    assert video.remarks() == []


def test_a_colour_space_that_ffmpeg_cannot_convert_is_named(tmp_path):
    """The matrix of YCgCo, which FFmpeg's scaler does not know, is written into H.264's header."""
    plain, odd = tmp_path / "a.mp4", tmp_path / "ycgco.ts"
    write_video(plain, [grey(9)] * 5, pix_fmt="yuv444p")
    with av.open(str(plain)) as source, av.open(str(odd), "w") as out:
        given = source.streams.video[0]
        stream = out.add_stream_from_template(given)
        words = "h264_mp4toannexb,h264_metadata=matrix_coefficients=8"
        context = av.bitstream.BitStreamFilterContext(words, given)
        for packet in source.demux(given):
            for part in context.filter(packet):
                if part.size:
                    part.stream = stream
                    out.mux(part)
    with pytest.raises(UserError, match=r"ycgco\.ts: its pictures cannot be converted to RGB"):
        list(VideoReader(odd).clips())


def test_pictures_of_two_sizes_are_brought_to_the_first_ones(tmp_path):
    """Two H.264 streams, one after the other in one MPEG-TS."""
    wide = write_video(tmp_path / "1.ts", [grey(60, 64, 96)] * 50)
    tall = write_video(tmp_path / "2.ts", [grey(160, 96, 64)] * 50)
    path = tmp_path / "both.ts"
    path.write_bytes(wide.read_bytes() + tall.read_bytes())
    video = VideoReader(path)
    frames = [frame for clip in video.clips() for frame in clip.frames]
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    assert {round(float(frame.mean()), -1) for frame in frames} == {60, 160}
    assert any(
        "change their size" in line and "to 64 x 96; all masks and boxes" in line
        for line in video.remarks()
    )
    last = list(video.pictures())[-1].picture
    assert (last.width, last.height) == (64, 96)
    assert video.upright(last, VideoReformatter(), (48, 32)).shape == (32, 48, 3)


def test_a_folder_is_named_as_one(tmp_path):
    with pytest.raises(UserError, match="a folder; name the videos in it, as"):
        VideoReader(tmp_path)


def test_sound_that_ends_early_or_begins_late_is_said(tmp_path):
    pictures = [grey(9)] * 100
    path = write_video(tmp_path / "a.mkv", pictures, sound=beeps(0.5, seconds=2))
    (line,) = read(path)[0].remarks()
    assert line == "its sound ends after 2.0 s of 4.0 s; to the network the rest is silent"
    path = write_video(tmp_path / "b.mkv", pictures, sound=beeps(0, seconds=1.5), sound_from=2.5)
    (line,) = read(path)[0].remarks()
    assert line == "its sound begins late or has gaps: 2.5 s that are silent to the network"


def test_a_format_of_sound_that_nobody_knows(tmp_path):
    # PCM, which its four letters alone tell: AAC would be known by more.
    path = write_video(
        tmp_path / "a.mov", [grey(9)] * 25, sound=beeps(0.5, seconds=1), audio_codec="pcm_s16le"
    )
    content = path.read_bytes()
    assert content.count(b"sowt") == 1
    assert VideoReader(path).has_sound
    path.write_bytes(content.replace(b"sowt", b"zzzz"))
    video = VideoReader(path)
    assert not video.has_sound
    assert video.no_sound == "its sound is of a format that cannot be decoded"
    mute = VideoReader(write_video(tmp_path / "mute.mp4", [grey(9)] * 25))
    assert mute.no_sound == "has no sound track"


ERRORS = sorted(
    {
        error
        for error in vars(av.error).values()
        if isinstance(error, type) and issubclass(error, av.FFmpegError)
    },
    key=lambda error: error.__name__,
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_whatever_ffmpeg_says_of_pictures_is_said_of_the_video(tmp_path, monkeypatch, error):
    """Also where its exception is one of a full disk or a missing file in Python's eyes."""
    path = write_video(tmp_path / "a.mp4", [grey(9)] * 5)

    def refuse(*_):
        raise error(95, "Operation not supported")

    monkeypatch.setattr(reading, "upright", refuse)
    with pytest.raises(UserError, match=r"a\.mp4: its pictures cannot be converted to RGB \(Op"):
        list(VideoReader(path).clips())
