"""Noise of the device's own generator, for matching clips that were made on that device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
