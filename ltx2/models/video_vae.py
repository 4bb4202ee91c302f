"""The convolutional video VAE: pixels (B, F, H, W, 3) in [-1, 1] to normalised latents and back.

No posterior is sampled: the encoder returns the normalised means. A correct decoder needs no
brightness offset (spec video_vae.md section 4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.latents import VideoScale, patchify_pixels, unpatchify_pixels
from ltx2.models.video_vae_blocks import (
    Downsample,
    Noise,
    PaddedConv3d,
    Padding,
    ResnetBlock,
    ResnetGroup,
    Upsample,
    modulation,
)
from ltx2.models.video_vae_config import BlockConfig, VideoDecoderConfig, VideoEncoderConfig
from ltx2.nn.module import Param, named
from ltx2.nn.timestep import TimestepEmbedder
from ltx2.ops import Array

log = logging.getLogger(__name__)

Trace = Callable[[Array], None]
DECODE_TIMESTEP = 0.05
DECODE_NOISE_SCALE = 0.025

DownBlock = ResnetGroup | ResnetBlock | Downsample | PaddedConv3d
UpBlock = ResnetGroup | ResnetBlock | Upsample


@dataclass
class PerChannelStatistics:
    """Mean and deviation of every latent channel; the VAE and the latent upsamplers share them."""

    mean: Array = named("mean-of-means")  # (C,)
    std: Array = named("std-of-means")  # (C,)

    @classmethod
    def declare(cls, channels: int) -> PerChannelStatistics:
        return cls(Param((channels,)), Param((channels,)))

    def normalise(self, latent: Array) -> Array:
        """(B, F, H, W, C) as the encoder's network makes it -> as the transformer sees it."""
        return (latent - ops.like(self.mean, latent)) / ops.like(self.std, latent)

    def un_normalise(self, latent: Array) -> Array:
        """The inverse of `normalise`."""
        return latent * ops.like(self.std, latent) + ops.like(self.mean, latent)


@dataclass
class VideoEncoder:
    """(B, F, H, W, 3) pixels -> (B, F', H', W', C) normalised means."""

    conv_in: PaddedConv3d
    down_blocks: list[DownBlock]
    conv_out: PaddedConv3d
    per_channel_statistics: PerChannelStatistics
    config: VideoEncoderConfig

    @classmethod
    def declare(cls, config: VideoEncoderConfig) -> VideoEncoder:
        padding = Padding(config.padding, causal=True)
        width = config.latent_channels
        conv_in = PaddedConv3d.declare(config.in_channels * config.patch_size**2, width, padding)
        blocks: list[DownBlock] = []
        for block in config.blocks:
            blocks.append(_declare_down(block, width, padding))
            width *= block.multiplier
        conv_out = PaddedConv3d.declare(width, config.out_channels, padding)
        return cls(
            conv_in, blocks, conv_out, PerChannelStatistics.declare(config.latent_channels), config
        )

    @property
    def scale(self) -> VideoScale:
        return self.config.scale

    def __call__(self, pixels: Array, trace: Trace | None = None) -> Array:
        """Encode pixels in [-1, 1]; frames beyond the last 1 + 8k are dropped with a warning.

        `trace` is called with the output of every block.
        """
        pixels = crop_frames(pixels, self.scale)
        h = ops.like(pixels, self.conv_in.conv.weight)
        h = self.conv_in(patchify_pixels(h, self.config.patch_size))
        for block in self.down_blocks:
            h = block(h)
            ops.evaluate(h)
            if trace is not None:
                trace(h)
        h = self.conv_out.norm_silu(h)
        return self.per_channel_statistics.normalise(h[..., : self.config.latent_channels])


def _declare_down(block: BlockConfig, width: int, padding: Padding) -> DownBlock:
    out = width * block.multiplier
    if block.kind == "res_x":
        return ResnetGroup.declare(block, width, padding, conditioned=False)
    if block.kind == "res_x_y":
        return ResnetBlock.declare(width, out, padding, inject_noise=False, conditioned=False)
    if block.kind.endswith("_res"):
        return Downsample.declare(width, out, block.stride, padding)
    return PaddedConv3d.declare(width, out, padding, block.stride)


def crop_frames(pixels: Array, scale: VideoScale) -> Array:
    """Drop the frames after the last 1 + k * scale.time of (B, F, H, W, 3), with a warning.

    Raises UserError where height or width is not a multiple of the scale.
    """
    frames, height, width = pixels.shape[1:4]
    for name, size in (("height", height), ("width", width)):
        if size % scale.space:
            low = size // scale.space * scale.space
            raise UserError(
                f"{name}={size} is not a multiple of {scale.space} pixels;"
                f" use {low or scale.space} or {low + scale.space}"
            )
    extra = (frames - 1) % scale.time
    if extra:
        log.warning(
            "%d frames are not 1 + %dk: the last %d are not encoded", frames, scale.time, extra
        )
    return pixels[:, : frames - extra]


