"""Training of the video VAE: reconstruction of rendered clips.

The latent is normalised by running statistics instead of being pulled to a prior (KL). Those in
the file are chosen beforehand and folded into the encoder's last convolution at export.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.models.video_vae import VideoDecoder, VideoEncoder

# (rng, step) -> pixels (B, F, H, W, 3) in [0, 1] and weights (B, F, H, W)
Clips = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]

TRUNK_PENALTY = 0.05
STATISTICS_MOMENTUM = 0.01


@dataclass
class VideoVaeObjective:
    """Encoder and decoder together on batches of `clips`.

    Losses: L1 + 2 MSE, weighted per pixel; L1 of differences between neighbours from step
    `edges_from` on (earlier it makes the mean picture a local optimum); a penalty on the logarithm
    of the blocks' RMS, which pixel norms leave free. From `settle_from` on the running statistics
    stay as they are.
    """

    encoder: VideoEncoder
    decoder: VideoDecoder
    clips: Clips
    held_out: tuple[np.ndarray, ...] = ()
    edges_from: int = 600
    settle_from: int = 10**9
    noise: float = 0.1
    frozen_encoder: bool = False
    mean: Tensor = field(init=False)
    variance: Tensor = field(init=False)

    def __post_init__(self) -> None:
        channels = self.encoder.config.latent_channels
        self.mean, self.variance = torch.zeros(channels), torch.ones(channels)

    def trains(self, name: str) -> bool:
        """All but the statistics; with `frozen_encoder` the decoder alone."""
        fixed = self.frozen_encoder and name.startswith("encoder")
        return "per_channel_statistics" not in name and not fixed

    @property
    def modules(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def state(self) -> dict[str, Tensor]:
        """Running statistics of the raw latent."""
        return {"mean": self.mean, "variance": self.variance}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.mean, self.variance = state["mean"], state["variance"]

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        host, weights = self.clips(rng, step)
        pixels = torch.from_numpy(host * 2 - 1)
        trunk: list[Tensor] = []
        z = self.encode(pixels, trunk, fixed=step >= self.settle_from)
        spread = torch.from_numpy(rng.uniform(0, self.noise, (len(z), 1, 1, 1, 1)))
        noise = torch.from_numpy(rng.standard_normal(z.shape, np.float32))
        out = self.decoder(z + spread.to(z.dtype) * noise.to(z.dtype), trace=trunk.append).float()
        error = out - pixels
        weight = torch.from_numpy(weights)[..., None]
        norm = weight.sum() * 3
        l1, square = (error.abs() * weight).sum() / norm, (error.square() * weight).sum() / norm
        penalty = sum(x.float().square().mean().add(1e-8).log().div(2).square() for x in trunk)
        total = l1 + 2 * square + TRUNK_PENALTY * penalty
        if step >= self.edges_from:
            total = total + _edges(error, weight)
        psnr = 10 * torch.log10(4 / error.detach().square().mean())
        return total, {"psnr": float(psnr), "trunk": float(torch.as_tensor(penalty).detach())}

    def encode(self, pixels: Tensor, trunk: list[Tensor], fixed: bool) -> Tensor:
        """Pixels (B, F, H, W, 3) in [-1, 1] to a latent of mean 0 and variance 1 per channel."""
        raw = self.encoder(pixels, trace=trunk.append)
        if torch.is_grad_enabled() and not fixed:
            self._follow(raw.detach().float().reshape(-1, raw.shape[-1]))
        return ((raw - self.mean) * (self.variance + 1e-6).rsqrt()).to(raw.dtype)

    @torch.no_grad()
    def _follow(self, rows: Tensor) -> None:
        """Move the running statistics towards those of `rows` (N, C).

        Mean and mean square are followed, not the batch's variance: a batch may show one scene, in
        which a channel that stands for its background does not vary at all.
        """
        square = self.variance + self.mean.square()
        square = torch.lerp(square, rows.square().mean(0), STATISTICS_MOMENTUM)
        self.mean = torch.lerp(self.mean, rows.mean(0), STATISTICS_MOMENTUM)
        self.variance = (square - self.mean.square()).clamp(min=1e-4)

    def evaluate(self) -> dict[str, float]:
        """PSNR in dB on the held-out clips, one figure per size."""
        found = {}
        for host in self.held_out:
            pixels = torch.from_numpy(host * 2 - 1)
            out = self.decoder(self.encode(pixels, [], fixed=True)).float().clamp(-1, 1)
            errors = (out - pixels).square().mean(dim=(1, 2, 3, 4))
            found[f"psnr_{host.shape[2]}"] = float((10 * torch.log10(4 / errors)).mean())
        return found

    @torch.no_grad()
    def fold(self, mean: Tensor, std: Tensor) -> None:
        """Make the encoder produce latents that the statistics `mean`, `std` normalise.

        The decoder, which was trained on normalised latents, un-normalises them by the same.
        """
        conv, channels = self.encoder.conv_out.conv, len(mean)
        assert conv.bias is not None
        scale = std * (self.variance + 1e-6).rsqrt()
        conv.weight[:channels] *= scale.reshape(-1, 1, 1, 1, 1)
        conv.bias[:channels] = (conv.bias[:channels] - self.mean) * scale + mean


def _edges(error: Tensor, weight: Tensor) -> Tensor:
    """L1 of the differences between neighbours of the error, in rows and columns."""
    rows = (error[:, :, 1:] - error[:, :, :-1]).abs() * weight[:, :, 1:]
    columns = (error[:, :, :, 1:] - error[:, :, :, :-1]).abs() * weight[:, :, :, 1:]
    return 0.5 * (rows.mean() + columns.mean()) / F.relu(weight).mean()
