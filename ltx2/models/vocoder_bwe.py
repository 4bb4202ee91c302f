"""The vocoder of LTX-2.3 and 2.5: a 16 kHz generator whose bandwidth a second one extends.

The extension hears the spectrogram of the 16 kHz waveform and adds what is missing to its
resampled version. Source: spec audio.md 6.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from einops import rearrange

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.audio_vae_config import required
from ltx2.models.mel import LOG_FLOOR
from ltx2.models.snake import depthwise
from ltx2.models.vocoder import Generator, GeneratorConfig
from ltx2.nn.module import Param
from ltx2.ops import Array

SINC_ZEROS = 6
ROLLOFF = 0.99


@dataclass(frozen=True)
class ExtendedVocoderConfig:
    """Both generators and the spectrogram between them (lengths in samples at the low rate)."""

    base: GeneratorConfig
    extension: GeneratorConfig
    n_fft: int
    hop: int

    @classmethod
    def from_metadata(cls, section: dict[str, Any], mel_bins: int) -> ExtendedVocoderConfig:
        """`section` holds `vocoder` and `bwe`. Raises UserError where rates do not fit."""
        bwe = required(section, "bwe")
        low = required(bwe, "input_sampling_rate")
        high = required(bwe, "output_sampling_rate")
        bins = required(bwe, "num_mels")
        config = cls(
            base=GeneratorConfig.from_metadata(required(section, "vocoder"), mel_bins, low, True),
            extension=GeneratorConfig.from_metadata(bwe, bins, high, True, limited=False),
            n_fft=required(bwe, "n_fft"),
            hop=required(bwe, "hop_length"),
        )
        if high % low or config.extension.hop != config.hop * config.ratio:
            raise UserError(
                f"vocoder metadata makes {config.extension.hop} samples of {config.hop} between"
                f" {low} and {high} Hz; the upsampling rates must multiply to hop * {high} / {low}"
            )
        return config

    @property
    def rate(self) -> int:
        """Samples per second that come out."""
        return self.extension.rate

    @property
    def ratio(self) -> int:
        """Samples that come out per sample of the base generator."""
        return self.extension.rate // self.base.rate


def sinc_kernel(ratio: int) -> np.ndarray:
    """(1, 1, 2 * reach * ratio + 1): Hann-windowed sinc that upsamples by `ratio`."""
    reach = math.ceil(SINC_ZEROS / ROLLOFF)
    t = (np.arange(2 * reach * ratio + 1) / ratio - reach) * ROLLOFF
    window = np.cos(np.pi * np.clip(t, -SINC_ZEROS, SINC_ZEROS) / SINC_ZEROS / 2) ** 2
    return (np.sinc(t) * window * ROLLOFF / ratio).astype(np.float32)[None, None]


@dataclass
class SincUpsample:
    """(B, T, C) -> (B, ratio * T, C), borders repeated. The kernel is not stored in files."""

    kernel: Array
    ratio: int

    @classmethod
    def declare(cls, ratio: int) -> SincUpsample:
        build = partial(sinc_kernel, ratio)
        return cls(Param(build().shape, kind="conv", default=build), ratio)

    def __call__(self, x: Array) -> Array:
        channels, ratio = x.shape[-1], self.ratio
        border = math.ceil(SINC_ZEROS / ROLLOFF)
        padded = ops.pad(x, [(0, 0), (border, border), (0, 0)], "edge")
        kernel = depthwise(self.kernel, channels) * ratio
        y = ops.conv_transpose1d(padded, kernel, stride=ratio, groups=channels)
        first = 2 * border * ratio
        return y[:, first : first + x.shape[1] * ratio]


@dataclass
class FourierBasis:
    """Windowed cosines, then sines, as convolution kernels: (n_fft + 2, 1, n_fft)."""

    forward_basis: Array


@dataclass
class MelTransform:
    """Causal log-mel spectrogram: (B, T, C) -> (B, T / hop, M, C)."""

    mel_basis: Array  # (M, n_fft / 2 + 1)
    stft_fn: FourierBasis
    hop: int

    @classmethod
    def declare(cls, bins: int, n_fft: int, hop: int) -> MelTransform:
        half = n_fft // 2 + 1
        basis = FourierBasis(Param((2 * half, 1, n_fft), kind="conv"))
        return cls(Param((bins, half)), basis, hop)

    def __call__(self, x: Array) -> Array:
        half = self.mel_basis.shape[-1]
        mono = rearrange(x, "b t c -> (b c) t 1")
        past = 2 * (half - 1) - self.hop
        frames = ops.conv1d(mono, self.stft_fn.forward_basis, stride=self.hop, pad=(past, 0))
        real, imaginary = frames[..., :half], frames[..., half:]
        magnitude = ops.sqrt(real * real + imaginary * imaginary)
        mel = ops.log(ops.clamp(ops.linear(magnitude, self.mel_basis), low=LOG_FLOOR))
        return rearrange(mel, "(b c) t m -> b t m c", c=x.shape[-1])


@dataclass
class ExtendedVocoder:
    """Log-mel (B, T, M, 2) -> waveform (B, N, 2) at `rate`, in [-1, 1]."""

    vocoder: Generator
    bwe_generator: Generator
    mel_stft: MelTransform
    resampler: SincUpsample
    config: ExtendedVocoderConfig

    @classmethod
    def declare(cls, config: ExtendedVocoderConfig) -> ExtendedVocoder:
        return cls(
            Generator.declare(config.base),
            Generator.declare(config.extension),
            MelTransform.declare(config.extension.mel_bins, config.n_fft, config.hop),
            SincUpsample.declare(config.ratio),
            config,
        )

    @property
    def rate(self) -> int:
        """Samples per second that come out."""
        return self.config.rate

    def __call__(self, mel: Array) -> Array:
        low = self.vocoder(mel)
        return self.extend(low)[:, : low.shape[1] * self.config.ratio]

    def extend(self, low: Array) -> Array:
        """The base generator's waveform (B, L, 2) -> (B, ratio * L, 2), L rounded up to hops."""
        whole = -(-low.shape[1] // self.config.hop) * self.config.hop
        low = ops.pad(low, [(0, 0), (0, whole - low.shape[1]), (0, 0)])
        missing = self.bwe_generator(self.mel_stft(low))
        return ops.clamp(missing + self.resampler(low), -1.0, 1.0)