@dataclass
class VideoDecoder:
    """(B, F, H, W, C) normalised latent -> (B, F', H', W', 3) pixels in about [-1, 1]."""

    conv_in: PaddedConv3d
    up_blocks: list[UpBlock]
    conv_out: PaddedConv3d
    per_channel_statistics: PerChannelStatistics
    config: VideoDecoderConfig
    timestep_scale_multiplier: Array | None = None  # ()
    last_time_embedder: TimestepEmbedder | None = None
    last_scale_shift_table: Array | None = None  # (2, C): shift, scale

    @classmethod
    def declare(cls, config: VideoDecoderConfig) -> VideoDecoder:
        padding = Padding(config.padding, config.causal)
        width = config.bottleneck
        conv_in = PaddedConv3d.declare(config.latent_channels, width, padding)
        blocks: list[UpBlock] = []
        for block in reversed(config.blocks):
            blocks.append(_declare_up(block, width, padding, config.timestep_conditioning))
            width //= block.multiplier
        conv_out = PaddedConv3d.declare(width, config.out_channels * config.patch_size**2, padding)
        decoder = cls(
            conv_in, blocks, conv_out, PerChannelStatistics.declare(config.latent_channels), config
        )
        if config.timestep_conditioning:
            # The stored multiplier, about 916, has more digits than half precision keeps.
            decoder.timestep_scale_multiplier = Param((), dtype="fp32")
            decoder.last_time_embedder = TimestepEmbedder.declare(2 * width)
            decoder.last_scale_shift_table = Param((2, width))
        return decoder

    @property
    def scale(self) -> VideoScale:
        return self.config.scale

    def __call__(
        self,
        latent: Array,
        timestep: np.ndarray | float | None = None,
        noise: Noise | None = None,
        noise_scale: float = DECODE_NOISE_SCALE,
        trace: Trace | None = None,
    ) -> Array:
        """Decode in one piece; a long or large clip is split only by `tiling.tiled_decode`.

        `trace` is called with the output of every block.

        The rest matters only to timestep-conditioned decoders: `timestep` (B,) or one number;
        `noise` draws first for the latent, as (B, C, F, H, W), then two (H, W) planes per
        noise-injecting block. Without `noise` nothing is added and the latent keeps its scale.
        """
        self._check(latent)
        z = ops.like(latent, self.conv_in.conv.weight)
        steps = None
        if self.config.timestep_conditioning:
            steps = self._timesteps(timestep, z.shape[0])
            z = z if noise is None else _noised(z, noise, noise_scale)
        h = self.conv_in(self.per_channel_statistics.un_normalise(z))
        for block in self.up_blocks:
            h = _run_up(block, h, steps, noise)
            ops.evaluate(h)
            if trace is not None:
                trace(h)
        h = self.conv_out.norm_silu(h, *self._last_modulation(steps))
        return ops.like(unpatchify_pixels(h, self.config.patch_size), latent)

    def _check(self, latent: Array) -> None:
        if self.config.padding == "reflect" and min(latent.shape[2:4]) < 2:
            raise UserError(
                f"a latent of {latent.shape[2]} x {latent.shape[3]} is too small for this video"
                f" VAE, which pads by reflection; use at least {2 * self.scale.space} pixels"
            )

    def _timesteps(self, timestep: np.ndarray | float | None, batch: int) -> np.ndarray:
        value = DECODE_TIMESTEP if timestep is None else timestep
        steps = np.broadcast_to(np.asarray(value, np.float32), (batch,))
        return steps * ops.to_numpy(self.timestep_scale_multiplier)

    def _last_modulation(self, steps: np.ndarray | None) -> list[Array]:
        if self.last_time_embedder is None:
            return []
        assert steps is not None
        return modulation(self.last_scale_shift_table, self.last_time_embedder(steps))


def _declare_up(block: BlockConfig, width: int, padding: Padding, conditioned: bool) -> UpBlock:
    if block.kind == "res_x":
        return ResnetGroup.declare(block, width, padding, conditioned)
    if block.kind == "res_x_y":
        # These never see a timestep.
        out = width // block.multiplier
        return ResnetBlock.declare(width, out, padding, block.inject_noise, conditioned=False)
    return Upsample.declare(block, width, padding)


def _run_up(block: UpBlock, h: Array, steps: np.ndarray | None, noise: Noise | None) -> Array:
    if isinstance(block, ResnetGroup):
        return block(h, steps, noise)
    return block(h, noise=noise) if isinstance(block, ResnetBlock) else block(h)


def _noised(latent: Array, noise: Noise, scale: float) -> Array:
    """Noise goes onto the normalised latent, drawn in the channels-first order of the reference."""
    batch, frames, height, width, channels = latent.shape
    draw = noise((batch, channels, frames, height, width))
    draw = rearrange(draw, "b c f h w -> b f h w c")
    return scale * ops.like(ops.asarray(draw, latent), latent) + (1 - scale) * latent
