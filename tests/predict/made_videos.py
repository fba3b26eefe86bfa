"""Videos and sounds made for tests, by PyAV: real files, whose content is known."""

import fractions

import av
import numpy as np

RATE = 44_100


def grey(level: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def level_of(frame: np.ndarray) -> int:
    return round(float(frame.mean()))


def beeps(*times: float, seconds: float, rate: int = RATE) -> np.ndarray:
    """Silence with 0.2 s of a 1 kHz tone from each time on, (2, n), on the left alone."""
    sound = np.zeros((2, int(seconds * rate)), np.float32)
    for time in times:
        place = np.arange(int(time * rate), int((time + 0.2) * rate))
        sound[0, place] = 0.8 * np.sin(2 * np.pi * 1000 * place / rate)
    return sound


def onsets(mono: np.ndarray, rate: int) -> list[float]:
    """Where sound begins after at least 0.1 s of near silence, seconds."""
    loud = np.flatnonzero(np.abs(mono) > 0.1)
    starts = np.concatenate([[True], np.diff(loud) > 0.1 * rate]) if len(loud) else []
    return (loud[starts] / rate).tolist() if len(loud) else []


def write_video(
    path,
    frames=(),
    *,
    fps=25,
    times=None,
    sound=None,
    sound_from=0.0,
    rotation=None,
    codec="libx264",
    pix_fmt="yuv420p",
    audio_codec="aac",
    rate=RATE,
):
    """`frames` at `fps`, or at `times` (seconds); `sound` (2, n) from `sound_from` on."""
    with av.open(str(path), "w") as container:
        video = audio = None
        if len(frames):
            video = container.add_stream(codec, rate=fps)
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = fractions.Fraction(1, 1000 if times else fps)
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            audio = container.add_stream(audio_codec, rate=rate, layout="stereo")
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = round(1000 * times[number]) if times else number
            picture.time_base = video.codec_context.time_base
            container.mux(video.encode(picture))
        if video:
            container.mux(video.encode(None))
        if audio:
            part = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
            part.sample_rate, part.pts = rate, round(sound_from * rate)
            part.time_base = fractions.Fraction(1, rate)
            container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path
