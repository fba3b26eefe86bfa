"""Reads a clip's sound: any rate, channel count and sample format that libsndfile knows."""

from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int16

from tfds_builders.features import SAMPLE_RATE

WINDOW_SAMPLES = 15_600  # one VGGish window at 16 kHz (avsbench 4)
HOP_SAMPLES = 15_360
MAX_SAMPLES, MAX_RATE, MAX_SECONDS = 1 << 26, 768_000, 3600


def read_waveform(path: Path) -> Int16[np.ndarray, " n"]:
    """A sound file as mono at 16 kHz: mean of the channels, resampled by soxr (HQ), rounded.

    16-bit mono files at 16 kHz come back bit for bit.

    Raises:
      ValueError: unreadable, empty, not finite, shorter than one VGGish window, or absurdly long;
        the message says what was found and what was expected.
    """
    try:
        if not path.is_file():
            raise OSError("not a file")
        with soundfile.SoundFile(path) as file:
            # Some formats hold hours in few bytes.
            if file.frames * file.channels > MAX_SAMPLES or not file.samplerate <= MAX_RATE:
                raise ValueError(
                    f"sound of {file.frames} samples in {file.channels} channels at "
                    f"{file.samplerate} Hz; expected at most {MAX_SAMPLES} in all and {MAX_RATE} Hz"
                )
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"unreadable sound ({error}); expected a wav file") from error
    if not len(samples):
        size = path.stat().st_size
        raise ValueError(f"empty sound: its header says 0 samples, the file holds {size} bytes")
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise ValueError("sound with values that are not finite")
    if len(mono) / rate > MAX_SECONDS:
        raise ValueError(f"sound of {len(mono) / rate:.0f} s; expected at most {MAX_SECONDS}")
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
