"""Nothing fails silently: statistics after each phase, failures and warnings with likely causes.

Failures (the result cannot be what anybody asked for): NaN or Inf, one constant colour throughout,
DC audio, wrong lengths. Warnings (a prompt may ask for it): very dark, clipped, frozen, silent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ltx2.errors import UserError

log = logging.getLogger(__name__)

MODES = ("off", "warn", "strict", "keep_going")

# Thresholds on pixels in [0, 1] and samples in [-1, 1].
CONSTANT_STD = 1e-4
DARK_MEAN = 0.02
CLIPPED_SHARE = 0.98
FROZEN_DIFFERENCE = 1e-4
SILENT_RMS = 1e-4
DC_RATIO = 0.99


class CheckFailed(UserError):
    """A phase produced something that cannot be right."""


@dataclass
class Checks:
    """Collects warnings; raises CheckFailed unless mode is keep_going or off.

    mode: off, warn, strict (warnings fail too) or keep_going (failures become warnings).
    """

    mode: str = "warn"
    warnings: list[str] = field(default_factory=list)
    failures: int = 0

    @property
    def passed(self) -> bool:
        """Whether everything so far was looked at and nothing failed."""
        return self.mode != "off" and self.failures == 0

    def fail(self, phase: str, statistic: str, causes: str) -> None:
        """A failure of `phase`: what was measured and what usually causes it."""
        self.failures += 1
        message = f"{phase}: {statistic}; likely causes: {causes}"
        if self.mode in ("warn", "strict"):
            raise CheckFailed(f"{message} (checks=keep_going saves the result all the same)")
        self._warn(message)

    def warn(self, phase: str, statistic: str) -> None:
        """Something unusual that a prompt may have asked for."""
        if self.mode == "strict":
            raise CheckFailed(f"{phase}: {statistic} (checks=warn allows it)")
        self._warn(f"{phase}: {statistic}")

    def _warn(self, message: str) -> None:
        if self.mode != "off":
            log.warning("%s", message)
            self.warnings.append(message)

    def finite(self, phase: str, host: np.ndarray, causes: str) -> np.ndarray:
        """NaN or Inf in `host` is a failure; when the run goes on all the same, they become 0."""
        if self.mode == "off" or np.isfinite(host).all():
            return host
        bad = int(host.size - np.isfinite(host).sum())
        self.fail(phase, f"{bad} of {host.size} values are NaN or Inf", causes)
        return np.nan_to_num(host, nan=0, posinf=0, neginf=0)


@dataclass
class FrameStatistics:
    """Running statistics of decoded frames, one chunk at a time; no clip is kept."""

    frames: int = 0
    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(3))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3))
    clipped: int = 0
    largest_change: float = 0.0
    first: np.ndarray | None = None
    _last: np.ndarray | None = None

    def add(self, chunk: np.ndarray) -> None:
        """chunk (f, H, W, 3) float in [0, 1]."""
        self.frames += len(chunk)
        values = chunk.astype(np.float32, copy=False)
        self.count += values.size
        self.total += values.sum(axis=(0, 1, 2), dtype=np.float64)
        self.squares += np.square(values).sum(axis=(0, 1, 2), dtype=np.float64)
        self.clipped += int(((values <= 0) | (values >= 1)).sum())
        # A coarse grid is enough to see motion and holds almost nothing.
        thin = values[:, ::4, ::4]
        before = thin if self._last is None else np.concatenate([self._last, thin])
        if len(before) > 1:
            change = np.abs(np.diff(before, axis=0)).mean(axis=(1, 2, 3)).max()
            self.largest_change = max(self.largest_change, float(change))
        self._last = thin[-1:].copy()
        if self.first is None:
            self.first = values[0].copy()

    @property
    def mean(self) -> float:
        return float(self.total.sum()) / max(self.count, 1)

    @property
    def std(self) -> float:
        """Largest standard deviation of a channel: 0 for one constant colour, whatever its hue."""
        per_channel = max(self.count // 3, 1)
        means = self.total / per_channel
        return float(np.sqrt(np.maximum(self.squares / per_channel - means**2, 0)).max())

    def record(self) -> dict[str, Any]:
        """What run.json keeps."""
        return {
            "frames": self.frames,
            "mean": round(self.mean, 5),
            "std": round(self.std, 5),
            "clipped_share": round(self.clipped / max(self.count, 1), 5),
            "largest_change": round(self.largest_change, 6),
        }


def check_video(checks: Checks, stats: FrameStatistics, frames: int) -> None:
    """Judge the decoded clip against the number of frames asked for."""
    phase = "video decode"
    if stats.frames != frames:
        checks.fail(phase, f"{stats.frames} frames instead of {frames}", "a tiling or VAE mismatch")
    if stats.std < CONSTANT_STD:
        causes = "a checkpoint that does not fit the pipeline, or latents that never left noise"
        checks.fail(phase, f"the clip is one constant colour (std {stats.std:.1e})", causes)
    elif stats.mean < DARK_MEAN:
        checks.warn(phase, f"the clip is very dark (mean {stats.mean:.4f})")
    share = stats.clipped / max(stats.count, 1)
    if share > CLIPPED_SHARE:
        checks.warn(phase, f"{share:.0%} of the pixel values are clipped")
    if frames > 1 and stats.largest_change < FROZEN_DIFFERENCE:
        checks.warn(phase, "the clip is frozen: no frame differs from the one before it")


def check_audio(checks: Checks, waveform: np.ndarray, rate: int, seconds: float) -> np.ndarray:
    """Judge a waveform (2, N) in [-1, 1] that should last about `seconds`; returns what to save."""
    phase = "audio decode"
    causes = "damaged weights or a half-precision audio VAE; try dtype.audio_vae=fp32"
    waveform = checks.finite(phase, waveform, causes)
    # The decoder gives 4 T - 3 spectrogram frames: up to some 60 ms short (spec audio.md 4).
    if abs(waveform.shape[-1] / rate - seconds) > 0.1 + 0.02 * seconds:
        length = f"{waveform.shape[-1] / rate:.3f} s of audio for {seconds:.3f} s"
        checks.fail(phase, length, "a latent length mismatch")
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    offset = float(np.abs(waveform.mean(axis=-1)).max())
    if rms > SILENT_RMS and offset > DC_RATIO * rms:
        constant = f"the audio is DC (offset {offset:.3f}, rms {rms:.3f})"
        checks.fail(phase, constant, "a wrong vocoder or audio VAE")
    elif rms < SILENT_RMS:
        checks.warn(phase, f"the audio is silent (rms {rms:.1e})")
    return waveform
