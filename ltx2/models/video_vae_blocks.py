"""Building blocks of the convolutional video VAE (spec video_vae.md sections 2.1 to 2.6).

All activations are (B, F, H, W, C). Time is padded by repeating border frames, never by zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from ltx2 import ops
from ltx2.models.video_vae_config import BlockConfig
from ltx2.nn.layers import Conv3d, GroupNorm
from ltx2.nn.module import Param
from ltx2.nn.timestep import TimestepEmbedder
from ltx2.ops import Array

PIXEL_NORM_EPS = 1e-8
Noise = Callable[[tuple[int, ...]], np.ndarray]  # shape -> normal draws of that shape
Stride = tuple[int, int, int]


@dataclass(frozen=True)
class Padding:
    """How every kernel-3 convolution of one half pads: time causally or not, space by `mode`."""

    mode: str
    causal: bool

    @property
    def time(self) -> tuple[int, int]:
        """Copies of the first frame before, of the last frame after."""
        return (2, 0) if self.causal else (1, 1)


@dataclass
class PaddedConv3d:
    """Kernel-3 convolution that keeps (F, H, W) apart from its stride."""

    conv: Conv3d

    @classmethod
    def declare(
        cls, width: int, out: int, padding: Padding, stride: Stride = (1, 1, 1)
    ) -> PaddedConv3d:
        pad = (padding.time, (1, 1), (1, 1))
        modes = ("edge", padding.mode, padding.mode)
        return cls(Conv3d.declare(width, out, 3, stride=stride, pad=pad, modes=modes))

    def __call__(self, x: Array) -> Array:
        return self.conv(x)

    def norm_silu(self, x: Array, shift: Array | None = None, scale: Array | None = None) -> Array:
        """The convolution of silu(pixel_norm(x) * (1 + scale) + shift).

        The pixel norm is over channels, without weight; shift and scale are (B, 1, 1, 1, C), both
        or neither.
        """
        conv = self.conv
        kernel = conv.weight, conv.bias, conv.pad, conv.modes
        return ops.norm_silu_conv3d(x, scale, shift, PIXEL_NORM_EPS, *kernel)


def modulation(table: Array, embedding: Array) -> list[Array]:
    """Rows of table (R, C) + embedding (B, R*C), each (B, 1, 1, 1, C)."""
    rows, width = table.shape
    ada = table[None] + embedding.reshape(-1, rows, width)
    return [ada[:, row, None, None, None] for row in range(rows)]


@dataclass
class ResnetBlock:
    """x + conv2(conv1(x)), each after norm and SiLU; optionally modulated and with noise added."""

    conv1: PaddedConv3d
    conv2: PaddedConv3d
    norm3: GroupNorm | None = None
    conv_shortcut: Conv3d | None = None
    scale_shift_table: Array | None = None  # (4, C): shift1, scale1, shift2, scale2
    per_channel_scale1: Array | None = None  # (C, 1, 1)
    per_channel_scale2: Array | None = None  # (C, 1, 1)

    @classmethod
    def declare(
        cls, width: int, out: int, padding: Padding, inject_noise: bool, conditioned: bool
    ) -> ResnetBlock:
        block = cls(
            PaddedConv3d.declare(width, out, padding), PaddedConv3d.declare(out, out, padding)
        )
        if width != out:
            block.norm3 = GroupNorm.declare(width, groups=1, eps=1e-6)
            block.conv_shortcut = Conv3d.declare(width, out, 1)
        if conditioned:
            block.scale_shift_table = Param((4, width))
        if inject_noise:
            block.per_channel_scale1 = Param((out, 1, 1))
            block.per_channel_scale2 = Param((out, 1, 1))
        return block

    def __call__(
        self, x: Array, embedding: Array | None = None, noise: Noise | None = None
    ) -> Array:
        """x (B, F, H, W, C), embedding (B, 4*C) -> (B, F, H, W, C')."""
        rows = [None] * 4
        if self.scale_shift_table is not None:
            rows = modulation(self.scale_shift_table, embedding)
        h = _add_noise(self.conv1.norm_silu(x, *rows[:2]), self.per_channel_scale1, noise)
        h = _add_noise(self.conv2.norm_silu(h, *rows[2:]), self.per_channel_scale2, noise)
        if self.norm3 is not None and self.conv_shortcut is not None:
            x = self.conv_shortcut(self.norm3(x))
        return x + h


def _add_noise(x: Array, scale: Array | None, noise: Noise | None) -> Array:
    """One plane of noise (H, W) times the channel's scale, the same for all samples and frames."""
    if scale is None or noise is None:
        return x
    plane = ops.like(ops.asarray(noise(tuple(x.shape[2:4])), x), x)
    return x + plane[..., None] * scale.reshape(-1)


@dataclass
class ResnetGroup:
    """Residual blocks of equal width that share one timestep embedder."""

    res_blocks: list[ResnetBlock]
    time_embedder: TimestepEmbedder | None = None

    @classmethod
    def declare(
        cls, config: BlockConfig, width: int, padding: Padding, conditioned: bool
    ) -> ResnetGroup:
        blocks = [
            ResnetBlock.declare(width, width, padding, config.inject_noise, conditioned)
            for _ in range(config.layers)
        ]
        return cls(blocks, TimestepEmbedder.declare(4 * width) if conditioned else None)

    def __call__(
        self, x: Array, timestep: np.ndarray | None = None, noise: Noise | None = None
    ) -> Array:
        """`timestep` (B,) is already multiplied; needed where there is an embedder."""
        embedding = None
        if self.time_embedder is not None:
            assert timestep is not None
            embedding = self.time_embedder(timestep)
        for block in self.res_blocks:
            x = block(x, embedding, noise)
        return x


def space_to_depth(x: Array, stride: Stride) -> Array:
    """(B, F*a, H*b, W*c, C) -> (B, F, H, W, C*a*b*c), the old channel slowest."""
    a, b, c = stride
    pattern = "n (f a) (h b) (w c) k -> n f h w (k a b c)"
    return rearrange(x, pattern, a=a, b=b, c=c)


def depth_to_space(x: Array, stride: Stride) -> Array:
    """The inverse of `space_to_depth`, without the first frame where time doubles.

    The first latent frame stands for one frame, so one of its two is dropped, causal or not.
    """
    a, b, c = stride
    pattern = "n f h w (k a b c) -> n (f a) (h b) (w c) k"
    x = rearrange(x, pattern, a=a, b=b, c=c)
    return x[:, 1:] if a == 2 else x


@dataclass
class Downsample:
    """Space-to-depth of a convolution plus the channel-averaged space-to-depth of the input."""

    conv: PaddedConv3d
    stride: Stride

    @classmethod
    def declare(cls, width: int, out: int, stride: Stride, padding: Padding) -> Downsample:
        return cls(PaddedConv3d.declare(width, out // math.prod(stride), padding), stride)

    def __call__(self, x: Array) -> Array:
        """(B, F, H, W, C) -> (B, (F + a - 1) / a, H / b, W / c, C')."""
        if self.stride[0] == 2:
            x = ops.concat([x[:, :1], x], axis=1)
        y = space_to_depth(self.conv(x), self.stride)
        skip = space_to_depth(x, self.stride)
        group = skip.shape[-1] // y.shape[-1]
        skip = skip.reshape(*skip.shape[:-1], y.shape[-1], group).mean(axis=-1)
        return y + skip


@dataclass
class Upsample:
    """Depth-to-space of a convolution; `copies` of the input's own are added if not zero."""

    conv: PaddedConv3d
    stride: Stride
    copies: int

    @classmethod
    def declare(cls, config: BlockConfig, width: int, padding: Padding) -> Upsample:
        factor = math.prod(config.stride)
        copies = factor // config.multiplier if config.residual else 0
        conv = PaddedConv3d.declare(width, factor * width // config.multiplier, padding)
        return cls(conv, config.stride, copies)

    def __call__(self, x: Array) -> Array:
        """(B, F, H, W, C) -> (B, a*F - a + 1, b*H, c*W, C / multiplier)."""
        y = depth_to_space(self.conv(x), self.stride)
        if not self.copies:
            return y
        # Whole copies one after the other, not each channel repeated.
        return y + ops.concat([depth_to_space(x, self.stride)] * self.copies, axis=-1)
