"""Facts about the vocoders and their parts."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from ltx2.errors import UserError
from ltx2.models.snake import (
    AntiAliasedSnake,
    DoubleRate,
    HalfRate,
    LowPass,
    Snake,
    antialias_filter,
)
from ltx2.models.vocoder import GeneratorConfig
from ltx2.models.vocoder_bwe import ExtendedVocoderConfig, SincUpsample, sinc_kernel
from ltx2.pipelines.components.audio import load_vocoder
from ltx2.weights.header import read_header


def header(golden, generation: str = "2.3"):
    name = {"2.0": "ltx-2-tiny.safetensors", "2.3": "ltx-2.3-tiny.safetensors"}[generation]
    return read_header(golden / "checkpoints" / name)


def placed(backend, kernel: np.ndarray):
    return backend.place(backend.array(kernel), "fp32", "conv")


def slow_wave(samples: int, channels: int) -> np.ndarray:
    phase = 2 * np.pi * np.arange(samples)[:, None] / 40 + np.arange(channels)
    return np.sin(phase).astype(np.float32)[None]


def test_rebuilt_filter_has_the_published_taps():
    half = [0.0020290, 0.0093895, -0.0255435, -0.0576574, 0.1285726, 0.4432098]
    np.testing.assert_allclose(antialias_filter()[0, 0], [*half, *half[::-1]], atol=5e-8)


def test_rebuilt_filter_is_the_stored_one(backend, golden):
    vocoder = load_vocoder(header(golden), backend)
    stored = backend.numpy(vocoder.vocoder.act_post.upsample.filter).reshape(-1)
    # Files round it to bfloat16.
    np.testing.assert_allclose(stored, antialias_filter()[0, 0], rtol=4e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_doubling_and_halving_the_rate_returns_a_slow_wave(backend, channels):
    kernel = placed(backend, antialias_filter())
    x = slow_wave(200, channels)
    doubled = DoubleRate(kernel)(backend.array(x))
    assert doubled.shape == (1, 400, channels)
    back = backend.numpy(HalfRate(LowPass(kernel))(doubled))
    np.testing.assert_allclose(back[:, 10:-10], x[:, 10:-10], atol=5e-3)


def test_constant_passes_the_whole_activation_up_to_the_border(backend):
    kernel, zero = placed(backend, antialias_filter()), backend.array(np.zeros(2, np.float32))
    act = AntiAliasedSnake(Snake(zero, zero), DoubleRate(kernel), HalfRate(LowPass(kernel)))
    x = np.full((1, 30, 2), 0.5, np.float32)
    got = backend.numpy(act(backend.array(x)))
    np.testing.assert_allclose(got, 0.5 + np.sin(0.5) ** 2, atol=2e-3)


def test_snake_scales_frequency_and_amplitude_per_channel(backend):
    a, b = np.log([2.0, 1.0]).astype(np.float32), np.log([4.0, 1.0]).astype(np.float32)
    x = np.array([[[0.3, -0.7]]], np.float32)
    got = backend.numpy(Snake(backend.array(a), backend.array(b))(backend.array(x)))
    want = [0.3 + np.sin(0.6) ** 2 / 4, -0.7 + np.sin(-0.7) ** 2]
    np.testing.assert_allclose(got[0, 0], want, rtol=1e-6)


@pytest.mark.parametrize("ratio", [2, 3])
def test_sinc_upsampling_keeps_a_slow_wave(backend, ratio):
    resampler = SincUpsample(placed(backend, sinc_kernel(ratio)), ratio)
    got = backend.numpy(resampler(backend.array(slow_wave(120, 2))))
    assert got.shape == (1, 120 * ratio, 2)
    want = np.sin(2 * np.pi * np.arange(120 * ratio)[:, None] / (40 * ratio) + np.arange(2))
    inside = slice(20 * ratio, -20 * ratio)
    np.testing.assert_allclose(got[0, inside], want[inside], atol=2e-3)


def test_waveform_of_a_broken_last_hop_is_cut_to_its_length(backend, golden):
    vocoder = load_vocoder(header(golden), backend)
    low = np.random.default_rng(0).uniform(-1, 1, (1, 200, 2)).astype(np.float32)
    assert vocoder.extend(backend.array(low)).shape == (1, 240 * 3, 2)


def test_extended_waveform_stays_within_one(backend, golden):
    vocoder = load_vocoder(header(golden), backend)
    mel = np.random.default_rng(0).normal(5, 3, (1, 6, 64, 2)).astype(np.float32)
    waveform = backend.numpy(vocoder(backend.array(mel)))
    assert waveform.shape == (1, 6 * 480, 2) and np.abs(waveform).max() <= 1


def test_unknown_blocks_and_mono_are_refused(golden):
    section = header(golden, "2.0").config["vocoder"]
    for key, value in (("resblock", "2"), ("stereo", False)):
        with pytest.raises(UserError, match=key):
            GeneratorConfig.from_metadata(section | {key: value}, 64, 24000, amp=False)


def test_snake_without_its_own_beta_is_refused(golden):
    section = copy.deepcopy(header(golden).config["vocoder"])
    section["bwe"]["activation"] = "snake"
    with pytest.raises(UserError, match="activation='snake'"):
        ExtendedVocoderConfig.from_metadata(section, 64)


def test_rates_that_do_not_multiply_to_the_hop_are_refused(golden):
    section = copy.deepcopy(header(golden).config["vocoder"])
    section["bwe"]["output_sampling_rate"] = 32000
    with pytest.raises(UserError, match="16000 and 32000 Hz"):
        ExtendedVocoderConfig.from_metadata(section, 64)
