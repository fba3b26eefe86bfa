"""The video with what sounds marked in it: colours, outlines and names, and its own sound."""

import colorsys
import dataclasses
import fractions
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ssp_jax.data.transforms import LUMA
from ssp_jax.errors import UserError
from ssp_jax.predict.container import reason
from ssp_jax.predict.predictor import Sounding
from ssp_jax.predict.reading import VideoReader
from ssp_jax.predict.sound import samples

SIDES = (480, 1920)  # least and most of an overlay's longer side, pixels
_TINT = 0.4  # share of the colour in what sounds
_SOUND_RATE = 48_000  # Hz, of the overlay's AAC
_TICKS = 90_000  # of a second, in which pictures are timed
_HELD = 0.5  # seconds for which a picture may be shown before it is written again

Frame = UInt8[np.ndarray, "H W 3"]


def colour(class_index: int) -> tuple[int, int, int]:
    """Of a class, RGB: bright, and far from those of the classes around it."""
    hue = (0.03 + 0.618034 * (class_index - 1)) % 1.0
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.8, 1.0))


def draw(frame: Frame, labels: UInt8[np.ndarray, "h w"], sounding: Sequence[Sounding]) -> Frame:
    """The frame with every class that sounds tinted, outlined and named."""
    return Marking.of(labels, sounding, frame.shape[1::-1]).on(frame)


@dataclasses.dataclass(frozen=True)
class Marking:
    """What is drawn onto all pictures of one second.

    Attributes:
      tint: colours; where: 255 where they apply. ink: outlines and names; inked: 255 where it is.
    """

    tint: Frame
    where: UInt8[np.ndarray, "H W"]
    ink: Frame
    inked: UInt8[np.ndarray, "H W"]

    @classmethod
    def of(
        cls, labels: UInt8[np.ndarray, "h w"], sounding: Sequence[Sounding], size: tuple[int, int]
    ) -> "Marking":
        """Of a label map, for pictures of `size` (width, height)."""
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        ink, inked = np.zeros((*labels.shape, 3), np.uint8), np.zeros_like(labels)
        tint, names = np.zeros_like(ink), []
        line = max(1, round(min(size) / 240))
        for one in sounding:
            mask = np.uint8(255) * (labels == one.class_index)
            outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            if not outlines:
                continue  # too small for pictures of this size
            tint[mask > 0] = colour(one.class_index)
            for shade, thickness in (((0, 0, 0), 3 * line), (colour(one.class_index), line)):
                cv2.drawContours(ink, outlines, -1, shade, thickness, cv2.LINE_8)
                cv2.drawContours(inked, outlines, -1, 255, thickness, cv2.LINE_8)
            largest = max(outlines, key=cv2.contourArea)
            names.append((one, cv2.boundingRect(largest)[:2]))
        _write_names(ink, inked, names)
        return cls(tint, np.uint8(255) * (labels > 0), ink, inked)

    def on(self, frame: Frame) -> Frame:
        """A copy of the frame with the marking on it."""
        marked = frame.copy()
        cv2.copyTo(cv2.addWeighted(frame, 1 - _TINT, self.tint, _TINT, 0), self.where, marked)
        return cv2.copyTo(self.ink, self.inked, marked)


