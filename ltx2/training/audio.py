"""Training of the audio VAE (on spectrograms) and the vocoder (on waveforms)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.models.audio_vae import AudioDecoder, AudioEncoder
from ltx2.models.mel import LOG_FLOOR, MelConfig, mel_spectrogram
from ltx2.models.vocoder import Generator

STATISTICS_MOMENTUM = 0.02
# Weight of the penalty that keeps the raw latent's deviation near one.
SPREAD_PENALTY = 0.02
# Natural log of the magnitude from which a bin counts as loud.
INPUT_SCALE = 0.25
LOUD, LOUD_WEIGHT, STEREO_WEIGHT = -6.0, 2.0, 1.0
QUIET_POWER = 1e-4
STFT_SIZES = (256, 512, 1024)
# Below this magnitude nothing is audible: logarithms of smaller ones are not compared.
STFT_FLOOR = 1e-3


@dataclass(frozen=True)
class Sounds:
    """Waveforms (N, 2, S) and their log-mel spectrograms (N, T, M, 2)."""

    waves: np.ndarray
    mels: np.ndarray
    config: MelConfig

    @classmethod
    def of(cls, waves: Sequence[np.ndarray], config: MelConfig) -> Sounds:
        mels = np.stack([mel_spectrogram(wave, config) for wave in waves])
        return cls(np.stack(waves), mels, config)

    def batch(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pieces of `length` spectrogram frames: waves (B, length * hop, 2), mels (B, T, M, 2)."""
        waves, mels, hop = [], [], self.config.hop
        for index in rng.integers(0, len(self.waves), count):
            # The first frames sound like no others: there the sound begins.
            most = self.waves.shape[-1] // hop - length
            first = int(rng.integers(0, most + 1)) if rng.random() < 0.75 else 0
            waves.append(self.waves[index, :, first * hop : (first + length) * hop].T)
            mels.append(self.mels[index, first : first + length])
        return np.stack(waves), np.stack(mels)


@dataclass
class AudioVaeObjective:
    """L1 + MSE of log-mel spectrograms; the latent is noised so that small errors do not matter.

    The statistics of the file are those of the raw latent, measured on the way.
    """

    encoder: AudioEncoder
    decoder: AudioDecoder
    sounds: Sounds
    held_out: Sounds
    batch: int = 6
    length: int = 81
    noise: float = 0.15
    mean: Tensor = field(init=False)
    variance: Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape = self.encoder.config.latent_bins, self.encoder.config.latent_channels
        self.mean, self.variance = torch.zeros(shape), torch.ones(shape)

    @property
    def modules(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def trains(self, name: str) -> bool:
        return "per_channel_statistics" not in name

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "variance": self.variance}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.mean, self.variance = state["mean"], state["variance"]

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        _, host = self.sounds.batch(rng, self.batch, self.length)
        mel = torch.from_numpy(unbalanced(host, rng))
        raw = self.encoder(mel)
        mean, variance = raw.mean((0, 1)), raw.var((0, 1), unbiased=False)
        with torch.no_grad():
            self.mean = torch.lerp(self.mean, mean, STATISTICS_MOMENTUM)
            self.variance = torch.lerp(self.variance, variance, STATISTICS_MOMENTUM)
        spread = torch.from_numpy(rng.uniform(0, self.noise, (len(raw), 1, 1, 1))).float()
        noise = torch.from_numpy(rng.standard_normal(raw.shape, np.float32))
        out = self.decoder(raw + spread * noise * variance.detach().sqrt())
        mel = mel[:, : out.shape[1]]
        error, weight = out - mel, 1 + LOUD_WEIGHT * (mel > LOUD)
        balance = stereo_error(error, mel)
        penalty = (variance + 1e-6).log().square().mean() + mean.square().mean()
        total = (weight * (error.abs() + 0.5 * error.square())).mean()
        total = total + STEREO_WEIGHT * balance + SPREAD_PENALTY * penalty
        figures = {"mel_l1": float(error.detach().abs().mean()), "stereo": float(balance.detach())}
        return total, figures

    def evaluate(self) -> dict[str, float]:
        """Mean absolute error of the log-mel of held-out sounds, and of the stereo difference."""
        mel = torch.from_numpy(self.held_out.mels)
        out = self.decoder(self.encoder(mel))
        mel = mel[:, : out.shape[1]]
        error = out - mel
        stereo = float(stereo_error(error, mel))
        return {"mel_l1": float(error.abs().mean()), "stereo": stereo}

    @torch.no_grad()
    def write_statistics(self) -> None:
        """Put the measured statistics into both halves: channel slowest, as files store them."""
        mean, std = (
            x.swapaxes(0, 1).reshape(-1).clone() for x in (self.mean, self.variance.sqrt())
        )
        for half in (self.encoder, self.decoder):
            half.per_channel_statistics.mean = mean.clone()
            half.per_channel_statistics.std = std.clone()


