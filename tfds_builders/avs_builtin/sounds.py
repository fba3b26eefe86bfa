"""The twelve voices: synthesised timbres, one function a class, with variation per instance.

Every voice fills the whole clip, so that each 0.96-s window (what VGGish sees) holds a recognisable
part of it; `scene` decides in which seconds it is heard. Notes are rendered once and placed many
times, oscillators read a wavetable: a clip costs milliseconds.
"""

import itertools

import numpy as np
import scipy.signal

from tfds_builders.avs_builtin.catalogue import CLASS_NAMES
from tfds_builders.features import SAMPLE_RATE

_TABLE = 4096  # samples of one period in a wavetable


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A value between low and high, uniform on a logarithmic scale."""
    return float(low * (high / low) ** rng.random())


def _noise(rng: np.random.Generator, n: int) -> np.ndarray:
    return (2 * rng.random(n, dtype=np.float32) - 1).astype(np.float32)


def _band(signal: np.ndarray, low: float, high: float) -> np.ndarray:
    """First-order-slope band pass between two frequencies in Hz."""
    sos = scipy.signal.butter(1, [low, high], "band", fs=SAMPLE_RATE, output="sos")
    return scipy.signal.sosfilt(sos, signal).astype(np.float32)


def _oscillate(frequency: np.ndarray | float, amplitudes, n: int) -> np.ndarray:
    """Periodic tone with the given harmonic amplitudes at a (varying) frequency in Hz."""
    grid = 2 * np.pi * np.arange(_TABLE) / _TABLE
    table = sum(a * np.sin((k + 1) * grid) for k, a in enumerate(amplitudes)).astype(np.float32)
    phase = np.cumsum(np.broadcast_to(frequency, n) / SAMPLE_RATE)
    return table[(phase * _TABLE).astype(np.int64) % _TABLE]


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _partials(f0: float, ratios, amplitudes, decays, seconds: float) -> np.ndarray:
    """A struck note: sine partials at f0 * ratio, each with its own decay time in seconds."""
    t = _time(seconds).astype(np.float32)
    note = np.zeros(len(t), np.float32)
    for ratio, amplitude, decay in zip(ratios, amplitudes, decays, strict=True):
        if f0 * ratio < 0.47 * SAMPLE_RATE:
            envelope = np.float32(amplitude) * np.exp(t * np.float32(-1 / decay))
            note += envelope * np.sin(t * np.float32(2 * np.pi * f0 * ratio))
    return (note * np.clip(np.minimum(t / 0.002, (seconds - t) / 0.05), 0, 1)).astype(np.float32)


def _place(notes, interval: float, rng: np.random.Generator, n: int, jitter: float = 0.08):
    """Places notes one after the other at about `interval` seconds; overlapping tails add up."""
    out = np.zeros(n, np.float32)
    position = -interval * rng.random()
    k = int(rng.integers(len(notes)))
    while position * SAMPLE_RATE < n:
        start = round(position * SAMPLE_RATE)
        note = notes[k % len(notes)][max(0, -start) :]
        start = max(0, start)
        note = note[: n - start]
        out[start : start + len(note)] += (0.8 + 0.4 * rng.random()) * note
        position += interval * (1 + jitter * (2 * rng.random() - 1))
        k += 1
    return out


def _glide(values, interval: float, rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) a melody: steps through `values`, a new one about every `interval` seconds, slurred."""
    count = int(n / SAMPLE_RATE / interval) + 3
    times = (np.arange(count) - rng.random()) * interval * SAMPLE_RATE
    picks = np.asarray(values)[(rng.integers(len(values)) + np.arange(count)) % len(values)]
    edge = 0.03 * SAMPLE_RATE
    knots = np.stack([times, times + interval * SAMPLE_RATE - edge], 1).ravel()
    return np.interp(np.arange(n), knots, np.repeat(picks, 2))


def _plucked(f0: float, brightness: float, decay: float, seconds: float, rng) -> np.ndarray:
    """Karplus-Strong: a noise burst circulating through a delay line with a low pass."""
    period = max(2, round(SAMPLE_RATE / f0))
    burst = _noise(rng, period)
    for _ in range(round((1 - brightness) * 6)):
        burst = 0.5 * (burst + np.roll(burst, 1))
    burst -= burst.mean()
    burst /= np.abs(burst).max()
    rows = round(seconds * SAMPLE_RATE / period)
    gain = np.float32(10) ** np.float32(-3 / (decay * f0))
    out = np.empty((rows, period), np.float32)
    out[0] = burst
    for before, row in itertools.pairwise(out):
        np.add(before[1:], before[:-1], out=row[1:])
        row[0] = before[0] + before[-1]
        row *= 0.5 * gain
    return out.ravel()


