"""Measures of the sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.base import (
    UNKNOWN,
    Clip,
    Curve,
    Measure,
    Results,
    check_number,
    check_positive,
    needed,
)
from ltx2.experiment.metrics.pitch import pitches
from ltx2.media.audio import resample

# Shorter sound has no block to gate. Source: ITU-R BS.1770-4.
LOUDNESS_BLOCK_SECONDS = 0.4
OVERSAMPLING = 4
WINDOW, HOP = 2048, 512
# Below this a spectrum is rounding noise.
QUIET = 1e-5


class Sounding(Measure):
    """One number of the waveform; NaN without sound."""

    _value = UNKNOWN

    def start(self, clip: Clip) -> None:
        self._value = UNKNOWN

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        self._value = self.value(waveform, rate)

    def value(self, waveform: np.ndarray, rate: int) -> float:
        """Of the sound (2, N)."""
        raise NotImplementedError

    def result(self) -> Results:
        (name,) = self.names
        return {name: self._value}


class Loudness(Sounding):
    """Integrated loudness in LUFS; NaN for silence. Source: ITU-R BS.1770-4, EBU R 128."""

    names: ClassVar = ("loudness",)

    def start(self, clip: Clip) -> None:
        super().start(clip)
        self._library: Any = needed("pyloudnorm", "pyloudnorm", "loudness")

    def value(self, waveform: np.ndarray, rate: int) -> float:
        if waveform.shape[1] <= LOUDNESS_BLOCK_SECONDS * rate:
            return UNKNOWN
        with np.errstate(divide="ignore", invalid="ignore"):
            level = float(self._library.Meter(rate).integrated_loudness(waveform.T))
        return level if np.isfinite(level) else UNKNOWN


class TruePeak(Sounding):
    """Peak in dBTP at four times the rate; NaN for silence. Source: ITU-R BS.1770-4, annex 2."""

    names: ClassVar = ("true_peak",)

    def value(self, waveform: np.ndarray, rate: int) -> float:
        dense = resample(waveform, rate, OVERSAMPLING * rate)
        # The filter rings at the ends and may fall short of a sample it passes through.
        peak = max(float(np.abs(dense).max()), float(np.abs(waveform).max()))
        return 20 * float(np.log10(peak)) if peak > 0 else UNKNOWN


@dataclass
class SilenceShare(Sounding):
    """Share of windows of `window_seconds` whose RMS is below `threshold_db` of full scale."""

    threshold_db: float = -60.0
    window_seconds: float = 0.05
    names: ClassVar = ("silence_share",)

    def __post_init__(self) -> None:
        check_number("silence_share.threshold_db", self.threshold_db)
        check_positive("silence_share.window_seconds", self.window_seconds)

    def value(self, waveform: np.ndarray, rate: int) -> float:
        length = max(1, min(round(self.window_seconds * rate), waveform.shape[1]))
        count = waveform.shape[1] // length
        windows = waveform[:, : count * length].reshape(waveform.shape[0], count, length)
        power = np.square(windows, dtype=np.float64).mean(axis=(0, 2))
        return float((power < 10 ** (self.threshold_db / 10)).mean())


class SpectralCentroid(Sounding):
    """Mean frequency in Hz, weighted by magnitude over the whole sound. Source: Peeters 2004."""

    names: ClassVar = ("spectral_centroid",)

    def value(self, waveform: np.ndarray, rate: int) -> float:
        spectrum = magnitudes(waveform.mean(axis=0)).mean(axis=0)
        if spectrum.max() < QUIET:
            return UNKNOWN
        frequencies = np.arange(len(spectrum)) * rate / WINDOW
        return float((spectrum * frequencies).sum() / spectrum.sum())


def magnitudes(sound: np.ndarray) -> np.ndarray:
    """(N,) -> spectrogram (frames, 1025); a full-scale sine has its peak at 1."""
    window = np.hanning(WINDOW + 1)[:-1]
    padded = np.pad(sound, (0, max(0, WINDOW - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.abs(np.fft.rfft(frames * window, axis=1)) / (window.sum() / 2)


@dataclass
class PitchTrack(Measure):
    """Fundamental frequency over time, its median in Hz and the share of voiced windows.

    Source: de Cheveigne and Kawahara 2002 (YIN).
    """

    lowest_hz: float = 60.0
    highest_hz: float = 2000.0
    names: ClassVar = ("pitch", "voiced_share")

    def __post_init__(self) -> None:
        check_positive("pitch_track.lowest_hz", self.lowest_hz)
        check_positive("pitch_track.highest_hz", self.highest_hz)
        if self.lowest_hz >= self.highest_hz:
            raise UserError(
                f"metrics.pitch_track.lowest_hz={self.lowest_hz:g} is not below"
                f" highest_hz={self.highest_hz:g}"
            )

    def start(self, clip: Clip) -> None:
        self._times = self._track = np.empty(0)

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        sound = waveform.mean(axis=0)
        self._times, self._track = pitches(sound, rate, self.lowest_hz, self.highest_hz)

    def result(self) -> Results:
        if not len(self._track):
            return {"pitch": UNKNOWN, "voiced_share": UNKNOWN}
        voiced = np.isfinite(self._track)
        return {
            "pitch": float(np.median(self._track[voiced])) if voiced.any() else UNKNOWN,
            "voiced_share": float(voiced.mean()),
            "pitch_track": Curve(self._times.tolist(), self._track.tolist(), "s", "Hz"),
        }


class DurationError(Sounding):
    """Seconds by which the length of the sound differs from that of the pictures."""

    names: ClassVar = ("duration_error",)

    def start(self, clip: Clip) -> None:
        super().start(clip)
        self._seconds = clip.seconds

    def value(self, waveform: np.ndarray, rate: int) -> float:
        return abs(waveform.shape[1] / rate - self._seconds)
