"""Normal noise drawn on the host, so that a seed means the same on every backend.

`TorchNoise` reproduces the stream of PyTorch's CPU generator with NumPy alone (sampling spec,
section 4): float64 draws agree to the last bits, float32 draws to 5e-7 (PyTorch's vectorised
logarithm and cosine round differently).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

# PyTorch fills tensors of at least this many elements block by block, smaller ones one by one.
BLOCK = 16


class NoiseSource(Protocol):
    """Anything that hands out standard normal draws in call order."""

    def normal(self, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
        """Standard normal values of `shape`; dtype float32 or float64."""
        ...


class TorchNoise:
    """The normal draws of `torch.Generator("cpu").manual_seed(seed)`, in call order.

    Only the low 32 bits of the seed count, as in PyTorch: -1 and 2^64 - 1 are the same stream.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        legacy: Any = np.random.RandomState(seed & 0xFFFFFFFF).get_state(legacy=False)
        self._bits = np.random.MT19937()
        self._bits.state = legacy
        self._spare: float | None = None

    def normal(self, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
        """Standard normal values of `shape`; dtype float32 or float64."""
        uniform = {"float32": self._uniform32, "float64": self._uniform64}[dtype]
        count = math.prod(shape)
        if count < BLOCK:
            few = [self._single() for _ in range(count)]
            return np.array(few, dtype).reshape(tuple(shape))
        values = uniform(count)
        whole = count - count % BLOCK
        _transform(values[:whole])
        if whole < count:
            # A ragged end is redrawn: the last block overlaps the one before it.
            values[-BLOCK:] = uniform(BLOCK)
            _transform(values[-BLOCK:])
        return values.reshape(tuple(shape))

    def _uniform32(self, count: int) -> np.ndarray:
        return (self._bits.random_raw(count) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def _uniform64(self, count: int) -> np.ndarray:
        high, low = self._bits.random_raw(2 * count).reshape(-1, 2).T
        return ((high << 32 | low) & (2**53 - 1)).astype(np.float64) * 2**-53

    def _single(self) -> float:
        """One draw of the element-by-element path; it makes pairs and keeps the second."""
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        turn, radius = self._uniform64(2)
        length = math.sqrt(-2 * math.log1p(-radius))
        self._spare = length * math.sin(2 * math.pi * turn)
        return length * math.cos(2 * math.pi * turn)


def _transform(uniform: np.ndarray) -> None:
    """Box-Muller in place: in each block, element j is paired with element j + 8."""
    pairs = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(-2 * np.log(1 - pairs[:, 0]))
    angle = pairs[:, 1] * uniform.dtype.type(2 * math.pi)
    pairs[:, 0] = radius * np.cos(angle)
    pairs[:, 1] = radius * np.sin(angle)


class Replay:
    """Recorded draws handed out in order, for comparison with another implementation."""

    def __init__(self, draws: Iterable[np.ndarray]) -> None:
        self._draws = list(draws)
        self._next = 0

    def normal(self, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
        """The next recorded draw; its shape must be `shape`."""
        if self._next == len(self._draws):
            raise IndexError(f"all {self._next} recorded draws are used up")
        draw = self._draws[self._next]
        if draw.shape != tuple(shape):
            raise ValueError(f"recorded draw {self._next} is {draw.shape}, wanted {tuple(shape)}")
        self._next += 1
        return draw.astype(dtype)


def standardised(noise: np.ndarray) -> np.ndarray:
    """Mean 0 and unbiased deviation 1 over the whole array, then over its last two axes.

    Float64. Source: the second-order sampler's noise (sampling spec, section 9).
    """
    for axes in (None, (-2, -1)):
        noise = noise.astype(np.float64) - noise.mean(axis=axes, keepdims=True, dtype=np.float64)
        # A constant array stays zero.
        spread = np.maximum(noise.std(axis=axes, ddof=1, keepdims=True), np.finfo(np.float64).tiny)
        noise = noise / spread
    return noise
