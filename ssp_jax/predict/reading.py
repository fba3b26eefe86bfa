"""Videos as anybody has them, read with PyAV in constant memory.

Time begins with the first picture.
"""

import dataclasses
import fractions
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from ssp_jax.data.log_mel import SAMPLE_RATE
from ssp_jax.errors import UserError
from ssp_jax.predict.clips import SECONDS, PlainClip, with_silence
from ssp_jax.predict.container import decoded, opened
from ssp_jax.predict.sound import SoundTrack, sound_stream

# The instant of a second whose picture stands for it, as AVSBench's authors took it: of 16 equally
# spaced ones the last (avsbench 1.1).
INSTANT = 15 / 16
MAX_PIXELS = 7680 * 4320
MAX_HOURS = 24


@dataclasses.dataclass(frozen=True)
class TimedPicture:
    """A decoded picture, shown from `time` to `end`, in seconds from the first one's time."""

    time: float
    end: float
    picture: av.VideoFrame


class VideoReader:
    """A video file, to be read from its beginning as often as wanted.

    Attributes:
      path: of the file. size: width and height as shown, pixels.
      aspect: of a pixel as shown, width by height. rate: pictures a second, about.
      claimed: its length in seconds as the file says, None where it does not.
      has_sound: it has a sound track that can be decoded.
      origin: the first picture's time in the file.
      end: where the pictures ended, known once they were read. seconds: how many that makes for
        `clips`: a last one of less than half a second belongs to the one before.
      damaged: parts that were left out, or are only decoded in part.
    """

    def __init__(self, path: str | Path):
        """Open it and look at its first picture.

        Raises:
          UserError: no such file, no video, damaged from the beginning, or absurdly large.
        """
        self.path, self.origin, self.end, self.damaged = Path(path), 0.0, 0.0, 0
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")
        with opened(self.path) as container:
            stream = self._video(container)
            self.has_sound = sound_stream(container) is not None
            self.rate = _rate(stream)
            aspect = stream.sample_aspect_ratio
            self.claimed = container.duration / av.time_base if container.duration else None
        first = next(self.pictures(), None)
        if first is None:
            raise UserError(
                f"{path}: not a single picture can be decoded; the file is broken or cut off"
            )
        self.size = first.picture.width, first.picture.height
        self.aspect = fractions.Fraction(1)
        if aspect:
            self.aspect = fractions.Fraction(aspect.numerator, aspect.denominator)
        if _quarter_turns(first.picture) % 2:
            self.size, self.aspect = self.size[::-1], 1 / self.aspect

    @property
    def seconds(self) -> int:
        """See the class."""
        return max(1, int(self.end + 0.5))

    def pictures(self) -> Iterator[TimedPicture]:
        """All pictures in order; times never go back, whatever the file says.

        Raises:
          UserError: pictures too large, or an absurd length.
        """
        self.end, self.damaged, last = 0.0, 0, None
        with opened(self.path) as container:
            stream = self._video(container)
            stream.thread_type = "AUTO"
            for picture in self._decoded(container, stream):
                self.damaged += picture.is_corrupt
                self._check_size(picture.width, picture.height)
                if last is None:
                    self.origin, first = picture.time or 0.0, picture.pts or 0
                # In whole ticks: differences of floats would put a picture into the second before.
                ticks = None if picture.pts is None else picture.pts - first
                time = self.end if ticks is None else float(ticks * picture.time_base)
                if last is not None and time <= last:
                    time = last + 1 / self.rate
                length = float(picture.duration * picture.time_base) if picture.duration else 0.0
                last, self.end = time, time + (length if length > 0 else 1 / self.rate)
                if self.end > MAX_HOURS * 3600:
                    raise UserError(
                        f"{self.path}: a picture at {time / 3600:.1f} hours; expected {MAX_HOURS} "
                        "at most. Cut the video into parts"
                    )
                yield TimedPicture(time, self.end, picture)

    def clips(self) -> Iterator[PlainClip]:
        """Its seconds with their sound, as clips of ten; silence where it has none.

        Raises:
          UserError: see `pictures`.
        """
        track = SoundTrack(self.path, self.origin) if self.has_sound else None
        before, frames = None, []
        for frame in self._seconds():
            if len(frames) == SECONDS:
                yield self._clip(track, before, frames, frame)
                before, frames = frames[-1], []
            frames.append(frame)
        yield self._clip(track, before, frames, None)

    def _clip(self, track: SoundTrack | None, before, frames: list, after) -> PlainClip:
        count = len(frames)
        sound = np.zeros(0, np.int16) if track is None else track.take(count * SAMPLE_RATE)
        return PlainClip(frames, with_silence(sound, count), before, after)

    def _seconds(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The picture shown at each second's instant; the last one where there is none."""
        number, shown, reformatter = 0, None, VideoReformatter()
        for timed in self.pictures():
            if shown is not None and timed.time > number + INSTANT:
                frame = upright(shown.picture, reformatter)
                while timed.time > number + INSTANT:
                    yield frame
                    number += 1
            shown = timed
        frame = upright(shown.picture, reformatter)
        for _ in range(number, self.seconds):
            yield frame

    def _video(self, container: av.container.InputContainer) -> av.VideoStream:
        covers = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & covers]
        if not streams:
            found = "only sound" if container.streams.audio else "neither pictures nor sound"
            raise UserError(f"{self.path}: no video in it, {found}")
        if streams[0].codec_context is None:
            raise UserError(f"{self.path}: its video is of a format that FFmpeg here cannot decode")
        self._check_size(streams[0].codec_context.width, streams[0].codec_context.height)
        return streams[0]

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{self.path}: pictures of {width} x {height} pixels; expected at most as many as "
                "8K has (7680 x 4320). Make them smaller first"
            )

    def _decoded(self, container, stream) -> Iterator[av.VideoFrame]:
        for pictures in decoded(container, stream):
            if pictures is None:
                self.damaged += 1
            else:
                yield from pictures


def upright(
    picture: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture in RGB as it is meant to be seen: phones store portraits lying on their side.

    `size`: width and height to bring it to, as shown.
    """
    turns = _quarter_turns(picture)
    width, height = size or (None, None)
    if turns % 2:
        width, height = height, width
    rgb = reformatter.reformat(
        picture, width, height, format="rgb24", interpolation=Interpolation.BILINEAR
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), turns))


def _quarter_turns(picture: av.VideoFrame) -> int:
    """Anticlockwise, from the picture as stored to the picture as shown."""
    return round(picture.rotation / 90) % 4


def _rate(stream: av.VideoStream) -> float:
    """Pictures a second, for those without a time."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if 0.001 < rate < 1000 else 25.0