def _write_names(ink: Frame, inked: np.ndarray, names: list[tuple[Sounding, tuple]]) -> None:
    """Each name in a box of its colour over the top left of its largest part, none over another."""
    height, width = inked.shape
    font = ImageFont.load_default(max(13, round(min(width, height) / 22)))
    image, taken = Image.fromarray(ink), []
    canvas = ImageDraw.Draw(image)
    for one, (x, y) in names:
        ascent, descent = font.getmetrics()
        margin = max(2, ascent // 5)
        box_width = round(font.getlength(one.name)) + 2 * margin
        box_height = ascent + descent + margin
        x = max(0, min(x, width - box_width))
        y = max(0, min(y - box_height, height - box_height))
        while any(_meet((x, y, box_width, box_height), other) for other in taken):
            y += 1
        taken.append((x, y, box_width, box_height))
        shade = colour(one.class_index)
        written = (0, 0, 0) if np.dot(shade, LUMA) > 140 else (255, 255, 255)
        canvas.rectangle((x, y, x + box_width - 1, y + box_height - 1), fill=shade)
        canvas.text((x + margin, y + margin // 2), one.name, font=font, fill=written)
        inked[y : y + box_height, x : x + box_width] = 255
    ink[:] = np.asarray(image)


def _meet(one: tuple, other: tuple) -> bool:
    return all(
        one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2]
        for axis in (0, 1)
    )


def overlay_size(width: int, height: int) -> tuple[int, int]:
    """Even sides, as H.264 wants them, of an overlay: the video's, or the nearest that may be."""
    longer = max(width, height)
    scale = min(max(longer, SIDES[0]), SIDES[1]) / longer
    return tuple(max(2, 2 * round(scale * side / 2)) for side in (width, height))


def write_overlay(
    path: Path,
    video: VideoReader,
    read_mask: Callable[[int], UInt8[np.ndarray, "H W"]],
    seconds: Sequence[Sequence[Sounding]],
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Write an mp4 (H.264, AAC): the video's pictures at their times, marked as their second is.

    Args:
      read_mask: second -> labels. seconds: what sounds in each.
      progress: called after each second.

    Raises:
      UserError: FFmpeg cannot write it; see also `VideoReader.upright`.
    """
    try:
        with av.open(path, "w") as container:
            encoder = _Encoder(container, video)
            for time, second, picture in _shown(video, len(seconds)):
                if encoder.second != second:
                    encoder.mark(Marking.of(read_mask(second), seconds[second], encoder.size))
                    encoder.second = second
                    progress()
                encoder.add(time, picture)
            encoder.finish(video.end)
    except av.FFmpegError as error:
        raise UserError(f"{video.path}: its overlay cannot be written ({reason(error)})") from error


def _shown(video: VideoReader, count: int) -> Iterator[tuple[float, int, av.VideoFrame]]:
    """(time, second, picture) of all pictures; one that is held for long comes again each second,
    since what is marked in it may change."""
    held, done = None, -1
    for timed in video.pictures():
        if held is not None and timed.time - held.time > _HELD:
            for second in range(done + 1, min(int(np.ceil(timed.time)), count)):
                yield float(second), second, held.picture
        done = min(int(timed.time), count - 1)
        yield timed.time, done, timed.picture
        held = timed
    for second in range(done + 1, count):
        yield float(second), second, held.picture


class _Encoder:
    """An overlay's file: pictures as they come, and the sound up to them."""

    def __init__(self, container: av.container.OutputContainer, video: VideoReader):
        self._container, self._source, self.second = container, video, -1
        self.size = overlay_size(*video.size)
        self._reformatter, self._marking = VideoReformatter(), None
        rate = fractions.Fraction(video.rate).limit_denominator(1001)
        self._video = container.add_stream("libx264", rate=rate)
        self._video.width, self._video.height = self.size
        self._video.pix_fmt = "yuv420p"
        context = self._video.codec_context
        context.options = {"crf": "20", "preset": "veryfast"}
        context.time_base = fractions.Fraction(1, _TICKS)
        context.sample_aspect_ratio = video.aspect
        # BT.709 throughout, said in the file: players guess otherwise, by the size.
        context.colorspace = context.color_primaries = context.color_trc = 1
        self._last = -1
        self._sound, self._audio, self._given = None, None, 0
        if video.has_sound:
            self._sound = samples(video.path, video.origin, rate=_SOUND_RATE, layout="stereo")
            self._audio = container.add_stream("aac", rate=_SOUND_RATE, layout="stereo")
            self._audio.bit_rate = 192_000

    def mark(self, marking: Marking) -> None:
        """Set what is drawn from now on."""
        self._marking = marking

    def add(self, time: float, picture: av.VideoFrame) -> None:
        """The next picture, to be shown at `time`."""
        self._add_sound(time)
        frame = self._marking.on(self._source.upright(picture, self._reformatter, self.size))
        shown = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(frame, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        shown.pts = self._last = max(self._last + 1, round(time * _TICKS))
        shown.time_base = fractions.Fraction(1, _TICKS)
        self._container.mux(self._video.encode(shown))

    def finish(self, end: float) -> None:
        """The sound up to the end, and what the encoders still hold."""
        self._add_sound(end)
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._container.mux(self._audio.encode(None))

    def _add_sound(self, until: float) -> None:
        while self._sound is not None and self._given < until * _SOUND_RATE:
            _, piece = next(self._sound, (None, None))
            if piece is None:
                self._sound = None
                return
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(piece), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts = _SOUND_RATE, self._given
            frame.time_base = fractions.Fraction(1, _SOUND_RATE)
            self._given += piece.shape[1]
            self._container.mux(self._audio.encode(frame))
