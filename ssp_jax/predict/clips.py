"""Frames and sound of any length as the clips that the networks know: up to ten seconds each.

AVSBench's clips are of five and ten frames, one a second, whose sound is cut into windows of 0.96 s
from the clip's beginning. A long video is a row of such clips, so that sound and frame never part
by more than they did in training.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import soxr
from jaxtyping import Int16, Shaped, UInt8

from ssp_jax.data.log_mel import SAMPLE_RATE
from ssp_jax.errors import UserError
from tfds_builders.sound_file import as_int16

SECONDS = 10  # of a clip, at most
_LOUDEST = 4.0  # of floats whose full scale is 1

Frame = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class PlainClip:
    """T seconds without annotation.

    Attributes:
      frames: T of them, one a second, RGB.
      waveform: mono, 16 kHz, from the clip's beginning; may end before or after its last frame.
      before, after: the neighbours of the first and last frame in the video, if it has any.
    """

    frames: Sequence[Frame]
    waveform: Int16[np.ndarray, " n"]
    before: Frame | None = None
    after: Frame | None = None


def cut(frames: Sequence[Frame], waveform: Int16[np.ndarray, " n"]) -> Iterator[PlainClip]:
    """Frames, one a second, and their sound as clips of `SECONDS`, the last one perhaps shorter."""
    for start in range(0, len(frames), SECONDS):
        end = min(start + SECONDS, len(frames))
        sound = waveform[start * SAMPLE_RATE : end * SAMPLE_RATE]
        yield PlainClip(
            frames[start:end],
            with_silence(sound, end - start),
            frames[start - 1] if start else None,
            frames[end] if end < len(frames) else None,
        )


def with_silence(waveform: Int16[np.ndarray, " n"], seconds: int) -> Int16[np.ndarray, " m"]:
    """Silence takes the place of whole seconds that lack; less is left to the front end, which
    repeats the window before: where there is one, not in a clip of a single second."""
    missing = seconds * SAMPLE_RATE - len(waveform)
    if missing >= SAMPLE_RATE or (missing > 0 and seconds == 1):
        return np.pad(waveform, (0, missing))
    return waveform


def as_waveform(
    sound: Shaped[np.ndarray, " n"] | Shaped[np.ndarray, "n channels"], rate: int
) -> Int16[np.ndarray, " m"]:
    """Sound as prepared clips have it: mean of the channels, 16 kHz (soxr HQ), 16 bits.

    Args:
      sound: floats in -1..1, or int16. rate: in Hz.

    Raises:
      UserError: another type or shape, channels before samples, values that are not finite or not
        in -1..1, or no rate.
    """
    sound = np.asarray(sound)
    if sound.dtype != np.int16 and not np.issubdtype(sound.dtype, np.floating):
        raise UserError(f"sound: expected floats in -1..1 or int16, got {sound.dtype}")
    if sound.ndim not in (1, 2):
        raise UserError(f"sound: expected (n,) or (n, channels), got shape {sound.shape}")
    if sound.ndim == 2 and sound.shape[1] > max(1, len(sound)):
        raise UserError(
            f"sound: expected (n,) or (n, channels), got shape {sound.shape}, which has channels "
            "first, as torchaudio, librosa and PyAV give it: pass sound.T"
        )
    if not rate > 0:
        raise UserError(f"sound: a rate of {rate} Hz; expected samples a second, as 44100")
    if sound.dtype == np.int16 and sound.ndim == 1 and rate == SAMPLE_RATE:
        return sound
    scale = 32768.0 if sound.dtype == np.int16 else 1.0
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        samples = sound.astype(np.float32) / scale
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    if not np.isfinite(mono).all():
        raise UserError("sound: has values that are not finite")
    loudest = np.abs(samples).max(initial=0.0)
    # Decoded MP3 and AAC go a little beyond 1; 16-bit numbers as floats far beyond.
    if loudest > _LOUDEST:
        raise UserError(
            f"sound: floats up to {loudest:.0f}; expected -1..1. Divide int16 samples by 32768, or "
            "pass them as int16"
        )
    return as_int16(mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE))


def check_frames(frames: Shaped[np.ndarray, "..."]) -> None:
    """Refuse what is not (T, H, W, 3) of 8 bits.

    Raises:
      UserError: anything else, or not a single frame.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0:
        raise UserError(
            f"frames: expected uint8 of shape (T, H, W, 3), RGB, one a second; got {frames.dtype} "
            f"of shape {frames.shape}"
        )
