"""Distances to a reference run that are not of its pictures: of its spectrogram and latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.audio import magnitudes
from ltx2.experiment.metrics.base import UNKNOWN, Clip, Curve, Measure, Results
from ltx2.experiment.metrics.reference import Reference, find_reference
from ltx2.media.audio import resample

# What is quieter than this counts as this quiet.
FLOOR_DB = -80.0


@dataclass
class SpectrogramDistance(Measure):
    """Log-spectral distance in dB: over frequencies the root of the mean square, over time the
    mean. 0 for the same sound, 6 for half the amplitude. Source: Gray and Markel 1976.
    """

    reference: str | None = None
    names: ClassVar = ("spectrogram_distance",)

    def start(self, clip: Clip) -> None:
        self.open(find_reference(self.reference, "metrics.spectrogram_distance.reference"), clip)

    def open(self, reference: Reference, clip: Clip) -> None:
        """As `start`, for a reference that was found already."""
        self._theirs = reference.waveform(clip)
        self._value = UNKNOWN

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        samples, their_rate = self._theirs
        theirs = resample(samples, their_rate, rate)
        length = min(theirs.shape[1], waveform.shape[1])
        one, other = (_decibels(sound[:, :length]) for sound in (waveform, theirs))
        self._value = float(np.sqrt(np.square(one - other).mean(axis=1)).mean())

    def result(self) -> Results:
        return {"spectrogram_distance": self._value}


def _decibels(waveform: np.ndarray) -> np.ndarray:
    """(2, N) -> (frames, frequencies)."""
    spectrum = magnitudes(waveform.mean(axis=0))
    return 20 * np.log10(np.maximum(spectrum, 10 ** (FLOOR_DB / 20)))


@dataclass
class LatentDistance(Measure):
    """Norm of the difference to the reference's latents after the same step, over their norm:
    a curve per stage, and the values after the last step of the run.

    The reference is the folder of a run with save_steps=true.
    """

    reference: str | None = None
    names: ClassVar = ("latent_distance", "latent_distance_audio")

    def start(self, clip: Clip) -> None:
        self.open(find_reference(self.reference, "metrics.latent_distance.reference"), clip)

    def open(self, reference: Reference, clip: Clip) -> None:
        """As `start`, for a reference that was found already."""
        self.watches_steps = True
        self._files = reference.steps(clip)
        self._curves: dict[str, Curve] = {}
        self._last = dict.fromkeys(self.names, UNKNOWN)

    def step(
        self, stage: str, index: int, video: np.ndarray | None, audio: np.ndarray | None
    ) -> None:
        for kind, name, latent in zip(("video", "audio"), self.names, (video, audio), strict=True):
            if latent is None or stage not in self._files:
                continue
            distance = self._distance(self._files[stage], f"{kind}.{index:03}", latent)
            curve = self._curves.setdefault(f"{name}_{stage}", Curve([], [], "step", ""))
            curve.x.append(index)
            curve.y.append(distance)
            self._last[name] = distance

    def _distance(self, file: Path, name: str, latent: np.ndarray) -> float:
        """NaN for a step that the reference does not have."""
        from safetensors import safe_open

        with safe_open(file, framework="numpy") as tensors:
            if name not in tensors.keys():  # noqa: SIM118 (no mapping)
                return math.nan
            theirs = tensors.get_tensor(name)
        if theirs.shape != latent.shape:
            raise UserError(
                f"{file}: {name} is {theirs.shape}, this run has {latent.shape}; the runs differ"
            )
        norm = float(np.linalg.norm(theirs))
        return float(np.linalg.norm(latent - theirs)) / norm if norm else UNKNOWN

    def result(self) -> Results:
        return {**self._last, **self._curves}
