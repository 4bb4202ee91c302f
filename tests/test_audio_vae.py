"""Facts about the audio VAE, its metadata and the functions that use it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from conftest import make_backend

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.audio_vae import AudioEncoder, LatentStatistics
from ltx2.models.audio_vae_config import AudioVaeConfig
from ltx2.nn.module import params
from ltx2.pipelines.components import audio
from ltx2.weights.header import read_header

GENERATIONS = {
    "2.0": "ltx-2-tiny.safetensors",
    "2.3": "ltx-2.3-tiny.safetensors",
    "2.5": "ltx-2.5-tiny/vae/ltx-2.5-tiny-audio-vae.safetensors",
}


def tiny_header(golden, generation: str = "2.0"):
    return read_header(golden / "checkpoints" / GENERATIONS[generation])


@pytest.fixture
def section(golden) -> dict:
    return copy.deepcopy(tiny_header(golden).config["audio_vae"])


@pytest.mark.parametrize(("generation", "rate"), [("2.0", 24000), ("2.3", 48000), ("2.5", 48000)])
def test_geometry_follows_from_the_metadata(golden, generation, rate):
    geometry = audio.audio_geometry(tiny_header(golden, generation))
    assert (geometry.latent_channels, geometry.latent_bins) == (2, 16)
    assert geometry.token_features == 32
    assert geometry.latents_per_second == 25.0
    assert (geometry.sample_rate, geometry.output_rate) == (16000, rate)


def test_stated_output_rate_wins_over_the_derived_one(golden):
    header = tiny_header(golden)
    header.config["vocoder"]["output_sampling_rate"] = 22050
    assert audio.audio_geometry(header).output_rate == 22050


def test_absent_attention_keys_mean_attention(section):
    model = section["model"]["params"]["ddconfig"]
    del model["mid_block_add_attention"], model["attn_resolutions"]
    model["resolution"] = 64
    config = AudioVaeConfig.from_metadata(section)
    names = [slot.name for slot in params(AudioEncoder.declare(config))]
    queries = [name for name in names if name.endswith("q.bias")]
    # Levels of 32 and 16 samples, one block each.
    assert queries == ["down.1.attn.0.q.bias", "down.2.attn.0.q.bias", "mid.attn_1.q.bias"]


@pytest.mark.parametrize("key", ["ch", "z_channels", "mel_bins", "norm_type"])
def test_missing_key_is_named(section, key):
    del section["model"]["params"]["ddconfig"][key]
    with pytest.raises(UserError, match=f"'{key}'"):
        AudioVaeConfig.from_metadata(section)


def test_group_norm_and_width_causality_are_refused(section):
    for key, value in (("norm_type", "group"), ("causality_axis", "width")):
        changed = copy.deepcopy(section)
        changed["model"]["params"]["ddconfig"][key] = value
        with pytest.raises(UserError, match=f"{key}='{value}'"):
            AudioVaeConfig.from_metadata(changed)


def test_statistics_count_channels_slowest(backend):
    values = np.arange(6, dtype=np.float32)  # two channels of three bins
    statistics = LatentStatistics(backend.array(values), backend.array(values + 1))
    latent = statistics.restore(ops.zeros((1, 1, 3, 2), backend.array(values)))
    np.testing.assert_array_equal(backend.numpy(latent)[0, 0], [[0, 3], [1, 4], [2, 5]])


def test_encoder_is_causal_in_time(backend, golden):
    encoder = audio.load_audio_encoder(tiny_header(golden), backend, "fp32")
    mel = np.random.default_rng(0).normal(size=(1, 17, 64, 2)).astype(np.float32)
    changed = mel.copy()
    changed[:, 9:] += 1
    a, b = (backend.numpy(encoder(backend.array(x))) for x in (mel, changed))
    # Latent i ends with spectrogram frame 4 i.
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert np.abs(a[:, 3:] - b[:, 3:]).max() > 1e-3


def test_decoded_length_is_four_frames_per_latent_less_three(backend, golden):
    header = tiny_header(golden)
    decoder = audio.load_audio_decoder(header, backend, "fp32")
    vocoder = audio.load_vocoder(header, backend)
    latent = np.random.default_rng(0).normal(size=(1, 6, 16, 2)).astype(np.float32)
    waveform, rate = audio.decode_audio(decoder, vocoder, backend.array(latent))
    assert (waveform.shape, waveform.dtype, rate) == ((2, (4 * 6 - 3) * 240), np.float32, 24000)


def test_mono_is_encoded_as_two_equal_channels(golden):
    encoder = audio.load_audio_encoder(tiny_header(golden), make_backend("torch"), "fp32")
    mono = np.random.default_rng(0).uniform(-1, 1, (1, 4000)).astype(np.float32)
    stereo = ops.to_numpy(audio.encode_audio(encoder, np.repeat(mono, 2, 0), 24000))
    np.testing.assert_array_equal(ops.to_numpy(audio.encode_audio(encoder, mono, 24000)), stereo)


def test_half_precision_decoder_feeds_a_float32_vocoder(backend, golden):
    header = tiny_header(golden)
    vocoder = audio.load_vocoder(header, backend)
    assert "float32" in str(vocoder.conv_pre.weight.dtype)
    latent = np.random.default_rng(0).normal(size=(1, 6, 16, 2)).astype(np.float32)
    exact, rounded = (
        audio.decode_audio(
            audio.load_audio_decoder(header, backend, dtype), vocoder, backend.array(latent)
        )[0]
        for dtype in ("fp32", "bf16")
    )
    assert 0 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()


def test_file_without_audio_metadata_names_the_section(golden):
    header = read_header(golden / "checkpoints" / "spatial-upscaler-x2-tiny.safetensors")
    with pytest.raises(UserError, match="'audio_vae'"):
        audio.audio_geometry(header)
