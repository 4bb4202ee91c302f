"""Loading the audio VAE and the vocoder; waveforms <-> latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.media.audio import resample, to_stereo
from ltx2.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2.models.audio_vae_config import AudioVaeConfig, required
from ltx2.models.mel import mel_spectrogram
from ltx2.models.vocoder import Generator, GeneratorConfig
from ltx2.models.vocoder_bwe import ExtendedVocoder, ExtendedVocoderConfig
from ltx2.ops import Array
from ltx2.weights.build import Backend, Prefixes, load
from ltx2.weights.header import Header

Vocoder = Generator | ExtendedVocoder

_STATISTICS: dict[str, tuple[str, ...]] = {
    "per_channel_statistics": ("audio_vae.per_channel_statistics.", "per_channel_statistics.")
}
_ENCODER = Prefixes(("audio_vae.encoder.", "encoder."), _STATISTICS)
_DECODER = Prefixes(("audio_vae.decoder.", "decoder."), _STATISTICS)
# Once: in the second layout the base generator is `vocoder.vocoder.`.
_VOCODER = Prefixes(("vocoder.",))


@dataclass(frozen=True)
class AudioGeometry:
    """Sizes of the audio stream that follow from the metadata alone."""

    latent_channels: int
    latent_bins: int
    sample_rate: int
    hop: int
    scale: int
    output_rate: int

    @property
    def token_features(self) -> int:
        """Features of one audio token, which is one latent frame."""
        return self.latent_channels * self.latent_bins

    @property
    def latents_per_second(self) -> float:
        """25 in every released checkpoint."""
        return self.sample_rate / (self.hop * self.scale)


def audio_config(header: Header) -> AudioVaeConfig:
    """Architecture of the audio VAE. Raises UserError when the metadata lacks it."""
    return AudioVaeConfig.from_metadata(required(header.config, "audio_vae"))


def vocoder_config(header: Header) -> GeneratorConfig | ExtendedVocoderConfig:
    """Architecture of the vocoder; bandwidth extension where the metadata has a `bwe` section."""
    section, mel = required(header.config, "vocoder"), audio_config(header).mel
    if "bwe" in section:
        return ExtendedVocoderConfig.from_metadata(section, mel.bins)
    hop = math.prod(required(section, "upsample_rates"))
    # LTX-2 does not state the rate: 100 spectrogram frames per second, 240 samples each.
    rate = section.get("output_sampling_rate", mel.sample_rate * hop // mel.hop)
    return GeneratorConfig.from_metadata(section, mel.bins, rate, amp=False)


def audio_geometry(header: Header) -> AudioGeometry:
    """Sizes of latents, tokens and waveforms without reading a weight."""
    vae, vocoder = audio_config(header), vocoder_config(header)
    return AudioGeometry(
        latent_channels=vae.latent_channels,
        latent_bins=vae.latent_bins,
        sample_rate=vae.mel.sample_rate,
        hop=vae.mel.hop,
        scale=vae.scale,
        output_rate=vocoder.rate,
    )


def load_audio_encoder(header: Header, backend: Backend, dtype: str) -> AudioEncoder:
    """The encoder with its latent statistics."""
    module = AudioEncoder.declare(audio_config(header))
    return load(module, header, _ENCODER, backend, dtype, "the audio VAE encoder")


def load_audio_decoder(header: Header, backend: Backend, dtype: str) -> AudioDecoder:
    """The decoder with its latent statistics."""
    module = AudioDecoder.declare(audio_config(header))
    return load(module, header, _DECODER, backend, dtype, "the audio VAE decoder")


def load_vocoder(header: Header, backend: Backend) -> Vocoder:
    """The vocoder, always in float32: half precision damages the spectrum."""
    config = vocoder_config(header)
    module: Vocoder
    if isinstance(config, ExtendedVocoderConfig):
        module = ExtendedVocoder.declare(config)
    else:
        module = Generator.declare(config)
    return load(module, header, _VOCODER, backend, "fp32", "the vocoder")


def decode_audio(decoder: AudioDecoder, vocoder: Vocoder, latent: Array) -> tuple[np.ndarray, int]:
    """Latent (1, T, M, Ca) -> float32 waveform (2, N) and its rate."""
    mel = decoder(_in_dtype_of(decoder, latent))
    waveform = vocoder(ops.f32(mel))
    return np.ascontiguousarray(ops.to_numpy(waveform)[0].T), vocoder.rate


def encode_audio(encoder: AudioEncoder, waveform: np.ndarray, rate: int) -> Array:
    """Waveform (1 or 2, N) at `rate` -> latent (1, T, M, Ca), one latent per 40 ms begun."""
    config = encoder.config.mel
    waveform = resample(to_stereo(waveform), rate, config.sample_rate)
    mel = ops.asarray(mel_spectrogram(waveform, config)[None], _weight(encoder))
    return encoder(_in_dtype_of(encoder, mel))


def _weight(model: AudioEncoder | AudioDecoder) -> Any:
    return model.conv_in.conv.weight


def _in_dtype_of(model: AudioEncoder | AudioDecoder, x: Array) -> Array:
    return ops.like(x, _weight(model))
