"""Whether the sound comes with the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ltx2.experiment.metrics.base import UNKNOWN, Clip, Measure, Results, check_positive
from ltx2.experiment.metrics.picture import Picture

BIN_SECONDS = 0.005
BLUR_SECONDS = 0.02
QUIETEST_DB = -60.0
# Rises below these are noise: dB of the sound, levels of luma.
LEAST_RISE_DB, LEAST_RISE_LUMA = 3.0, 0.5 / 255


@dataclass
class OnsetOffset(Measure):
    """Seconds by which onsets of the sound come after onsets of motion (`av_offset`), and how well
    they match there, in [0, 1] (`av_sync`). NaN without any onset.

    The lag of the largest cross-correlation of both onset curves within `most_seconds`. No
    standard; what viewers notice is -125 to 45 ms in ITU-R BT.1359-1, whose sign is opposite.
    """

    most_seconds: float = 0.5
    names: ClassVar = ("av_offset", "av_sync")

    def __post_init__(self) -> None:
        check_positive("av_offset.most_seconds", self.most_seconds)

    def start(self, clip: Clip) -> None:
        self._clip = clip
        self._sound: np.ndarray | None = None
        self._changes: list[float] = []

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        self._sound = sound_onsets(waveform.mean(axis=0), rate)

    def frame(self, picture: Picture) -> None:
        if picture.change is not None:
            self._changes.append(picture.change)

    def result(self) -> Results:
        missing: Results = dict.fromkeys(self.names, UNKNOWN)
        if self._sound is None or not self._changes:
            return missing
        bins = max(len(self._sound), math.ceil(self._clip.seconds / BIN_SECONDS) + 1)
        motion = _blurred(motion_onsets(self._changes, self._clip.fps, bins))
        sound = _blurred(np.pad(self._sound, (0, bins - len(self._sound))))
        norm = float(np.sqrt(np.square(motion).sum() * np.square(sound).sum()))
        if norm == 0:
            return missing
        lag, height = _best_lag(sound, motion, round(self.most_seconds / BIN_SECONDS))
        return {"av_offset": lag * BIN_SECONDS, "av_sync": height / norm}


def sound_onsets(sound: np.ndarray, rate: int) -> np.ndarray:
    """(N,) -> rises of the level in dB, per bin."""
    starts = np.arange(0, len(sound), rate * BIN_SECONDS).astype(int)
    energy = np.add.reduceat(np.square(sound, dtype=np.float64), starts)
    power = energy / np.diff(np.append(starts, len(sound)))
    level = 10 * np.log10(np.maximum(power, 10 ** (QUIETEST_DB / 10)))
    rises = np.diff(level, prepend=level[:1])
    return np.where(rises > LEAST_RISE_DB, rises, 0.0)


def motion_onsets(changes: list[float], fps: float, bins: int) -> np.ndarray:
    """Rises of the changes into frames 1, 2 ..., per bin; a rise belongs to when its frame shows.

    What moves from the beginning has no onset.
    """
    rises = np.diff(np.array(changes), prepend=changes[0])
    curve = np.zeros(bins)
    places = (np.arange(1, len(rises) + 1) / fps / BIN_SECONDS).astype(int)
    np.add.at(curve, places, np.where(rises > LEAST_RISE_LUMA, rises, 0.0))
    return curve


def _blurred(curve: np.ndarray) -> np.ndarray:
    reach = math.ceil(3 * BLUR_SECONDS / BIN_SECONDS)
    places = np.arange(-reach, reach + 1) * BIN_SECONDS / BLUR_SECONDS
    return np.convolve(curve, np.exp(-(places**2) / 2), mode="full")


def _best_lag(sound: np.ndarray, motion: np.ndarray, most: int) -> tuple[int, float]:
    """The lag in bins at which `sound` matches `motion` best, and the product there."""
    size = 2 ** math.ceil(math.log2(len(sound) + most))
    product = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(motion, size)), size)
    lags = np.array(sorted(range(-most, most + 1), key=abs))
    heights = product[lags]
    # Of equal ones the smallest lag: rounding must not decide.
    best = int((heights >= heights.max() * (1 - 1e-9)).argmax())
    return int(lags[best]), float(heights[best])
