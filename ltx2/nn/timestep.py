"""Sinusoidal timestep features and the two-layer embedder (spec transformer.md section 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ltx2 import ops
from ltx2.nn.layers import Linear
from ltx2.ops import Array

FEATURES = 256


def sinusoid(timesteps: np.ndarray, width: int = FEATURES) -> np.ndarray:
    """Scaled timesteps (...,) -> (..., width): cosines first, float32; divisor is width / 2."""
    half = width // 2
    exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    angle = np.asarray(timesteps, np.float32)[..., None] * np.exp(exponent)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)


@dataclass
class TimestepMLP:
    """linear_2(silu(linear_1(features)))."""

    linear_1: Linear
    linear_2: Linear

    @classmethod
    def declare(cls, width: int, out: int) -> TimestepMLP:
        return cls(Linear.declare(width, out), Linear.declare(out, out))

    def __call__(self, features: Array) -> Array:
        return self.linear_2(ops.silu(self.linear_1(features)))


@dataclass
class TimestepEmbedder:
    """Scaled host timesteps (U,) -> (U, C) in the dtype of the weights."""

    timestep_embedder: TimestepMLP

    @classmethod
    def declare(cls, width: int, features: int = FEATURES) -> TimestepEmbedder:
        return cls(TimestepMLP.declare(features, width))

    def __call__(self, timesteps: np.ndarray) -> Array:
        weight = self.timestep_embedder.linear_1.weight
        features = ops.asarray(sinusoid(timesteps, weight.shape[-1]), weight)
        return self.timestep_embedder(ops.like(features, weight))
