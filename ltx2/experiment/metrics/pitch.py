"""Fundamental frequency of a sound over time: YIN (de Cheveigne and Kawahara 2002), in NumPy."""

from __future__ import annotations

import math

import numpy as np

HOP_SECONDS = 0.01
# The paper's absolute threshold is 0.1; synthetic speech is less periodic.
APERIODIC = 0.15
QUIETEST = 1e-3
# Windows at once: bounds the spectra to some tens of MB.
AT_ONCE = 512


def pitches(
    sound: np.ndarray, rate: int, lowest_hz: float, highest_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sound (N,) -> times in seconds and Hz, a value every 10 ms; NaN where nothing is periodic."""
    longest = math.ceil(rate / lowest_hz) + 1
    shortest = max(2, int(rate / highest_hz))
    hop, span = max(1, round(HOP_SECONDS * rate)), 2 * longest
    if len(sound) < span:
        return np.empty(0), np.empty(0)
    windows = np.lib.stride_tricks.sliding_window_view(sound, span)[::hop]
    track = np.concatenate(
        [
            _pitch(windows[begin : begin + AT_ONCE].astype(np.float64), longest, shortest, rate)
            for begin in range(0, len(windows), AT_ONCE)
        ]
    )
    return (np.arange(len(track)) * hop + span / 2) / rate, track


def _pitch(windows: np.ndarray, longest: int, shortest: int, rate: int) -> np.ndarray:
    """(n, 2 * longest) -> Hz (n,)."""
    difference = _differences(windows, longest)
    normal = _normalised(difference)
    # The first dip below the threshold, at its bottom; steps 4 and 5 of the paper.
    lags = slice(shortest, longest - 1)
    is_dip = (normal[:, lags] < APERIODIC) & (normal[:, lags] <= normal[:, shortest + 1 : longest])
    lag = shortest + is_dip.argmax(axis=1)
    rows = np.arange(len(windows))
    before, at, after = (difference[rows, lag + shift] for shift in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.divide(before - after, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    loud = np.square(windows).mean(axis=1) > QUIETEST**2
    return np.where(is_dip.any(axis=1) & loud, rate / (lag + np.clip(shift, -1, 1)), np.nan)


def _differences(windows: np.ndarray, longest: int) -> np.ndarray:
    """Squared difference of the first half and the window shifted by 0 to `longest` - 1 samples."""
    size = 2 ** math.ceil(math.log2(3 * longest))
    head, whole = np.fft.rfft(windows[:, :longest], size), np.fft.rfft(windows, size)
    products = np.fft.irfft(np.conj(head) * whole, size)[:, :longest]
    sums = np.cumsum(np.pad(np.square(windows), ((0, 0), (1, 0))), axis=1)
    energies = sums[:, longest : 2 * longest] - sums[:, :longest]
    return np.maximum(energies[:, :1] + energies - 2 * products, 0)


def _normalised(difference: np.ndarray) -> np.ndarray:
    """Each lag's difference over the mean of all shorter ones; 1 at lag 0."""
    total = np.cumsum(difference[:, 1:], axis=1)
    normal = np.ones_like(difference)
    lags = np.arange(1, difference.shape[1])
    np.divide(difference[:, 1:] * lags, total, out=normal[:, 1:], where=total > 0)
    return normal
