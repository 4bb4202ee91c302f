"""Latent upsamplers: one network for spatial x2, x1.5 and temporal x2 (spec upsamplers.md).

They work on un-normalised latents. Group norms run over all frames jointly: per-frame statistics
flicker. Every convolution pads with zeros and is not causal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.latents import Grid
from ltx2.models.video_vae_blocks import Stride, depth_to_space
from ltx2.nn.layers import Conv2d, Conv3d, GroupNorm
from ltx2.nn.module import Param, named
from ltx2.ops import Array

RATIOS = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}
NORM_GROUPS = 32
NORM_EPS = 1e-5


@dataclass(frozen=True)
class UpsamplerConfig:
    """`ratio` (numerator, denominator) of the sides and `time` 1 or 2, as the file's kind makes."""

    in_channels: int
    mid_channels: int
    blocks: int
    ratio: tuple[int, int]
    time: int
    rational: bool

    @classmethod
    def from_metadata(cls, config: dict[str, Any]) -> UpsamplerConfig:
        """From the top level of an upsampler file's config; defaults as in spec section 1."""
        spatial = config.get("spatial_upsample", True)
        temporal = config.get("temporal_upsample", False)
        if not spatial and not temporal:
            raise UserError(
                "upsampler metadata: spatial_upsample and temporal_upsample are both false"
            )
        if config.get("dims", 3) != 3:
            raise UserError(f"upsampler metadata dims={config['dims']} is not supported; only 3 is")
        rational = bool(config.get("rational_resampler", False) and spatial and not temporal)
        scale = float(config.get("spatial_scale", 2.0)) if rational else 2.0
        if scale not in RATIOS:
            known = ", ".join(f"{ratio:g}" for ratio in RATIOS)
            raise UserError(f"upsampler metadata spatial_scale={scale:g}; known: {known}")
        return cls(
            in_channels=config.get("in_channels", 128),
            mid_channels=config.get("mid_channels", 512),
            blocks=config.get("num_blocks_per_stage", 4),
            ratio=RATIOS[scale] if spatial else (1, 1),
            time=2 if temporal else 1,
            rational=rational,
        )

    @property
    def kind(self) -> str:
        """Such as `spatial x1.5` or `temporal x2`."""
        if self.time == 1:
            return f"spatial x{self.ratio[0] / self.ratio[1]:g}"
        return "temporal x2" if self.ratio == (1, 1) else "spatial and temporal x2"

    def grid(self, grid: Grid) -> Grid:
        """The latent grid that comes out; doubling time drops the first of the 2*F frames."""
        frames, *sides = grid
        up, down = self.ratio
        height, width = ((up * side - 1) // down + 1 for side in sides)
        return self.time * frames - self.time + 1, height, width


def _conv3d(width: int, out: int) -> Conv3d:
    return Conv3d.declare(width, out, 3, pad=((1, 1), (1, 1), (1, 1)))


def _conv2d(width: int, out: int) -> Conv2d:
    return Conv2d.declare(width, out, 3, pad=((1, 1), (1, 1)))


def _norm(width: int) -> GroupNorm:
    return GroupNorm.declare(width, NORM_GROUPS, NORM_EPS)


@dataclass
class ResBlock:
    """silu(x + norm2(conv2(silu(norm1(conv1(x)))))): the activation follows the sum."""

    conv1: Conv3d
    norm1: GroupNorm
    conv2: Conv3d
    norm2: GroupNorm

    @classmethod
    def declare(cls, width: int) -> ResBlock:
        return cls(_conv3d(width, width), _norm(width), _conv3d(width, width), _norm(width))

    def __call__(self, x: Array) -> Array:
        h = ops.silu(self.norm1(self.conv1(x)))
        return ops.silu(x + self.norm2(self.conv2(h)))


def _per_frame(conv: Conv2d, x: Array) -> Array:
    """A 2-D convolution of (B, F, H, W, C)."""
    batch, frames = x.shape[:2]
    y = conv(x.reshape(batch * frames, *x.shape[2:]))
    return y.reshape(batch, frames, *y.shape[1:])


@dataclass
class Shuffle:
    """A convolution whose channels become frames, rows and columns."""

    conv: Conv2d | Conv3d = named("0")
    stride: Stride = (1, 1, 1)

    @classmethod
    def declare(cls, width: int, stride: Stride) -> Shuffle:
        convolution = _conv2d if stride[0] == 1 else _conv3d
        return cls(convolution(width, width * int(np.prod(stride))), stride)

    def __call__(self, x: Array) -> Array:
        y = self.conv(x) if isinstance(self.conv, Conv3d) else _per_frame(self.conv, x)
        return depth_to_space(y, self.stride)


def binomial_kernel() -> np.ndarray:
    """(1, 1, 5, 5) float32: outer product of 1 4 6 4 1 with itself over 256."""
    row = np.array([1, 4, 6, 4, 1], np.float32)
    return (np.outer(row, row) / 256)[None, None]


@dataclass
class BlurDown:
    """5x5 binomial blur of every channel of every frame, keeping each `step`-th position."""

    kernel: Array  # (1, 1, 5, 5); a constant, which converted files may lack
    step: int

    @classmethod
    def declare(cls, step: int) -> BlurDown:
        return cls(Param((1, 1, 5, 5), kind="conv", default=binomial_kernel), step)

    def __call__(self, x: Array) -> Array:
        """(B, F, H, W, C) -> the sides become ceil(side / step)."""
        if self.step == 1:
            # No decimation, no blur: it would only soften.
            return x
        batch, frames, height, width, channels = x.shape
        kernel = ops.broadcast_to(self.kernel, (channels, *self.kernel.shape[1:]))
        y = ops.conv2d(
            x.reshape(batch * frames, height, width, channels), kernel,
            stride=(self.step, self.step), pad=((2, 2), (2, 2)), groups=channels,
        )  # fmt: skip
        return y.reshape(batch, frames, *y.shape[1:])


@dataclass
class RationalShuffle:
    """Sides times a ratio: pixel shuffle by the numerator, blur and decimate by the denominator."""

    conv: Conv2d
    blur_down: BlurDown
    stride: Stride

    @classmethod
    def declare(cls, width: int, ratio: tuple[int, int]) -> RationalShuffle:
        up, down = ratio
        return cls(_conv2d(width, up * up * width), BlurDown.declare(down), (1, up, up))

    def __call__(self, x: Array) -> Array:
        return self.blur_down(depth_to_space(_per_frame(self.conv, x), self.stride))


@dataclass
class LatentUpsampler:
    """(B, F, H, W, C) un-normalised latent -> the same on a finer grid."""

    initial_conv: Conv3d
    initial_norm: GroupNorm
    res_blocks: list[ResBlock]
    upsampler: Shuffle | RationalShuffle
    post_upsample_res_blocks: list[ResBlock]
    final_conv: Conv3d
    config: UpsamplerConfig

    @classmethod
    def declare(cls, config: UpsamplerConfig) -> LatentUpsampler:
        width = config.mid_channels
        up: Shuffle | RationalShuffle
        if config.rational:
            up = RationalShuffle.declare(width, config.ratio)
        else:
            up = Shuffle.declare(width, (config.time, config.ratio[0], config.ratio[0]))
        return cls(
            _conv3d(config.in_channels, width),
            _norm(width),
            [ResBlock.declare(width) for _ in range(config.blocks)],
            up,
            [ResBlock.declare(width) for _ in range(config.blocks)],
            _conv3d(width, config.in_channels),
            config,
        )

    def __call__(self, latent: Array) -> Array:
        h = ops.silu(self.initial_norm(self.initial_conv(latent)))
        for block in self.res_blocks:
            h = block(h)
        ops.evaluate(h)
        h = self.upsampler(h)
        for block in self.post_upsample_res_blocks:
            h = block(h)
        return self.final_conv(h)
