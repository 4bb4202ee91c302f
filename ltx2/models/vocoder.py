"""Generators that turn log-mel spectrograms into waveforms: HiFi-GAN and its AMP variant.

Source: spec audio.md 5 and 6.2. Everything here runs in float32 whatever the files store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import Any

from einops import rearrange

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.audio_vae_config import required, supported
from ltx2.models.snake import AntiAliasedSnake
from ltx2.nn.layers import Conv1d, ConvTranspose1d
from ltx2.ops import Array

STEREO = 2
SLOPE = 0.1
# Not a slip: the last activation has the framework's default slope, the others 0.1.
LAST_SLOPE = 0.01
OUTER_KERNEL = 7


@dataclass(frozen=True)
class GeneratorConfig:
    """One generator. `amp`: snake activations instead of leaky ones. `final`: tanh, clamp, none.

    `rate`: samples per second that come out.
    """

    mel_bins: int
    rate: int
    channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]
    amp: bool
    final_bias: bool
    final: str

    @classmethod
    def from_metadata(
        cls, section: dict[str, Any], mel_bins: int, rate: int, amp: bool, limited: bool = True
    ) -> GeneratorConfig:
        """`limited`: whether samples end up in [-1, 1] where the metadata does not say."""
        supported(section, "stereo", True)
        supported(section, "resblock", "AMP1" if amp else "1")
        if amp:
            supported(section, "activation", "snakebeta")
        config = cls(
            mel_bins=mel_bins,
            rate=rate,
            channels=required(section, "upsample_initial_channel"),
            rates=tuple(required(section, "upsample_rates")),
            kernels=tuple(required(section, "upsample_kernel_sizes")),
            block_kernels=tuple(required(section, "resblock_kernel_sizes")),
            block_dilations=tuple(map(tuple, required(section, "resblock_dilation_sizes"))),
            amp=amp,
            # HiFi-GAN files do not say: they have a bias and end with tanh.
            final_bias=required(section, "use_bias_at_final") if amp else True,
            final=_final(section, amp, limited),
        )
        if len(config.rates) != len(config.kernels):
            raise UserError(
                f"vocoder metadata has rates {config.rates} but kernels {config.kernels}"
            )
        return config

    @property
    def hop(self) -> int:
        """Samples per spectrogram frame."""
        return math.prod(self.rates)


def _final(section: dict[str, Any], amp: bool, limited: bool) -> str:
    if not section.get("apply_final_activation", limited):
        return "none"
    return "tanh" if not amp or required(section, "use_tanh_at_final") else "clamp"


@dataclass
class LeakyReLU:
    """x, or slope * x where negative."""

    slope: float

    def __call__(self, x: Array) -> Array:
        return ops.leaky_relu(x, self.slope)


Activation = LeakyReLU | AntiAliasedSnake


@dataclass
class DilatedBlock:
    """x += conv2(act2(conv1(act1(x)))) for each dilation of conv1."""

    convs1: list[Conv1d]
    convs2: list[Conv1d]
    acts1: list[Activation]
    acts2: list[Activation]

    @classmethod
    def declare(
        cls, width: int, kernel: int, dilations: tuple[int, ...], amp: bool
    ) -> DilatedBlock:
        def conv(dilation: int) -> Conv1d:
            reach = dilation * (kernel - 1) // 2
            return Conv1d.declare(width, width, kernel, pad=(reach, reach), dilation=dilation)

        def activation() -> Activation:
            return AntiAliasedSnake.declare(width) if amp else LeakyReLU(SLOPE)

        return cls(
            [conv(d) for d in dilations],
            [conv(1) for _ in dilations],
            [activation() for _ in dilations],
            [activation() for _ in dilations],
        )

    def __call__(self, x: Array) -> Array:
        steps = zip(self.convs1, self.convs2, self.acts1, self.acts2, strict=True)
        for conv1, conv2, act1, act2 in steps:
            x = x + conv2(act2(conv1(act1(x))))
        return x


@dataclass
class Generator:
    """Log-mel (B, T, M, 2) -> waveform (B, T * hop, 2) at `rate`; LTX-2's whole vocoder."""

    conv_pre: Conv1d
    ups: list[ConvTranspose1d]
    resblocks: list[DilatedBlock]
    act_post: Activation
    conv_post: Conv1d
    config: GeneratorConfig

    @classmethod
    def declare(cls, config: GeneratorConfig) -> Generator:
        widths = [config.channels // 2**i for i in range(len(config.rates) + 1)]
        half = OUTER_KERNEL // 2
        sizes = zip(widths, widths[1:], config.kernels, config.rates, strict=False)
        blocks = [
            DilatedBlock.declare(width, kernel, dilations, config.amp)
            for width in widths[1:]
            for kernel, dilations in zip(config.block_kernels, config.block_dilations, strict=True)
        ]
        snake = AntiAliasedSnake.declare(widths[-1]) if config.amp else LeakyReLU(LAST_SLOPE)
        return cls(
            Conv1d.declare(STEREO * config.mel_bins, widths[0], OUTER_KERNEL, pad=(half, half)),
            [ConvTranspose1d.declare(w, o, k, r, (k - r) // 2) for w, o, k, r in sizes],
            blocks,
            snake,
            Conv1d.declare(
                widths[-1], STEREO, OUTER_KERNEL, bias=config.final_bias, pad=(half, half)
            ),
            config,
        )

    @property
    def rate(self) -> int:
        """Samples per second that come out."""
        return self.config.rate

    def __call__(self, mel: Array) -> Array:
        samples = self.unlimited(mel)
        if self.config.final == "tanh":
            return ops.tanh(samples)
        return ops.clamp(samples, -1.0, 1.0) if self.config.final == "clamp" else samples

    def unlimited(self, mel: Array) -> Array:
        """The waveform before the final activation."""
        places = count()
        x = self.conv_pre(rearrange(mel, "b t m c -> b t (c m)"))
        per_stage = len(self.config.block_kernels)
        for stage, up in enumerate(self.ups):
            x = up(x if self.config.amp else ops.leaky_relu(x, SLOPE))
            blocks = self.resblocks[stage * per_stage : (stage + 1) * per_stage]
            total = 0.0
            for block in blocks:
                total = total + block(x)
                ops.settle(next(places), total)
            x = total / per_stage
        return self.conv_post(self.act_post(x))
