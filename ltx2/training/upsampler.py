"""Training of the latent upsampler: latents of the same clips at two sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltx2.models.upsampler import LatentUpsampler
from ltx2.models.video_vae import PerChannelStatistics


@dataclass
class UpsamplerObjective:
    """Normalised latents (N, F, H, W, C) `small` to `large`; both sides are noised a little.

    The error is measured on normalised latents, the network works on un-normalised ones.
    """

    upsampler: LatentUpsampler
    statistics: PerChannelStatistics
    small: np.ndarray
    large: np.ndarray
    held_out: int = 16
    batch: int = 8
    noise: float = 0.15

    @property
    def modules(self) -> dict[str, Any]:
        return {"upsampler": self.upsampler}

    def trains(self, name: str) -> bool:
        return "kernel" not in name

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = rng.integers(self.held_out, len(self.small), self.batch)
        small = torch.from_numpy(self.small[rows])
        # Latents of a first stage are not as clean as encoded ones.
        spread = torch.from_numpy(rng.uniform(0, self.noise, (len(rows), 1, 1, 1, 1))).float()
        small = small + spread * torch.from_numpy(rng.standard_normal(small.shape, np.float32))
        error = self._upsample(small) - torch.from_numpy(self.large[rows])
        square = error.square().mean()
        return square + 0.5 * error.abs().mean(), {"mse": float(square.detach())}

    def evaluate(self) -> dict[str, float]:
        """Mean squared error on held-out clips; the latents' variance is one."""
        small = torch.from_numpy(self.small[: self.held_out])
        large = torch.from_numpy(self.large[: self.held_out])
        return {"mse": float((self._upsample(small) - large).square().mean())}

    def _upsample(self, latent: Tensor) -> Tensor:
        raw = self.statistics.un_normalise(latent)
        weight = self.upsampler.initial_conv.weight
        return self.statistics.normalise(self.upsampler(raw.to(weight.dtype)).float())
