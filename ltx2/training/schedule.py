"""Learning rates over a run, as shares of the highest."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then `shape` down to `floor` (a share): constant, linear or cosine.

    `hold`: the share of the run, after the warm-up, before the descent begins.
    """

    shape: str = "cosine"
    warmup: int = 100
    floor: float = 0.02
    hold: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        """The share of the highest rate at `step` of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        begin = self.warmup + self.hold * max(0, steps - self.warmup)
        done = min(1.0, max(0.0, (step - begin) / max(1.0, steps - begin)))
        if self.shape == "constant":
            return 1.0
        fall = 1 - done if self.shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.floor + (1 - self.floor) * fall
