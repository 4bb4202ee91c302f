"""Log-mel spectrograms of waveforms, on the host; the front end of the audio VAE encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ltx2.errors import UserError

LOG_FLOOR = 1e-5
# The Slaney scale is linear up to 1 kHz (15 mel), logarithmic above: 27 mel per factor of 6.4.
_LINEAR_HZ = 200 / 3
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = np.log(6.4) / 27


@dataclass(frozen=True)
class MelConfig:
    """Short-time Fourier transform and mel bands; lengths in samples, frequencies in Hz."""

    sample_rate: int
    n_fft: int
    win_length: int
    hop: int
    bins: int
    f_min: float
    f_max: float


def mel_spectrogram(waveform: np.ndarray, config: MelConfig) -> np.ndarray:
    """float32 (C, N) at `config.sample_rate` -> natural-log mel (T, M, C), T = 1 + N // hop.

    Centred frames with reflected borders, magnitudes, floor 1e-5. Source: spec audio.md 2.
    Raises UserError for a waveform too short to be reflected.
    """
    border = config.n_fft // 2
    if waveform.shape[-1] <= border:
        seconds = border / config.sample_rate
        raise UserError(
            f"audio of {waveform.shape[-1]} samples is too short for a spectrogram;"
            f" use more than {border} samples ({seconds:g} s at {config.sample_rate} Hz)"
        )
    padded = np.pad(waveform.astype(np.float32), ((0, 0), (border, border)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft, axis=-1)
    frames = frames[:, :: config.hop] * hann_window(config)
    magnitude = np.abs(np.fft.rfft(frames, axis=-1)).astype(np.float32)  # (C, T, n_fft / 2 + 1)
    mel = magnitude @ filter_bank(config)
    return np.log(np.maximum(mel, np.float32(LOG_FLOOR))).transpose(1, 2, 0)


def hann_window(config: MelConfig) -> np.ndarray:
    """Periodic Hann window, zero-padded symmetrically to (n_fft,)."""
    phase = 2 * np.pi * np.arange(config.win_length) / config.win_length
    before = (config.n_fft - config.win_length) // 2
    after = config.n_fft - config.win_length - before
    return np.pad(0.5 - 0.5 * np.cos(phase), (before, after)).astype(np.float32)


@lru_cache(maxsize=8)
def filter_bank(config: MelConfig) -> np.ndarray:
    """(n_fft // 2 + 1, bins) triangles on the Slaney scale, normalised to equal area."""
    frequencies = np.linspace(0, config.sample_rate // 2, config.n_fft // 2 + 1)[:, None]
    low, high = _hz_to_mel(config.f_min), _hz_to_mel(config.f_max)
    points = _mel_to_hz(np.linspace(low, high, config.bins + 2))
    left, middle, right = points[:-2], points[1:-1], points[2:]
    rising = (frequencies - left) / (middle - left)
    falling = (right - frequencies) / (right - middle)
    bank = np.maximum(0, np.minimum(rising, falling)) * (2 / (right - left))
    bank = bank.astype(np.float32)
    bank.setflags(write=False)
    return bank


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ
    return _BREAK_MEL + float(np.log(hz / _BREAK_HZ)) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, above)