def _bell(voice, event, n):
    f0 = _between(voice, 420, 1000)
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.76, 3.6, 5.4]) * (1 + 0.01 * voice.random(8))
    amplitudes = np.array([0.5, 1, 0.7, 0.4, 0.9, 0.7, 0.5, 0.4]) * (0.6 + 0.8 * voice.random(8))
    ring = _between(voice, 0.4, 0.8)
    note = _partials(f0, ratios, amplitudes, ring / (0.6 + 0.3 * ratios), 1.6)
    return _place([note], _between(voice, 0.5, 0.8), event, n, 0.05)


def _bird(voice, event, n):
    f0, span = _between(voice, 2300, 4200), _between(voice, 1.2, 1.7)
    notes = []
    for k in range(4):
        t = _time(_between(voice, 0.06, 0.13))
        u = t / t[-1]
        sweep = f0 * span ** (u if k % 2 else 1 - u) * (1 + 0.05 * np.sin(2 * np.pi * 35 * t))
        notes.append(_oscillate(sweep, (1, 0.15), len(t)) * np.sin(np.pi * u).astype(np.float32))
    return _place(notes, _between(voice, 0.13, 0.22), event, n, 0.5)


def _boat(voice, event, n):
    f0 = _between(voice, 130, 190)
    tone = 1 / (1 + np.arange(9)) ** _between(voice, 0.7, 1.1)
    swell = 1 - 0.35 * np.cos(2 * np.pi * (np.arange(n) / SAMPLE_RATE / 2.3 + event.random()))
    chord = _oscillate(f0, tone, n) + _oscillate(f0 * _between(voice, 1.18, 1.27), tone, n)
    return (chord * swell + 0.25 * _band(_noise(event, n), 100, 500)).astype(np.float32)


def _car(voice, event, n):
    rate = _between(voice, 28, 55)
    wander = np.interp(np.arange(n), np.linspace(0, n, 12), 0.85 + 0.5 * event.random(12))
    phase = np.cumsum(rate * wander / SAMPLE_RATE) % 1
    pulses = np.exp(-phase * _between(voice, 5, 9)).astype(np.float32)
    body = _band(pulses - pulses.mean(), 60, _between(voice, 350, 600)) * 2.5
    hiss = _band(_noise(event, n), 250, _between(voice, 1200, 2200)) * (0.25 + pulses)
    return body + 0.8 * hiss


def _clock(voice, event, n):
    t = _time(0.05)
    notes = []
    for pitch in (1.0, _between(voice, 0.6, 0.8)):
        f = _between(voice, 2500, 3800) * pitch
        ring = np.sin(2 * np.pi * f * t) + 0.6 * np.sin(2 * np.pi * 1.7 * f * t)
        click = ring * np.exp(-t / 0.006) + _noise(voice, len(t)) * np.exp(-t / 0.0015)
        notes.append(click.astype(np.float32))
    return _place(notes, _between(voice, 0.2, 0.33), event, n, 0.01)


def _drum(voice, event, n):
    f0, t = _between(voice, 90, 160), _time(0.3)
    thump = np.sin(2 * np.pi * np.cumsum(f0 * (1 + 1.2 * np.exp(-t / 0.03))) / SAMPLE_RATE)
    slap = _band(_noise(voice, len(t)), 300, _between(voice, 1500, 3500)) * np.exp(-t / 0.035)
    snare = _between(voice, 0.5, 1.2)
    low = (thump * np.exp(-t / 0.09) + 0.4 * slap).astype(np.float32)
    high = (0.5 * thump * np.exp(-t / 0.05) + snare * slap).astype(np.float32)
    return _place([low, high, high, low, high], _between(voice, 0.16, 0.26), event, n, 0.04)


