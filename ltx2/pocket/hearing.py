"""What the sound of a pocket clip says: silence, pitches, where they are, clicks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltx2.pocket.world import CLICK_HZ, CLICK_SECONDS, HOP_SECONDS, PITCHES_HZ

# Root mean square of both channels' sum; the quietest scene has 0.04.
SILENT_RMS = 0.012
# Multiples of 100 Hz do not disturb each other in windows of so many seconds.
_WINDOW_SECONDS, _CLICK_WINDOW_SECONDS = 0.05, 0.01
_LOWEST_HZ, _HIGHEST_HZ = 220.0, 1600.0
# A second pitch weaker than so much of the first is none.
_SECOND = 0.08
# A click rises above so much of the loudest, and follows another after so many seconds.
_CLICK_SHARE, _CLICK_FLOOR, _CLICK_GAP = 0.3, 0.02, 0.08


@dataclass(frozen=True)
class Voice:
    """A tone: its pitch, and where it is, 0 (left) to 1, at `shares` (T,) of the sound."""

    hertz: float
    shares: np.ndarray
    position: np.ndarray


def is_silent(sound: np.ndarray) -> bool:
    """Whether nothing is to be heard in the sound (2, N)."""
    return sound.shape[1] == 0 or float(np.sqrt(np.square(sound.sum(0)).mean())) < SILENT_RMS


def voices(sound: np.ndarray, rate: int, count: int) -> tuple[Voice, ...]:
    """The `count` tones of a sound (2, N) from left to right; fewer if there are not so many."""
    if is_silent(sound) or sound.shape[1] < 2 * _WINDOW_SECONDS * rate:
        return ()
    if count == 1:
        return (_voice(sound, rate, _loudest(sound.sum(0), rate)),)
    known = [float(pitch) for pitch in PITCHES_HZ.values()]
    levels = {pitch: _levels(sound, rate, pitch).sum(0).mean() for pitch in known}
    order = sorted(known, key=lambda pitch: -levels[pitch])
    heard = [pitch for pitch in order[:count] if levels[pitch] > _SECOND * levels[order[0]]]
    found = [_voice(sound, rate, pitch) for pitch in heard]
    return tuple(sorted(found, key=lambda voice: float(np.median(voice.position))))


def clicks(sound: np.ndarray, rate: int) -> tuple[float, ...]:
    """Seconds at which clicks of the world begin in a sound (2, N)."""
    hop = HOP_SECONDS / 10
    level = _levels(sound, rate, CLICK_HZ, _CLICK_WINDOW_SECONDS, hop).sum(0)
    if not len(level):
        return ()
    # What sounds on, such as a harmonic, is no click.
    level = level - np.median(level)
    least = max(_CLICK_FLOOR, _CLICK_SHARE * float(level.max()))
    found: list[float] = []
    for peak in np.flatnonzero(level > least):
        reach = level[max(0, peak - 40) : peak + 41]
        if level[peak] < reach.max() or (found and peak * hop - found[-1] < _CLICK_GAP):
            continue
        found.append(float(peak * hop))
    # The window is fullest when it begins with the click.
    lead = _CLICK_WINDOW_SECONDS / 2 - CLICK_SECONDS / 16
    return tuple(time + _CLICK_WINDOW_SECONDS / 2 - lead for time in found)


def heard_position(gains: np.ndarray) -> np.ndarray:
    """Gains of left and right (2, T) -> 0 (left) to 1; they are squares of the distances."""
    left, right = np.sqrt(gains)
    return right / np.maximum(left + right, 1e-6)


def _loudest(mono: np.ndarray, rate: int) -> float:
    """Hertz of the strongest partial of (N,) among the pitches of the world and a little around."""
    size = 1 << (4 * len(mono) - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono)), size))
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    spectrum[(frequencies < _LOWEST_HZ) | (frequencies > _HIGHEST_HZ)] = 0
    return float(frequencies[spectrum.argmax()])


def _voice(sound: np.ndarray, rate: int, hertz: float) -> Voice:
    position = heard_position(_levels(sound, rate, hertz))
    begin = _WINDOW_SECONDS / 2 * rate
    hop = round(HOP_SECONDS * rate)
    shares = (begin + hop * np.arange(len(position))) / sound.shape[1]
    return Voice(hertz, shares, position)


def _levels(
    sound: np.ndarray,
    rate: int,
    hertz: float,
    window_seconds: float = _WINDOW_SECONDS,
    hop_seconds: float = HOP_SECONDS,
) -> np.ndarray:
    """(2, N) -> amplitude of one frequency over time (2, T), in windows as Hann has them."""
    size, hop = round(window_seconds * rate), max(1, round(hop_seconds * rate))
    if sound.shape[1] < size:
        return np.zeros((2, 0))
    time = (np.arange(size) + 0.5) / rate
    weight = np.hanning(size + 1)[:size]
    wave = np.exp(-2j * np.pi * hertz * time) * weight * (2 / weight.sum())
    windows = np.lib.stride_tricks.sliding_window_view(sound, size, axis=1)[:, ::hop]
    return np.abs(windows @ wave)
