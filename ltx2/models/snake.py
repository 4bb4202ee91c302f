"""The anti-aliased snake activation: doubled rate, x + sin^2, low-pass back to the old rate.

Source: spec audio.md 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltx2 import ops
from ltx2.nn.module import Param
from ltx2.ops import Array

RATIO = 2
TAPS = 12
HALF_WIDTH = 0.3  # of the transition, in cycles per sample
SNAKE_EPS = 1e-9


def antialias_filter() -> np.ndarray:
    """(1, 1, 12) Kaiser-windowed sinc with cutoff 0.25 cycles per sample and unit sum."""
    attenuation = 2.285 * (TAPS // 2 - 1) * np.pi * 4 * HALF_WIDTH + 7.95
    beta = 0.1102 * (attenuation - 8.7)  # Kaiser's formula above 50 dB; here 51.0
    t = np.arange(-TAPS // 2, TAPS // 2) + 0.5
    taps = np.kaiser(TAPS, beta) * np.sinc(t / RATIO)
    return (taps / taps.sum()).astype(np.float32)[None, None]


def _filter() -> Param:
    return Param((1, 1, TAPS), kind="conv", default=antialias_filter)


def depthwise(kernel: Array, channels: int) -> Array:
    """One filter, repeated for each of `channels` groups."""
    return ops.broadcast_to(kernel, (channels, *kernel.shape[1:]))


@dataclass
class Snake:
    """x + sin^2(a x) / b, a and b per channel and stored as logarithms."""

    alpha: Array  # (C,)
    beta: Array

    def __call__(self, x: Array) -> Array:
        wave = ops.sin(x * ops.exp(self.alpha))
        return x + wave * wave / (ops.exp(self.beta) + SNAKE_EPS)


@dataclass
class DoubleRate:
    """(B, T, C) -> (B, 2T, C), borders repeated."""

    filter: Array

    def __call__(self, x: Array) -> Array:
        border = TAPS // RATIO - 1
        crop = border * RATIO + (TAPS - RATIO) // 2
        x = ops.pad(x, [(0, 0), (border, border), (0, 0)], "edge")
        channels = x.shape[-1]
        kernel = depthwise(self.filter, channels) * RATIO
        return ops.conv_transpose1d(x, kernel, stride=RATIO, padding=crop, groups=channels)


@dataclass
class LowPass:
    """The filter as it is named in files."""

    filter: Array


@dataclass
class HalfRate:
    """(B, 2T, C) -> (B, T, C), borders repeated."""

    lowpass: LowPass

    def __call__(self, x: Array) -> Array:
        x = ops.pad(x, [(0, 0), (TAPS // 2 - 1, TAPS // 2), (0, 0)], "edge")
        channels = x.shape[-1]
        kernel = depthwise(self.lowpass.filter, channels)
        return ops.conv1d(x, kernel, stride=RATIO, groups=channels)


@dataclass
class AntiAliasedSnake:
    """(B, T, C) -> (B, T, C)."""

    act: Snake
    upsample: DoubleRate
    downsample: HalfRate

    @classmethod
    def declare(cls, width: int) -> AntiAliasedSnake:
        snake = Snake(Param((width,)), Param((width,)))
        return cls(snake, DoubleRate(_filter()), HalfRate(LowPass(_filter())))

    def __call__(self, x: Array) -> Array:
        return self.downsample(self.act(self.upsample(x)))
