"""The sound of a video from its first picture on, without gaps, in constant memory."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soxr
from jaxtyping import Float, Int16

from ssp_jax.data.log_mel import SAMPLE_RATE
from ssp_jax.errors import UserError
from ssp_jax.predict.container import DAMAGE, decoded, opened
from ssp_jax.predict.tracks import sound_stream
from tfds_builders.sound_file import as_int16

_GAP = 0.1  # seconds by which sound may be off its time before silence fills the gap
_SILENT = 1.0  # seconds of silence that take the place of sound without a word about it, at most


@dataclasses.dataclass
class Heard:
    """What became of a track's packets so far.

    Attributes:
      good: packets that were decoded. damaged: those that could not be, or only in part.
      filled: seconds of silence in gaps. end: seconds of sound and silence.
      not_finite: samples that are no numbers and were taken for zero or full scale.
    """

    good: int = 0
    damaged: int = 0
    filled: float = 0.0
    end: float = 0.0
    not_finite: int = 0


def samples(
    path: Path,
    origin: float,
    *,
    rate: int | None = None,
    layout: str | None = None,
    heard: Heard | None = None,
) -> Iterator[tuple[int, Float[np.ndarray, "channels n"]]]:
    """(rate, samples) of a file's sound track, in pieces; silence fills gaps and damaged parts.

    Args:
      origin: time in the file at which the samples begin, seconds.
      rate, layout: to convert to, 'mono' or 'stereo'; None: those that the track begins with.
      heard: is kept up to date.
    """
    heard = heard or Heard()
    kind, resampler, given = None, None, 0
    with opened(path) as container:
        for frame in _frames(container, heard):
            rate, layout = rate or frame.sample_rate, layout or frame.layout.name
            off = 0 if frame.time is None else round((frame.time - origin) * rate) - given
            early = -off if given == 0 and off < 0 else 0
            try:
                if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                    resampler = av.AudioResampler("fltp", layout, rate)  # also in the middle
                parts = [part.to_ndarray() for part in resampler.resample(frame)]
            except DAMAGE:
                kind = None
                heard.damaged += 1
                continue
            heard.good += 1
            if off > _GAP * rate:
                channels = av.AudioLayout(layout).nb_channels
                for start in range(0, off, rate):
                    gap = np.zeros((channels, min(rate, off - start)), np.float32)
                    given += gap.shape[1]
                    heard.filled, heard.end = heard.filled + gap.shape[1] / rate, given / rate
                    yield rate, gap
            for part in parts:
                piece = part[:, early:]
                early -= min(early, part.shape[1])
                given += piece.shape[1]
                heard.end = given / rate
                finite = np.isfinite(piece)
                if not finite.all():
                    heard.not_finite += int(finite.size - finite.sum())
                    piece = np.nan_to_num(piece)
                if piece.size:
                    yield rate, piece


def _frames(container: av.container.InputContainer, heard: Heard) -> Iterator[av.AudioFrame]:
    for part in decoded(container, sound_stream(container)):
        if part is None:
            heard.damaged += 1
        else:
            heard.damaged += any(frame.is_corrupt for frame in part)
            yield from part


def begins_to_sound(path: Path, origin: float) -> bool:
    """Tell whether something of a file's sound track can be decoded; not where it holds nothing.

    Raises:
      UserError: it holds something, and all of it is damaged.
    """
    heard = Heard()
    for _ in samples(path, origin, heard=heard):
        return True
    if heard.damaged and not heard.good:
        raise UserError(
            f"{path}: its sound cannot be decoded: all of its {heard.damaged} parts are damaged. "
            "Get the video once more; or take the sound away, and it counts as silent: "
            "ffmpeg -i VIDEO -an -c copy SILENT"
        )
    return heard.good > 0


class SoundTrack:
    """The sound as the networks hear it: mean of the channels, 16 kHz (soxr HQ), 16 bits."""

    def __init__(self, path: Path, origin: float):
        """`origin`: see `samples`."""
        self._heard = Heard()
        self._pieces = self._resampled(samples(path, origin, heard=self._heard))
        self._left = np.zeros(0, np.int16)

    def take(self, count: int) -> Int16[np.ndarray, " n"]:
        """The next `count` samples, fewer where the track ends."""
        pieces, found = [self._left], len(self._left)
        while found < count and (piece := next(self._pieces, None)) is not None:
            pieces.append(piece)
            found += len(piece)
        joined = np.concatenate(pieces)
        self._left = joined[count:]
        return joined[:count]

    def remarks(self, end: float) -> list[str]:
        """Say what lacks of the sound that was taken, of a video of `end` seconds."""
        heard, found = self._heard, []
        if heard.damaged:
            found.append(
                f"{heard.damaged} parts of its sound are damaged, {heard.good} are not; to the "
                "network there is silence in their place"
            )
        if heard.not_finite:
            found.append(f"its sound has {heard.not_finite} samples that are not finite numbers")
        if heard.filled >= _SILENT:
            found.append(
                f"its sound begins late or has gaps: {heard.filled:.1f} s that are silent to the "
                "network"
            )
        if heard.end <= end - _SILENT:
            found.append(
                f"its sound ends after {heard.end:.1f} s of {end:.1f} s; to the network the rest "
                "is silent"
            )
        return found

    @staticmethod
    def _resampled(pieces: Iterator) -> Iterator[Int16[np.ndarray, " n"]]:
        stream = None
        for rate, piece in pieces:
            mono = piece.mean(axis=0)
            if rate != SAMPLE_RATE:
                stream = stream or soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
                mono = stream.resample_chunk(mono)
            yield as_int16(mono)
        if stream is not None:
            yield as_int16(stream.resample_chunk(np.zeros(0, np.float32), last=True))
