"""Reads colour, background, direction, pitch and panning back from a pocket clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.9, 0.1), "purple": (0.6, 0.1, 0.8), "orange": (1.0, 0.55, 0.05),
}  # fmt: skip
BACKGROUNDS = {
    "black": (0.03,) * 3, "white": (0.95,) * 3, "gray": (0.5,) * 3, "teal": (0.0, 0.45, 0.45),
}  # fmt: skip
TONES_HZ = {"low": 200.0, "middle": 400.0, "high": 800.0}
SILENT_RMS = 0.01


@dataclass(frozen=True)
class Seen:
    """What a clip shows and sounds like, in the words of the captions; pan may be none."""

    colour: str
    background: str
    direction: str
    tone: str
    pan: str


def _nearest(value: np.ndarray, table: dict[str, tuple[float, ...]]) -> str:
    return min(table, key=lambda name: float(np.square(np.array(table[name]) - value).sum()))


def read_clip(frames: np.ndarray, waveform: np.ndarray, rate: int) -> Seen:
    """frames (F, H, W, 3) uint8, waveform (2, N) in [-1, 1]."""
    pixels = frames.astype(np.float32) / 255
    edge = max(2, pixels.shape[1] // 16)
    corners = np.concatenate(
        [pixels[:, y, x].reshape(-1, 3) for y in (slice(edge), slice(-edge, None))
         for x in (slice(edge), slice(-edge, None))]
    )  # fmt: skip
    background = np.median(corners, axis=0)
    distance = np.abs(pixels - background).sum(-1)  # (F, H, W)
    mask = distance > 0.5 * distance.max(axis=(1, 2), keepdims=True)
    strongest = pixels[distance > 0.8 * distance.max()]
    return Seen(
        colour=_nearest(np.median(strongest, axis=0), COLOURS),
        background=_nearest(background, BACKGROUNDS),
        direction=_direction(mask),
        tone=_tone(waveform, rate),
        pan=_pan(waveform),
    )


def _direction(mask: np.ndarray) -> str:
    rows, columns = np.indices(mask.shape[1:])
    weight = mask.sum(axis=(1, 2))
    y = (mask * rows).sum(axis=(1, 2)) / weight
    x = (mask * columns).sum(axis=(1, 2)) / weight
    dy, dx = y[-3:].mean() - y[:3].mean(), x[-3:].mean() - x[:3].mean()
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def _tone(waveform: np.ndarray, rate: int) -> str:
    mono = waveform.mean(axis=0)
    if np.sqrt(np.mean(np.square(mono))) < SILENT_RMS:
        return "no"
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono))))
    peak = np.fft.rfftfreq(len(mono), 1 / rate)[spectrum.argmax()]
    return min(TONES_HZ, key=lambda name: abs(np.log(peak / TONES_HZ[name])))


def _pan(waveform: np.ndarray) -> str:
    """Where the sound moves: compares the share of the left channel in both halves."""
    half = waveform.shape[1] // 2
    halves = waveform[:, :half], waveform[:, half:]
    energy = [np.square(part).sum(axis=1) + 1e-9 for part in halves]
    left = [e[0] / e.sum() for e in energy]
    change = left[1] - left[0]
    return "none" if abs(change) < 0.1 else "left" if change > 0 else "right"
