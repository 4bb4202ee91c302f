"""Synthetic clips and sounds of which every measure is known, and how to measure them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltx2.experiment.metrics.base import Clip, no_seams
from ltx2.experiment.metrics.picture import Picture

FPS, RATE = 24, 24_000


def clip_of(frames=None, folder=Path(), seams=no_seams, count=24, prompt="a red circle"):
    """What is known of (F, H, W, 3) before its first frame; without frames a sound-only run."""
    count, height, width = (count, 0, 0) if frames is None else frames.shape[:3]
    return Clip(prompt, FPS, count, height, width, folder, seams)


def measure(metric, frames=None, sound=None, rate=RATE, steps=(), **known):
    """The result of `metric` for a clip; `steps` are arguments of Metric.step."""
    metric.start(clip_of(frames, **known))
    for step in steps:
        metric.step(*step)
    if sound is not None:
        metric.audio(sound, rate)
    before = None
    for rgb in () if frames is None else frames:
        picture = Picture(rgb, before)
        metric.frame(picture)
        before = picture.luma
    return metric.result()


def grey(*levels, size=(32, 48)):
    """A frame of even grey per level."""
    return np.stack([np.full((*size, 3), level, np.float32) for level in levels])


def noise(count=1, size=(96, 128), seed=0, smooth=0):
    """Frames of random colour in [0, 1], blurred by `smooth` passes of a 3 x 3 mean."""
    frames = np.random.default_rng(seed).random((count, *size, 3))
    for _ in range(smooth):
        for axis in (1, 2):
            rolled = (np.roll(frames, 1, axis) + np.roll(frames, -1, axis)) / 3
            frames = frames / 3 + rolled
    return frames.astype(np.float32)


def sine(hertz, seconds=1.0, amplitude=0.5, rate=RATE, phase=0.0):
    """(2, N), the same on both sides."""
    times = np.arange(round(seconds * rate)) / rate
    wave = amplitude * np.sin(2 * np.pi * hertz * times + phase)
    return np.stack([wave, wave]).astype(np.float32)
