"""Facts about log-mel spectrograms."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2.errors import UserError
from ltx2.models.mel import MelConfig, filter_bank, mel_spectrogram

CONFIG = MelConfig(16000, n_fft=1024, win_length=1024, hop=160, bins=64, f_min=0, f_max=8000)


def tone(hertz: float, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / CONFIG.sample_rate)[None]


def test_a_second_of_audio_has_101_frames():
    assert mel_spectrogram(tone(440, 16000), CONFIG).shape == (101, 64, 1)


def test_silence_is_the_logarithm_of_the_floor():
    mel = mel_spectrogram(np.zeros((2, 1600), np.float32), CONFIG)
    np.testing.assert_allclose(mel, np.log(1e-5), rtol=1e-6)


@pytest.mark.parametrize("hertz", [300, 1000, 4000])
def test_a_tone_is_loudest_in_the_band_around_it(hertz):
    # Interior frames: the reflected border of a tone is no tone.
    loudest = mel_spectrogram(tone(hertz, 8000), CONFIG)[10:-10, :, 0].argmax(axis=1)
    weights = filter_bank(CONFIG)[round(hertz * 1024 / 16000)]
    assert set(loudest) <= set(np.flatnonzero(weights))


def test_bands_have_equal_area():
    step = CONFIG.sample_rate / CONFIG.n_fft
    wide = filter_bank(CONFIG)[:, 30:]  # narrow bands are sampled too coarsely to sum up
    np.testing.assert_allclose(wide.sum(axis=0) * step, 1, atol=0.02)


def test_channels_are_transformed_independently():
    stereo = np.concatenate([tone(300, 3200), tone(2000, 3200)])
    both = mel_spectrogram(stereo, CONFIG)
    np.testing.assert_array_equal(both[..., 1:], mel_spectrogram(stereo[1:], CONFIG))


def test_audio_shorter_than_the_border_names_the_length_needed():
    with pytest.raises(UserError, match="more than 512 samples"):
        mel_spectrogram(np.zeros((2, 512), np.float32), CONFIG)
