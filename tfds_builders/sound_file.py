"""Reads a clip's sound: any rate, channel count and sample format that libsndfile knows."""

from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int16

from tfds_builders.features import SAMPLE_RATE

WINDOW_SAMPLES = 15_600  # one VGGish window at 16 kHz (avsbench 4)
HOP_SAMPLES = 15_360


def read_waveform(path: Path) -> Int16[np.ndarray, " n"]:
    """A sound file as mono at 16 kHz: mean of the channels, resampled by soxr (HQ), rounded.

    16-bit mono files at 16 kHz come back bit for bit.

    Raises:
      ValueError: unreadable, empty, not finite, or shorter than one VGGish window; the message
        says what was found and what was expected.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"unreadable sound ({error}); expected a wav file") from error
    if not len(samples):
        raise ValueError("empty sound: not a single sample")
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise ValueError("sound with values that are not finite")
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    if len(mono) < WINDOW_SAMPLES:
        raise ValueError(
            f"sound too short: {len(mono)} samples at 16 kHz, expected at least {WINDOW_SAMPLES}"
            " (one VGGish window, 0.975 s)"
        )
    return as_int16(mono)


def as_int16(samples: Float[np.ndarray, " n"]) -> Int16[np.ndarray, " n"]:
    """Samples in -1..1 as 16-bit PCM, rounded; what is louder is clipped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def num_windows(num_samples: int) -> int:
    """VGGish windows (0.96 s each) in a waveform of 16 kHz."""
    return max(0, 1 + (num_samples - WINDOW_SAMPLES) // HOP_SAMPLES)
