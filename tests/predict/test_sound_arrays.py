"""Sound given as an array: heard as it is, or refused in words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ssp_jax.errors import UserError
from ssp_jax.predict.clips import as_waveform

TONE = (8000 * np.sin(np.arange(1600) / 5)).astype(np.int16)


@pytest.mark.parametrize("channels", [2, 1])
def test_channels_first_are_refused(channels):
    with pytest.raises(UserError, match=r"channels first.*pass sound\.T"):
        as_waveform(np.stack([TONE] * channels), 16_000)


def test_16_bit_numbers_as_floats_are_refused():
    with pytest.raises(UserError, match=r"floats up to 7999; expected -1\.\.1\. Divide int16"):
        as_waveform(TONE.astype(np.float32), 16_000)


def test_what_is_a_little_too_loud_is_clipped():
    loud = np.array([1.5, -1.5, 0.5], np.float32)
    np.testing.assert_array_equal(as_waveform(loud, 16_000), [32767, -32768, 16384])


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.int16, np.float32, np.float64, np.int32, np.uint8]),
        arrays.array_shapes(min_dims=1, max_dims=3, max_side=6),
    )
)
def test_any_array_is_heard_or_refused(sound):
    try:
        heard = as_waveform(sound, 16_000)
    except UserError:
        return
    assert sound.dtype in (np.int16, np.float32, np.float64)
    full = 32768.0 if sound.dtype == np.int16 else 1.0
    samples = sound.astype(np.float64) / full
    mono = samples if sound.ndim == 1 else samples.mean(axis=1)
    assert np.abs(samples).max() <= 4
    np.testing.assert_allclose(heard, np.clip(mono * 32768, -32768, 32767), atol=0.6)
