"""The sound of a video from its first picture on, without gaps, in constant memory."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soxr
from jaxtyping import Float, Int16

from ssp_jax.data.log_mel import SAMPLE_RATE
from ssp_jax.predict.container import decoded, opened
from tfds_builders.sound_file import as_int16

_GAP = 0.1  # seconds by which sound may be off its time before silence fills the gap


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first sound track that can be decoded."""
    streams = (s for s in container.streams.audio if s.codec_context is not None)
    return next(streams, None)


def samples(
    path: Path, origin: float, *, rate: int | None = None, layout: str | None = None
) -> Iterator[tuple[int, Float[np.ndarray, "channels n"]]]:
    """(rate, samples) of a file's sound track, in pieces; silence fills gaps and damaged parts.

    Args:
      origin: time in the file at which the samples begin, seconds.
      rate, layout: to convert to, 'mono' or 'stereo'; None: those that the track begins with.
    """
    kind, resampler, given = None, None, 0
    with opened(path) as container:
        parts = decoded(container, sound_stream(container))
        for frame in (frame for part in parts if part for frame in part):
            rate, layout = rate or frame.sample_rate, layout or frame.layout.name
            if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                resampler = av.AudioResampler("fltp", layout, rate)  # also in the middle
            off = 0 if frame.time is None else round((frame.time - origin) * rate) - given
            if off > _GAP * rate:
                for start in range(0, off, rate):
                    channels = av.AudioLayout(layout).nb_channels
                    yield rate, np.zeros((channels, min(rate, off - start)), np.float32)
                given += off
            early = -off if given == 0 and off < 0 else 0
            for part in resampler.resample(frame):
                piece = np.nan_to_num(part.to_ndarray())[:, early:]
                early -= min(early, part.samples)
                given += piece.shape[1]
                yield rate, piece


class SoundTrack:
    """The sound as the networks hear it: mean of the channels, 16 kHz (soxr HQ), 16 bits."""

    def __init__(self, path: Path, origin: float):
        """`origin`: see `samples`."""
        self._pieces, self._left = self._resampled(path, origin), np.zeros(0, np.int16)

    def take(self, count: int) -> Int16[np.ndarray, " n"]:
        """The next `count` samples, fewer where the track ends."""
        pieces, found = [self._left], len(self._left)
        while found < count and (piece := next(self._pieces, None)) is not None:
            pieces.append(piece)
            found += len(piece)
        joined = np.concatenate(pieces)
        self._left = joined[count:]
        return joined[:count]

    @staticmethod
    def _resampled(path: Path, origin: float) -> Iterator[Int16[np.ndarray, " n"]]:
        stream = None
        for rate, piece in samples(path, origin):
            mono = piece.mean(axis=0)
            if rate != SAMPLE_RATE:
                stream = stream or soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
                mono = stream.resample_chunk(mono)
            yield as_int16(mono)
        if stream is not None:
            yield as_int16(stream.resample_chunk(np.zeros(0, np.float32), last=True))