@torch.no_grad()
def centre(layer: Any, value: float) -> None:
    """Fit a fresh convolution to log-mel spectrograms: `value` everywhere gives zero.

    They are mostly floor, far from zero, which hides what differs from it, and vary by several
    nepers.
    """
    layer.weight *= INPUT_SCALE
    layer.bias -= value * layer.weight.flatten(1).sum(1)


def unbalanced(mels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the spectrograms (B, T, M, 2) with one side up to 4 nepers (35 dB) softer."""
    offset = rng.uniform(-4, 0, (len(mels), 1, 1, 2)) * (rng.random((len(mels), 1, 1, 2)) < 0.3)
    return np.maximum(mels + offset, np.log(LOG_FLOOR)).astype(np.float32)


def stereo_error(error: Tensor, mel: Tensor) -> Tensor:
    """Mean error of the difference left - right where either side of `mel` (B, T, M, 2) is loud.

    Left alone, the balance is the last thing that a spectrogram's autoencoder learns: the pixel
    norm hides it behind the distance between tones and silence.
    """
    loud = (mel.amax(-1) > LOUD).float()
    return ((error[..., 0] - error[..., 1]).abs() * loud).sum() / loud.sum().clamp(min=1)


@dataclass
class VocoderObjective:
    """L1 and relative MSE of samples; from step `spectra_from` on L1 of spectra at several sizes.

    Spectra from the start are matched with any phase, and samples then never.
    Half of the spectrograms, where `vae` is given, are those that the audio VAE makes of them.
    """

    vocoder: Generator
    sounds: Sounds
    held_out: Sounds
    vae: tuple[AudioEncoder, AudioDecoder] | None = None
    batch: int = 6
    length: int = 61
    spectra: float = 0.3
    spectra_from: int = 800

    @property
    def modules(self) -> dict[str, Any]:
        return {"vocoder": self.vocoder}

    def trains(self, name: str) -> bool:
        return True

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        waves, mels = self.sounds.batch(rng, self.batch, self.length)
        wave, mel = torch.from_numpy(waves), torch.from_numpy(mels)
        if self.vae is not None and rng.random() < 0.5:
            mel = self._as_decoded(mel)
            wave = wave[:, : mel.shape[1] * self.vocoder.config.hop]
        out = self.vocoder(mel)
        error = out - wave
        l1 = error.abs().mean()
        # Relative to the power of each sound, so that soft ones count.
        power = wave.square().mean((1, 2)) + QUIET_POWER
        total = 4 * l1 + (error.square().mean((1, 2)) / power).mean()
        if step >= self.spectra_from:
            total = total + self.spectra * spectral_distance(out, wave)
        return total, {"l1": float(l1.detach()), "snr": float(_decibels(wave, error.detach()))}

    @torch.no_grad()
    def _as_decoded(self, mel: Tensor) -> Tensor:
        assert self.vae is not None
        encoder, decoder = self.vae
        return decoder(encoder(mel))

    def evaluate(self) -> dict[str, float]:
        """Signal to noise in dB, of true spectrograms and of those from the VAE."""
        mel, wave = torch.from_numpy(self.held_out.mels), torch.from_numpy(self.held_out.waves)
        figures = {"snr": self._snr(mel, wave)}
        if self.vae is not None:
            figures["snr_vae"] = self._snr(self._as_decoded(mel), wave)
        return figures

    def _snr(self, mel: Tensor, wave: Tensor) -> float:
        out = self.vocoder(mel)
        length = min(out.shape[1], wave.shape[2])
        out, wave = out[:, :length], wave[:, :, :length].swapaxes(1, 2)
        return float(_decibels(wave, out - wave))


def _decibels(wave: Tensor, error: Tensor) -> Tensor:
    """Mean signal-to-noise ratio of those waveforms (B, N, 2) that are not silent."""
    power, noise = wave.square().mean((1, 2)), error.square().mean((1, 2))
    audible = power > 1e-6
    return (10 * torch.log10(power[audible] / noise[audible].clamp(min=1e-12))).mean()


def spectral_distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 of log magnitudes of waveforms (B, N, 2), averaged over window sizes."""
    total = torch.zeros(())
    for size in STFT_SIZES:
        window = torch.hann_window(size)
        logs: list[Tensor] = []
        for x in (a, b):
            flat = x.swapaxes(1, 2).reshape(-1, x.shape[1])
            spectrum = torch.stft(flat, size, size // 4, window=window, return_complex=True)
            power = torch.view_as_real(spectrum).square().sum(-1) / size
            logs.append(0.5 * torch.log(power + STFT_FLOOR**2))
        total = total + F.l1_loss(logs[0], logs[1])
    return total / len(STFT_SIZES)
