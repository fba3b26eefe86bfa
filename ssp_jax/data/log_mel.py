"""The VGGish front end: one log-mel window per 0.96 s of sound (avsbench section 4)."""

import functools
from typing import Literal

import numpy as np
import scipy.fft
import scipy.sparse
from jaxtyping import Float, Int16

from ssp_jax.errors import UserError

SAMPLE_RATE = 16_000  # Hz
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms
FRAMES, BANDS = 96, 64  # of one log-mel window
LOWEST, HIGHEST = 125.0, 7_500.0  # Hz, edges of the mel bands
OFFSET = 0.01  # added before the logarithm
SILENCE = float(np.log(OFFSET))  # what every cell of a silent window holds

ShortAudio = Literal["repeat", "silence", "zeros"]


def _mel(hertz):
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)  # HTK scale


@functools.cache
def _mel_matrix() -> scipy.sparse.csr_array:
    """Weights from magnitudes to bands (64, 257): triangles, linear in mel, peak 1, DC column 0.

    Sparse, as a bin reaches two bands at most: quicker than a dense product, whose BLAS threads
    would also contend with the pipeline's own.
    """
    bins = _mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre))
    weights = np.maximum(weights, 0.0)
    weights[0] = 0.0
    return scipy.sparse.csr_array(weights.T)


@functools.cache
def _hann() -> Float[np.ndarray, " 400"]:
    """Periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


def log_mel_windows(
    waveform: Int16[np.ndarray, " n"]
    | Int16[np.ndarray, "n channels"]
    | Float[np.ndarray, " n"]
    | Float[np.ndarray, "n channels"],
) -> Float[np.ndarray, "k 96 64"]:
    """Cuts 16 kHz sound into k non-overlapping log-mel windows of 0.96 s (float32).

    k = 1 + floor((F - 96) / 96) of F = 1 + floor((n - 400) / 160) spectra, 0 for fewer than 15,600
    samples; an incomplete tail is dropped. Natural logarithm of mel + 0.01, so silence is -4.605.
    Source: avsbench section 4, steps 1 to 5 (the front end of OFF, AVSF and COMBO).

    Args:
      waveform: int16 PCM (divided by 32768) or floats in -1..1; several channels are averaged.

    Raises:
      ValueError: the waveform is neither int16 nor floating point, or not of rank 1 or 2.
    """
    waveform = np.asarray(waveform)
    if waveform.dtype == np.int16:
        samples = waveform.astype(np.float32) / 32768.0
    elif np.issubdtype(waveform.dtype, np.floating):
        samples = waveform.astype(np.float32)
    else:
        raise ValueError(f"waveform: expected int16 or float samples, got {waveform.dtype}")
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if samples.ndim != 1:
        raise ValueError(f"waveform: expected (n,) or (n, channels), got shape {waveform.shape}")
    count = max(0, 1 + (len(samples) - WINDOW) // HOP) // FRAMES
    if count == 0:
        return np.zeros((0, FRAMES, BANDS), np.float32)
    spectra = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP][: count * FRAMES]
    # In double precision, as the reference: in float32 quiet bands are off by more than 1e-5.
    magnitude = np.abs(scipy.fft.rfft(spectra * _hann(), FFT))
    mel = (_mel_matrix() @ magnitude.T).T
    return np.log(mel + OFFSET).astype(np.float32).reshape(count, FRAMES, BANDS)


def windows_for_frames(
    windows: Float[np.ndarray, "k 96 64"], num_frames: int, short: ShortAudio = "repeat"
) -> Float[np.ndarray, "num_frames 96 64"]:
    """Exactly one window for each of the T frames of a clip (float32).

    Window i lasts from 0.96 i to 0.96 i + 0.975 s and belongs to frame i. Surplus windows are cut
    (where public code raises, loops for ever or mixes lengths). Missing ones, by `short`:
    - repeat: the last window again; OFF and AVSF for S4 and MS3, and what SS does with embeddings.
    - zeros: 0.0 in every cell, which is not silence; OFF, AVSF and COMBO for AVSS.
    - silence: log(0.01) in every cell, the front end's value of digital silence.
    Sound too short for a single window gives silence for `repeat`, as there is nothing to repeat.

    Raises:
      UserError: `short` is none of the three.
    """
    if short not in ("repeat", "silence", "zeros"):
        raise UserError(f"short_audio: expected repeat, silence or zeros, got {short!r}")
    missing = num_frames - len(windows)
    if missing <= 0:
        return windows[:num_frames]
    if short == "repeat" and len(windows):
        return np.concatenate([windows, np.repeat(windows[-1:], missing, axis=0)])
    value = 0.0 if short == "zeros" else SILENCE
    filler = np.full((missing, FRAMES, BANDS), value, np.float32)
    return np.concatenate([windows, filler])


def noise_windows(
    num_frames: int, rng: np.random.Generator, level: float = 1.0
) -> Float[np.ndarray, "num_frames 96 64"]:
    """The windows of white noise, its samples uniform in -level..level (float32).

    At level 1, as AVSBench-Robust makes it, that is -4.8 dB of full scale (root mean square).
    """
    count = HOP * (num_frames * FRAMES - 1) + WINDOW
    return log_mel_windows(rng.uniform(-level, level, count))


def silent_windows(num_frames: int) -> Float[np.ndarray, "num_frames 96 64"]:
    """The windows of a clip without any sound: log(0.01) everywhere (float32)."""
    return np.full((num_frames, FRAMES, BANDS), SILENCE, np.float32)
