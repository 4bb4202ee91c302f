"""The audio VAE: log-mel spectrograms <-> latents, four frames and four bins to one.

Time takes the place of image height and is causal: convolutions look back only. Arrays are
(B, T, M, C). Source: spec audio.md 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from einops import rearrange

from ltx2 import ops
from ltx2.models.audio_vae_config import AudioVaeConfig
from ltx2.nn.layers import Conv2d
from ltx2.nn.module import Param, named
from ltx2.ops import Array

NORM_EPS = 1e-6


@dataclass
class CausalConv:
    """Zero padding: all of it before in time, half on each side in mel."""

    conv: Conv2d

    @classmethod
    def declare(cls, width: int, out: int, kernel: int = 3) -> CausalConv:
        half = kernel // 2
        return cls(Conv2d.declare(width, out, kernel, pad=((kernel - 1, 0), (half, half))))

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


@dataclass
class ResBlock:
    """x + conv2(silu(norm(conv1(silu(norm(x))))))."""

    conv1: CausalConv
    conv2: CausalConv
    nin_shortcut: CausalConv | None

    @classmethod
    def declare(cls, width: int, out: int) -> ResBlock:
        shortcut = CausalConv.declare(width, out, 1) if width != out else None
        return cls(CausalConv.declare(width, out), CausalConv.declare(out, out), shortcut)

    def __call__(self, x: Array) -> Array:
        h = self.conv1(_activate(x))
        h = self.conv2(_activate(h))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


@dataclass
class AttentionBlock:
    """One head over all positions of the spectrogram; absent from released files."""

    q: Conv2d
    k: Conv2d
    v: Conv2d
    proj_out: Conv2d

    @classmethod
    def declare(cls, width: int) -> AttentionBlock:
        return cls(*(Conv2d.declare(width, width, 1) for _ in range(4)))

    def __call__(self, x: Array) -> Array:
        h = ops.rms_norm(x, eps=NORM_EPS)
        q, k, v = (rearrange(f(h), "b t m c -> b 1 (t m) c") for f in (self.q, self.k, self.v))
        return x + self.proj_out(ops.attention(q, k, v).reshape(x.shape))


@dataclass
class Downsample:
    """(B, T, M, C) -> (B, ceil(T / 2), M / 2, C)."""

    conv: Conv2d

    @classmethod
    def declare(cls, width: int) -> Downsample:
        return cls(Conv2d.declare(width, width, 3, stride=(2, 2), pad=((2, 0), (0, 1))))

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


@dataclass
class Upsample:
    """(B, T, M, C) -> (B, 2T - 1, 2M, C): the first latent frame covers one frame less."""

    conv: CausalConv

    @classmethod
    def declare(cls, width: int) -> Upsample:
        return cls(CausalConv.declare(width, width))

    def __call__(self, x: Array) -> Array:
        b, t, m, c = x.shape
        doubled = ops.broadcast_to(x[:, :, None, :, None], (b, t, 2, m, 2, c))
        return self.conv(doubled.reshape(b, 2 * t, 2 * m, c))[:, 1:]


@dataclass
class Middle:
    """The blocks between the two halves of the network."""

    block_1: ResBlock
    attn_1: AttentionBlock | None
    block_2: ResBlock

    @classmethod
    def declare(cls, width: int, attention: bool) -> Middle:
        attn = AttentionBlock.declare(width) if attention else None
        return cls(ResBlock.declare(width, width), attn, ResBlock.declare(width, width))

    def __call__(self, x: Array) -> Array:
        x = self.block_1(x)
        x = x if self.attn_1 is None else self.attn_1(x)
        return self.block_2(x)


@dataclass
class Level:
    """Residual blocks at one resolution, then the change to the next."""

    block: list[ResBlock]
    attn: list[AttentionBlock]
    downsample: Downsample | None = None
    upsample: Upsample | None = None

    @classmethod
    def declare(cls, width: int, out: int, blocks: int, attention: bool) -> Level:
        widths = [width] + [out] * (blocks - 1)
        attn = [AttentionBlock.declare(out) for _ in widths] if attention else []
        return cls([ResBlock.declare(w, out) for w in widths], attn)

    def __call__(self, x: Array, places: count[int]) -> Array:
        """`places` numbers the evaluation points of the forward pass."""
        for index, block in enumerate(self.block):
            x = block(x)
            x = self.attn[index](x) if self.attn else x
            ops.settle(next(places), x)
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)
        return x


@dataclass
class LatentStatistics:
    """Mean and standard deviation of each (channel, bin), channel slowest."""

    mean: Array = named("mean-of-means")  # (Ca * M,)
    std: Array = named("std-of-means")

    @classmethod
    def declare(cls, config: AudioVaeConfig) -> LatentStatistics:
        shape = (config.latent_channels * config.latent_bins,)
        return cls(Param(shape), Param(shape))

    def normalise(self, latent: Array) -> Array:
        """(B, T, M, Ca) as the transformer sees it: zero mean, unit variance."""
        return (latent - _per_bin(self.mean, latent)) / _per_bin(self.std, latent)

    def restore(self, latent: Array) -> Array:
        """The inverse of `normalise`."""
        return latent * _per_bin(self.std, latent) + _per_bin(self.mean, latent)


@dataclass
class AudioEncoder:
    """Log-mel (B, T, M, 2) -> normalised latent (B, ceil(T / 4), M / 4, Ca)."""

    conv_in: CausalConv
    down: list[Level]
    mid: Middle
    conv_out: CausalConv
    per_channel_statistics: LatentStatistics
    config: AudioVaeConfig

    @classmethod
    def declare(cls, config: AudioVaeConfig) -> AudioEncoder:
        widths, before = config.widths, (config.base_channels, *config.widths)
        down = []
        for level, width in enumerate(widths):
            attention = config.level_has_attention(level)
            down.append(Level.declare(before[level], width, config.blocks, attention))
            if level < len(widths) - 1:
                down[-1].downsample = Downsample.declare(width)
        return cls(
            CausalConv.declare(config.in_channels, config.base_channels),
            down,
            Middle.declare(widths[-1], config.mid_attention),
            CausalConv.declare(widths[-1], config.latent_channels * (1 + config.double_z)),
            LatentStatistics.declare(config),
            config,
        )

    def __call__(self, mel: Array) -> Array:
        places = count()
        x = self.conv_in(mel)
        for level in self.down:
            x = level(x, places)
        x = self.conv_out(_activate(self.mid(x)))
        # The other half of the channels is the variance, unused after training.
        return self.per_channel_statistics.normalise(x[..., : self.config.latent_channels])


@dataclass
class AudioDecoder:
    """Normalised latent (B, T, M, Ca) -> log-mel (B, 4T - 3, 4M, 2)."""

    conv_in: CausalConv
    mid: Middle
    up: list[Level]
    conv_out: CausalConv
    per_channel_statistics: LatentStatistics
    config: AudioVaeConfig

    @classmethod
    def declare(cls, config: AudioVaeConfig) -> AudioDecoder:
        widths = config.widths
        before = (*widths[1:], widths[-1])
        up = []
        for level, width in enumerate(widths):
            attention = config.level_has_attention(level)
            up.append(Level.declare(before[level], width, config.blocks + 1, attention))
            if level > 0:
                up[-1].upsample = Upsample.declare(width)
        return cls(
            CausalConv.declare(config.latent_channels, widths[-1]),
            Middle.declare(widths[-1], config.mid_attention),
            up,
            CausalConv.declare(widths[0], config.out_channels),
            LatentStatistics.declare(config),
            config,
        )

    def __call__(self, latent: Array) -> Array:
        places = count()
        x = self.mid(self.conv_in(self.per_channel_statistics.restore(latent)))
        for level in reversed(self.up):
            x = level(x, places)
        return self.conv_out(_activate(x))


def _activate(x: Array) -> Array:
    return ops.silu(ops.rms_norm(x, eps=NORM_EPS))


def _per_bin(values: Array, latent: Array) -> Array:
    """(Ca * M,) -> (M, Ca), broadcasting over `latent` (B, T, M, Ca)."""
    bins, channels = latent.shape[2:]
    return values.reshape(channels, bins).swapaxes(0, 1)
