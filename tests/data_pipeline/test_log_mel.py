from pathlib import Path

import numpy as np
import pytest

from ssp_jax.data.log_mel import (
    SILENCE,
    log_mel_windows,
    noise_windows,
    silent_windows,
    windows_for_frames,
)
from ssp_jax.errors import UserError

GOLDEN = Path(__file__).parents[1] / "data/golden/audio_frontend.npz"
SIGNALS = ("one_second", "two_seconds", "exactly_96_frames", "stereo", "silence")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as stored:
        return dict(stored)


@pytest.mark.parametrize("signal", SIGNALS)
def test_official_front_end_is_reproduced(golden, signal):
    expected = golden[f"{signal}/log_mel"][:, 0]
    windows = log_mel_windows(golden[f"{signal}/pcm_int16"])
    assert windows.dtype == np.float32
    np.testing.assert_allclose(windows, expected, atol=1e-5)
    as_float = golden[f"{signal}/pcm_int16"] / 32768.0
    np.testing.assert_allclose(log_mel_windows(as_float), expected, atol=1e-5)


def test_every_stored_signal_is_tested(golden):
    assert {key.split("/")[0] for key in golden if "/" in key} == set(SIGNALS)


def test_window_counts(golden):
    counts = [len(log_mel_windows(np.zeros(n, np.int16))) for n in golden["num_samples"]]
    assert counts == golden["num_examples"].tolist()


@pytest.mark.parametrize("samples", [0, 1, 399, 400])
def test_too_little_sound_gives_no_window(samples):
    assert log_mel_windows(np.zeros(samples, np.int16)).shape == (0, 96, 64)


def test_silence_is_the_logarithm_of_the_offset():
    np.testing.assert_allclose(log_mel_windows(np.zeros(16_000, np.int16)), silent_windows(1))


def test_noise_is_white_and_of_its_level():
    loud, quiet = (noise_windows(3, np.random.default_rng(0), level) for level in (1.0, 0.1))
    assert loud.shape == (3, 96, 64)
    assert loud.dtype == np.float32
    # A tenth of the amplitude is a tenth of every band.
    np.testing.assert_allclose(np.exp(quiet) - 0.01, 0.1 * (np.exp(loud) - 0.01), rtol=1e-3)
    # White: a band has what its width in hertz gives; the widest is about ten times the narrowest.
    bands = np.exp(loud).mean(axis=(0, 1))
    assert 5 < bands[-1] / bands[0] < 15


@pytest.mark.parametrize("wrong", [np.zeros(16_000, np.int32), np.zeros((2, 2, 2), np.int16)])
def test_other_waveforms_are_refused(wrong):
    with pytest.raises(ValueError, match="waveform"):
        log_mel_windows(wrong)


def test_short_sound_is_filled_as_chosen():
    windows = np.random.default_rng(0).normal(size=(3, 96, 64)).astype(np.float32)
    for short, filler in (("repeat", windows[2]), ("silence", SILENCE), ("zeros", 0.0)):
        filled = windows_for_frames(windows, 5, short)
        assert filled.shape == (5, 96, 64)
        assert filled.dtype == np.float32
        np.testing.assert_array_equal(filled[:3], windows)
        np.testing.assert_allclose(filled[3:], np.broadcast_to(filler, (2, 96, 64)), rtol=1e-6)
    np.testing.assert_array_equal(windows_for_frames(windows, 2), windows[:2])
    np.testing.assert_array_equal(windows_for_frames(windows[:0], 2), silent_windows(2))
    with pytest.raises(UserError, match="loop"):
        windows_for_frames(windows, 2, "loop")