def _flute(voice, event, n):
    f0 = _between(voice, 520, 900)
    scale = f0 * 2 ** (np.array([0, 4, 7, 5, 2, 9]) / 12)
    t = np.arange(n) / SAMPLE_RATE
    vibrato = 1 + 0.012 * np.sin(2 * np.pi * _between(voice, 4.5, 6.5) * t)
    pitch = _glide(scale, _between(voice, 0.45, 0.9), event, n) * vibrato
    tone = _oscillate(pitch, (1, _between(voice, 0.1, 0.3), 0.06), n)
    breath = _band(_noise(event, n), f0, 4 * f0)
    return tone * (0.85 + 10 * (vibrato - 1)).astype(np.float32) + 0.3 * breath


def _guitar(voice, event, n):
    f0, bright = _between(voice, 98, 165), _between(voice, 0.75, 1.0)
    steps = 2 ** (np.array([0, 7, 12, 16, 19, 12, 15, 7])[: int(voice.integers(4, 9))] / 12)
    notes = [_plucked(f0 * s, bright, 1.6, 1.0, voice) for s in steps]
    return _place(notes, _between(voice, 0.2, 0.3), event, n)


def _harp(voice, event, n):
    f0 = _between(voice, 480, 800)
    steps = 2 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16, 19, 21]) / 12)
    notes = [_partials(f0 * s, (1, 2, 3), (1, 0.35, 0.12), (0.3, 0.15, 0.08), 0.7) for s in steps]
    return _place(notes, _between(voice, 0.075, 0.12), event, n, 0.1)


def _helicopter(voice, event, n):
    rate = _between(voice, 10, 17)
    phase = (np.cumsum(np.full(n, rate / SAMPLE_RATE)) + event.random()) % 1
    chop = np.exp(-phase * _between(voice, 4, 7)).astype(np.float32)
    wash = _band(_noise(event, n), 150, _between(voice, 900, 3000))
    whine = _oscillate(_between(voice, 1500, 2600), (1,), n)
    return wash * (0.06 + chop) + 0.02 * whine


def _piano(voice, event, n):
    f0 = _between(voice, 200, 330)
    k = np.arange(1, 9)
    stiff = k * np.sqrt(1 + 4e-4 * k**2)
    chords = []
    for shape in ((0, 4, 7), (0, 5, 9), (2, 7, 11), (0, 3, 7))[: int(voice.integers(2, 5))]:
        parts = [_partials(f0 * 2 ** (s / 12), stiff, 0.75**k, 0.55 / k**0.7, 0.9) for s in shape]
        chords.append(np.sum(parts, 0))
    return _place(chords, _between(voice, 0.4, 0.55), event, n, 0.03)


def _saxophone(voice, event, n):
    f0 = _between(voice, 200, 340)
    scale = f0 * 2 ** (np.array([0, 3, 5, 7, 10, 7, 5]) / 12)
    t = np.arange(n) / SAMPLE_RATE
    pitch = _glide(scale, _between(voice, 0.25, 0.5), event, n)
    pitch = pitch * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * t))
    buzz = _oscillate(pitch, 1 / np.arange(1, 19) ** _between(voice, 0.25, 0.6), n)
    growl = 1 + 0.5 * np.sin(2 * np.pi * _between(voice, 24, 36) * t)
    formant = _between(voice, 900, 1500)
    shaped = _band(buzz, 0.7 * formant, 1.5 * formant) + 0.25 * buzz
    return (shaped * growl + 0.1 * _noise(event, n)).astype(np.float32)


_VOICES = {
    "bell": _bell,
    "bird": _bird,
    "boat": _boat,
    "car": _car,
    "clock": _clock,
    "drum": _drum,
    "flute": _flute,
    "guitar": _guitar,
    "harp": _harp,
    "helicopter": _helicopter,
    "piano": _piano,
    "saxophone": _saxophone,
}


def synthesise(
    class_index: int, voice: np.random.Generator, event: np.random.Generator, num_samples: int
) -> np.ndarray:
    """The voice of an instance over a whole clip.

    Args:
      class_index: 1-based class.
      voice: the instance's own stream (pitch, rate, filter).
      event: the clip's stream (onsets, melody, breath).
      num_samples: length at 16 kHz.

    Returns:
      (num_samples,) float32 of equal loudness over classes: RMS 1, less where single beats would
      otherwise peak above 6.
    """
    signal = _VOICES[CLASS_NAMES[class_index]](voice, event, num_samples)
    rms = np.sqrt(np.mean(np.square(signal, dtype=np.float64)))
    return (signal / max(rms, np.abs(signal).max() / 6.0)).astype(np.float32)
