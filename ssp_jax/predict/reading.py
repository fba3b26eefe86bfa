"""Videos as anybody has them, read with PyAV in constant memory.

Time begins with the first picture.
"""

import dataclasses
import fractions
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from jaxtyping import UInt8

from ssp_jax.data.log_mel import SAMPLE_RATE
from ssp_jax.errors import UserError
from ssp_jax.predict.clips import SECONDS, PlainClip, with_silence
from ssp_jax.predict.container import DAMAGE, decoded, opened, reason
from ssp_jax.predict.orientation import lies_on_its_side, shown_size, upright
from ssp_jax.predict.sound import SoundTrack, begins_to_sound
from ssp_jax.predict.tracks import choice, sound_stream, video_stream

# The instant of a second whose picture stands for it, as AVSBench's authors took it: of 16 equally
# spaced ones the last (avsbench 1.1).
INSTANT = 15 / 16
MAX_PIXELS = 7680 * 4320
MAX_HOURS = 24
_SHORT = 1.0  # seconds by which something may end before its time without a word about it


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
      claimed: its pictures' length in seconds as the file says, None where it does not.
      has_sound: it has a sound track that can be decoded. no_sound: why it has none, in words.
      choices: which track is taken where there are several, in words.
      origin: the first picture's time in the file.
      end: where the pictures ended, known once they were read. seconds: how many that makes for
        `clips`: a last one of less than half a second belongs to the one before.
      damaged: parts that were left out, or are only decoded in part.
      changed: when the pictures first changed their size, and to what (width, height), or None.
    """

    def __init__(self, path: str | Path):
        """Open it and look at its first picture.

        Raises:
          UserError: no such file, no video, damaged from the beginning, or absurdly large; or it
            has a sound of which not a single part can be decoded.
        """
        self.path, self.origin, self.end, self.damaged = Path(path), 0.0, 0.0, 0
        self.size, self.changed, self._track = None, None, None
        if self.path.is_dir():
            raise UserError(f"{path}: a folder; name the videos in it, as {self.path / '*.mp4'}")
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")
        with opened(self.path) as container:
            stream = self._video(container)
            sound, sounds = sound_stream(container), container.streams.audio
            self.has_sound, self.no_sound = sound is not None, "has no sound track"
            if sounds and not self.has_sound:
                self.no_sound = "its sound is of a format that cannot be decoded"
            covers = av.stream.Disposition.attached_pic
            pictures = [s for s in container.streams.video if not s.disposition & covers]
            lines = [choice("pictures", stream, pictures)]
            if self.has_sound:
                lines.append(choice("sound", sound, sounds))
            self.choices = [line for line in lines if line]
            self.rate = _rate(stream)
            aspect = stream.sample_aspect_ratio
            claimed_end = _claimed_end(container, stream)
        first = next(self.pictures(), None)
        if first is None:
            raise UserError(
                f"{path}: not a single picture can be decoded; the file is broken or cut off"
            )
        self.size = shown_size(first.picture)
        self.claimed = None if claimed_end is None else max(0.0, claimed_end - self.origin)
        self.aspect = fractions.Fraction(1)
        if aspect:
            self.aspect = fractions.Fraction(aspect.numerator, aspect.denominator)
        if lies_on_its_side(first.picture):
            self.aspect = 1 / self.aspect
        if self.has_sound and not begins_to_sound(self.path, self.origin):
            self.has_sound, self.no_sound = False, "its sound track is empty"

    @property
    def seconds(self) -> int:
        """See the class."""
        return max(1, int(self.end + 0.5))

    def pictures(self) -> Iterator[TimedPicture]:
        """All pictures in order; times never go back, whatever the file says.

        Raises:
          UserError: pictures too large, or an absurd length.
        """
        self.end, self.damaged, self.changed, last = 0.0, 0, None, None
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
                if self.size and not self.changed and shown_size(picture) != self.size:
                    self.changed = time, shown_size(picture)
                yield TimedPicture(time, self.end, picture)

    def clips(self) -> Iterator[PlainClip]:
        """Its seconds with their sound, as clips of ten; silence where it has none.

        Raises:
          UserError: see `pictures` and `upright`.
        """
        self._track = track = SoundTrack(self.path, self.origin) if self.has_sound else None
        before, frames = None, []
        for frame in self._seconds():
            if len(frames) == SECONDS:
                yield self._clip(track, before, frames, frame)
                before, frames = frames[-1], []
            frames.append(frame)
        yield self._clip(track, before, frames, None)

    def upright(
        self,
        picture: av.VideoFrame,
        reformatter: VideoReformatter,
        size: tuple[int, int] | None = None,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Return one of its pictures in RGB as a player shows it, of `size` or else of its own:
        the first one's, whatever comes later, as FFmpeg has it.

        Raises:
          UserError: FFmpeg cannot convert it.
        """
        if size is None and shown_size(picture) != self.size:
            size = self.size
        try:
            return upright(picture, reformatter, size)
        except DAMAGE as error:
            raise UserError(
                f"{self.path}: its pictures cannot be converted to RGB ({reason(error)}); they are "
                f"{picture.format.name} in the colour space {_colour_space(picture)}. Convert the "
                "video to H.264 in yuv420p, BT.709, with a program that can"
            ) from error

    def remarks(self) -> list[str]:
        """Say what was not as it should be, in words, once `clips` were read."""
        found = []
        if self.damaged:
            found.append(f"{self.damaged} parts are damaged")
        if self.claimed and self.end < self.claimed - _SHORT:
            found.append(f"its pictures end after {self.end:.1f} s of {self.claimed:.1f} s")
        if self.changed:
            time, (width, height) = self.changed
            found.append(
                f"its pictures change their size, after {time:.1f} s to {width} x {height}; all "
                f"masks and boxes are of the first one's, {self.size[0]} x {self.size[1]}"
            )
        if self._track is not None:
            found += self._track.remarks(self.end)
        return found

    def _clip(self, track: SoundTrack | None, before, frames: list, after) -> PlainClip:
        count = len(frames)
        sound = np.zeros(0, np.int16) if track is None else track.take(count * SAMPLE_RATE)
        return PlainClip(frames, with_silence(sound, count), before, after)

    def _seconds(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The picture shown at each second's instant; the last one where there is none."""
        number, shown, reformatter = 0, None, VideoReformatter()
        for timed in self.pictures():
            if shown is not None and timed.time > number + INSTANT:
                frame = self.upright(shown.picture, reformatter)
                while timed.time > number + INSTANT:
                    yield frame
                    number += 1
            shown = timed
        frame = self.upright(shown.picture, reformatter)
        for _ in range(number, self.seconds):
            yield frame

    def _video(self, container: av.container.InputContainer) -> av.VideoStream:
        stream = video_stream(container, self.path)
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        return stream

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


def _rate(stream: av.VideoStream) -> float:
    """Pictures a second, for those without a time."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if 0.001 < rate < 1000 else 25.0


def _claimed_end(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Time in the file at which its pictures should end, None where it does not say.

    By the track's own length, where the file has one, since sound may begin earlier and end later.
    A container's is from 0 on (Matroska) or from its beginning: the earlier of both is taken.
    """
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _colour_space(picture: av.VideoFrame) -> str:
    try:
        return Colorspace(picture.colorspace).name
    except ValueError:
        return f"number {int(picture.colorspace)} of ISO 23091-2"
