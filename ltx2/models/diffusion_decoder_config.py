"""Architecture of the diffusion video decoder, read from the `vae` metadata (spec video_vae.md 3).

The network has four deterministic stages, each followed by an upsampling, and a diffusion stage
at a quarter of the picture's size. "Cells" are positions of the grid that the fourth stage sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ltx2.errors import UserError
from ltx2.models.latents import VideoScale
from ltx2.models.video_vae_config import latent_width, one_of, section_of, vae_scale

Sizes = tuple[int, int, int]  # time, height, width

STAGES = 4
BORDERS = ("shift", "replicate")
OUTPUTS = ("x0", "v")
# What the reference's class assumes where a header is silent.
CHANNELS = (1024, 512, 256, 256, 128)
DEPTHS = (4, 6, 4, 2, 8)
KERNELS = ((3, 7, 7), (3, 7, 7), (3, 5, 5), (3, 5, 5))
UPSAMPLES = (((1, 2, 2), 2), ((2, 1, 1), 2), ((2, 2, 2), 1), ((2, 2, 2), 2))


@dataclass(frozen=True)
class StageConfig:
    """Blocks of one width and attention window; `kernel` is in positions of the stage's grid."""

    width: int
    depth: int
    kernel: Sizes

    @property
    def reach(self) -> Sizes:
        """Positions by which the last block sees past its own, to either side."""
        time, height, width = (self.depth * (size // 2) for size in self.kernel)
        return time, height, width


@dataclass(frozen=True)
class UpsampleConfig:
    """Factors of (F, H, W), and by how much the width shrinks."""

    stride: Sizes
    reduction: int


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """Latent to pixels in `steps` denoising steps; `output` tells what the network predicts."""

    stages: tuple[StageConfig, ...]  # four deterministic ones, and the diffusion stage
    upsamples: tuple[UpsampleConfig, ...]
    context_width: int  # what the last upsampling leaves
    latent_channels: int
    out_channels: int
    patch_size: int
    head_dim: int
    embedding: int
    timestep_scale: float
    steps: int
    output: str

    @classmethod
    def from_metadata(cls, vae: dict[str, Any]) -> DiffusionDecoderConfig:
        """From the `vae` section of a file's config. Raises UserError naming a wrong key."""
        given = section_of(vae, "decoder")
        widths = tuple(given.get("stage_channels", CHANNELS))
        depths = tuple(given.get("stage_depths", DEPTHS))
        kernels = _kernels(given)
        ups = tuple(
            UpsampleConfig(_sizes("upsamples", stride), int(reduction))
            for stride, reduction in given.get("upsamples", UPSAMPLES)
        )
        counts = {"stage_channels": len(widths), "stage_depths": len(depths)}
        for key, count in (counts | {"upsamples": len(ups) + 1}).items():
            if count != STAGES + 1:
                raise UserError(f"metadata vae.decoder: {key} needs {STAGES + 1} entries")
        own = (*widths[:STAGES], given.get("stage5_channels", widths[-1]))
        config = cls(
            stages=tuple(StageConfig(*s) for s in zip(own, depths, kernels, strict=True)),
            upsamples=ups,
            context_width=widths[-1],
            latent_channels=given.get("in_channels", latent_width(vae)),
            out_channels=given.get("out_channels", 3),
            patch_size=given.get("patch_size", 4),
            head_dim=given.get("head_dim", given.get("na_head_dim", 64)),
            embedding=given.get("t_emb_dim", 384),
            timestep_scale=float(given.get("timestep_scale_multiplier", 1.0)),
            steps=int(given.get("default_num_inference_steps", 2)),
            output=one_of(vae, "model_output_type", OUTPUTS, "v"),
        )
        config._check(widths, vae)
        return config

    def _check(self, widths: Sequence[int], vae: dict[str, Any]) -> None:
        for index, (up, width, after) in enumerate(
            zip(self.upsamples, widths, widths[1:], strict=False)
        ):
            if width != after * up.reduction:
                raise UserError(
                    f"metadata vae.decoder: upsamples[{index}] makes {width // up.reduction}"
                    f" channels of {width}, but stage_channels[{index + 1}] is {after}"
                )
        for stage in self.stages:
            if stage.width % self.head_dim:
                raise UserError(
                    f"metadata vae.decoder: {stage.width} channels are not heads of {self.head_dim}"
                )
        if self.steps < 1:
            raise UserError(f"metadata vae.decoder: default_num_inference_steps={self.steps}")
        if self.scale != vae_scale(vae):
            raise UserError(
                f"metadata vae: the decoder makes {self.scale} of a latent, the encoder takes"
                f" {vae_scale(vae)}"
            )

    @property
    def scale(self) -> VideoScale:
        time, height, _ = (math.prod(axis) for axis in zip(*self._strides, strict=True))
        return VideoScale(time, self.patch_size * height)

    @property
    def _strides(self) -> tuple[Sizes, ...]:
        return tuple(up.stride for up in self.upsamples)

    @property
    def floor(self) -> Sizes:
        """The smallest latent grid that no attention window is larger than."""
        least, seen = [1, 1, 1], [1, 1, 1]
        for stage, stride in zip(self.stages, (*self._strides, (1, 1, 1)), strict=True):
            for axis, size in enumerate(stage.kernel):
                least[axis] = max(least[axis], -(-size // seen[axis]))
                seen[axis] *= stride[axis]
        return least[0], least[1], least[2]

    @property
    def trailing(self) -> int:
        """Copies of the last latent frame that follow the clip, and are cut off later."""
        return 2 * (self.stages[0].kernel[0] // 2)

    @property
    def cell_latents(self) -> Sizes:
        """Cells per latent frame, row and column."""
        before = self._strides[: STAGES - 1]
        time, height, width = (math.prod(axis) for axis in zip(*before, strict=True))
        return time, height, width

    @property
    def cell(self) -> VideoScale:
        """Frames and pixels of one cell."""
        time, height, _ = self._strides[-1]
        return VideoScale(time, height * self.patch_size)

    @property
    def cell_floor(self) -> Sizes:
        """The smallest tile in cells."""
        fourth, last = (stage.kernel for stage in self.stages[-2:])
        sizes = zip(fourth, last, self._strides[-1], strict=True)
        time, height, width = (max(a, -(-b // stride)) for a, b, stride in sizes)
        return time, height, width

    @property
    def cell_reach(self) -> Sizes:
        """Cells by which a tile's pixels depend on what lies beside it."""
        fourth, last = (stage.reach for stage in self.stages[-2:])
        sizes = zip(fourth, last, self._strides[-1], strict=True)
        time, height, width = (max(a, -(-b // stride)) for a, b, stride in sizes)
        return time, height, width

    @property
    def least_overlap(self) -> VideoScale:
        """Frames and pixels that neighbouring tiles share at least, in whole latents."""
        time, *sides = self.cell_reach
        return VideoScale(
            _up(time * self.cell.time, self.scale.time),
            _up(max(sides) * self.cell.space, self.scale.space),
        )

    @property
    def least_tile(self) -> VideoScale:
        """Frames and pixels of the smallest tile, in whole latents and twice the overlap."""
        time, *sides = self.cell_floor
        overlap = self.least_overlap
        return VideoScale(
            _up(max(time * self.cell.time, 2 * overlap.time), self.scale.time),
            _up(max(max(sides) * self.cell.space, 2 * overlap.space), self.scale.space),
        )

    @property
    def noise_per_tile(self) -> bool:
        """Whether every tile draws its own noise; else one volume is drawn, and cut."""
        return self.steps == 1 and self.output == "x0"


def _kernels(given: dict[str, Any]) -> tuple[Sizes, ...]:
    """Windows of the five stages; the list's fifth entry has no meaning."""
    listed = given.get("stage_kernels", KERNELS)[:STAGES]
    if len(listed) != STAGES:
        raise UserError(f"metadata vae.decoder: stage_kernels has {len(listed)} entries, not 4")
    last = _sizes("stage5_kernel", given.get("stage5_kernel", (3, 7, 7)))
    return (*(_sizes("stage_kernels", kernel) for kernel in listed), last)


def _sizes(key: str, value: Sequence[int]) -> Sizes:
    if len(value) != 3 or any(not isinstance(n, int) or n < 1 for n in value):
        raise UserError(f"metadata vae.decoder: {key}={value} is not three positive integers")
    return value[0], value[1], value[2]


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
