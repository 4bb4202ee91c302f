"""Noise of the device's own generator, and the position of a run in its stream of draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ltx2.diffusion.noise import NoiseSource

# The golden ratio in 32 bits: seeds of successive draws differ in many bits.
_STRIDE = 0x9E3779B1


@dataclass
class DeviceNoise:
    """Normal draws on `backend`; every draw of a run has a seed of its own."""

    backend: Any
    seed: int
    drawn: int = 0

    def normal(self, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
        """The next draw of `shape`."""
        seed = (self.seed + self.drawn * _STRIDE) % 2**63
        self.drawn += 1
        return self.backend.numpy(self.backend.normal(tuple(shape), seed)).astype(dtype)


@dataclass
class CountedNoise:
    """Passes on the draws of `source` and remembers the size of each.

    Another run with the same seed gets to the same place in the stream by `skip`: it makes the
    same draws and drops them, so that what comes next is the same on every kind of source.
    """

    source: NoiseSource
    draws: list[int] = field(default_factory=list)
    _skipped: list[int] = field(default_factory=list)

    def normal(self, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
        """The next draw of `shape`."""
        for count in self._skipped:
            self.source.normal((count,), "float32")
        self._skipped.clear()
        self.draws.append(math.prod(shape))
        return self.source.normal(shape, dtype)

    def skip(self, draws: Sequence[int]) -> None:
        """Drop float32 draws of these sizes; they are made when another draw comes after them."""
        self._skipped.extend(draws)
        self.draws.extend(draws)
