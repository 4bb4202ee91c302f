"""The diffusion video decoder of LTX-2.5: a network that denoises pixels given upsampled latents.

Three stages of neighbourhood attention run over the whole clip; a fourth and the denoising run
tile by tile (spec video_vae.md section 3, tiling.md section 5).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from ltx2 import ops
from ltx2.errors import UserError, nearest
from ltx2.models.diffusion_decoder_blocks import (
    NeighbourhoodBlock,
    SharedModulation,
    StepMLP,
    Upsample,
    by_frames,
)
from ltx2.models.diffusion_decoder_config import BORDERS, STAGES, DiffusionDecoderConfig
from ltx2.models.diffusion_decoder_tiles import Canvas, Spans, in_video
from ltx2.models.latents import VideoScale, patchify_pixels, unpatchify_pixels
from ltx2.models.tiling import Span, Tiling, blend
from ltx2.models.video_vae import PerChannelStatistics
from ltx2.models.video_vae_blocks import Noise
from ltx2.nn.layers import Linear, RMSNorm
from ltx2.ops import Array

# Shape (B, 3, F, H, W) and the tile's place in the canvas -> normal draws.
TileNoise = Callable[[tuple[int, ...], Sequence[Span]], np.ndarray]


def check_border(border: str) -> None:
    """Raise UserError unless `border` is one of BORDERS."""
    if border not in BORDERS:
        hint = nearest(border, BORDERS)
        raise UserError(f"decoder.border={border} is unknown{hint}; use {' or '.join(BORDERS)}")


@dataclass
class DiffusionDecoder:
    """(B, F, H, W, C) normalised latent -> (B, F', H', W', 3) pixels in about [-1, 1]."""

    conv_in: Linear
    det_stages: list[list[NeighbourhoodBlock]]
    upsamples: list[Upsample]
    t_embedder: StepMLP
    conv_in_x_t: Linear
    shared_adaln: SharedModulation
    diff_blocks: list[NeighbourhoodBlock]
    norm_out: RMSNorm
    conv_out: Linear
    per_channel_statistics: PerChannelStatistics
    config: DiffusionDecoderConfig

    @classmethod
    def declare(cls, config: DiffusionDecoderConfig) -> DiffusionDecoder:
        stages, last, head = config.stages[:STAGES], config.stages[STAGES], config.head_dim
        widths = [*(stage.width for stage in config.stages[1:STAGES]), config.context_width]
        outer = config.out_channels * config.patch_size**2
        blocks = [
            NeighbourhoodBlock.declare(last, head, config.context_width) for _ in range(last.depth)
        ]
        return cls(
            conv_in=Linear.declare(config.latent_channels, stages[0].width),
            det_stages=[
                [NeighbourhoodBlock.declare(stage, head) for _ in range(stage.depth)]
                for stage in stages
            ],
            upsamples=[
                Upsample.declare(up, stage.width, width)
                for up, stage, width in zip(config.upsamples, stages, widths, strict=True)
            ],
            t_embedder=StepMLP.declare(config.embedding),
            conv_in_x_t=Linear.declare(outer, last.width),
            shared_adaln=SharedModulation.declare(config.embedding, last.width),
            diff_blocks=blocks,
            norm_out=RMSNorm.declare(last.width),
            conv_out=Linear.declare(last.width, outer),
            per_channel_statistics=PerChannelStatistics.declare(config.latent_channels),
            config=config,
        )

    def fold_gates(self, stored: Array) -> None:
        """Once after loading: the static gates become part of the weights before them.

        The reference multiplies in float32 and rounds to the dtype of the file, which `stored` has.
        """
        for block in [*(b for stage in self.det_stages for b in stage), *self.diff_blocks]:
            block.fold_gates(stored)

    def set_border(self, border: str) -> None:
        """How the last stage sees past the left and right edge of the picture.

        shift (as built) moves windows inward, as on all other axes; replicate continues the
        outermost columns.
        """
        check_border(border)
        for block in self.diff_blocks:
            block.replicate = border == "replicate"

    @property
    def scale(self) -> VideoScale:
        return self.config.scale

    def __call__(self, latent: Array, noise: Noise | None = None) -> Array:
        """Decode in one piece; `noise` gives the pixels that are denoised, (B, 3, F, H, W)."""
        (video,) = self.tiled(latent, None, noise)
        return video

    def tiled(self, latent: Array, tiling: Tiling | None, noise: Noise | None) -> Iterator[Array]:
        """Chunks (B, f, H', W', 3) in order. Raises UserError at the call for a wrong tiling.

        A decoder of one step that predicts pixels draws its noise per tile, any other once.
        """
        assert noise is not None, "the diffusion decoder starts from noise"
        canvas = Canvas(self.config, tuple(latent.shape[1:4]))
        return self._chunks(latent, canvas, canvas.split(tiling), noise)

    def _chunks(self, latent: Array, canvas: Canvas, spans: Spans, noise: Noise) -> Iterator[Array]:
        features = self._features(ops.like(latent, self.conv_in.weight), canvas)
        video = in_video(self.config, spans)
        single = self.config.noise_per_tile
        draw = _per_tile(noise) if single else _cut_from_one(noise, latent.shape[0], canvas)

        def make(*tile: int) -> Array:
            cells, pixels = (
                [axis[i] for axis, i in zip(axes, tile, strict=True)] for axes in (spans, video)
            )
            return ops.like(self._tile(features, canvas, cells, pixels, draw), latent)

        frames, rows, columns = canvas.content
        made = 0
        for chunk in blend(video, make):
            chunk = chunk[:, : max(0, frames.stop - made), rows, columns]
            made += chunk.shape[1]
            if chunk.shape[1]:
                yield chunk

    def _features(self, latent: Array, canvas: Canvas) -> Array:
        """The first three stages: (B, F, H, W, C) -> (B, F', H', W', C') in cells."""
        (_, after), *sides = canvas.pads
        pads = [(0, 0), (0, after + self.config.trailing), *sides, (0, 0)]
        z = self.per_channel_statistics.un_normalise(ops.pad(latent, pads, "edge"))
        x = by_frames(self.conv_in, z, self.conv_in.weight.shape[0])
        stages = zip(self.det_stages[:-1], self.upsamples[:-1], strict=True)
        for blocks, upsample in stages:
            for block in blocks:
                x = block(x)
            x = upsample(x)
        return x

    def _tile(
        self,
        features: Array,
        canvas: Canvas,
        cells: Sequence[Span],
        pixels: Sequence[Span],
        draw: TileNoise,
    ) -> Array:
        """Pixels of one tile; a tile that ends with the clip also sees the trailing frames."""
        frames, rows, columns = cells
        is_last = frames.end == canvas.cells[0]
        x = features[:, frames.start : None if is_last else frames.end, rows.slice, columns.slice]
        for block in self.det_stages[-1]:
            x = block(x)
        context = self.upsamples[-1](x, from_start=frames.start == 0)
        trailing = self.config.trailing * self.scale.time if is_last else 0
        kept = max(context.shape[1] - trailing, self.config.stages[-1].kernel[0])
        context = context[:, :kept]
        batch, _, height, width, _ = context.shape
        patch, channels = self.config.patch_size, self.config.out_channels
        shape = (batch, channels, kept, height * patch, width * patch)
        x_t = _channels_last(draw(shape, pixels))
        video = self._denoised(ops.like(ops.asarray(x_t, context), context), context)
        return video[:, : pixels[0].end - pixels[0].start]

    def _denoised(self, x_t: Array, context: Array) -> Array:
        """Euler steps from noise x_t (B, F, H, W, 3) at time 1 to pixels at time 0."""
        count = self.config.steps
        times = [*np.linspace(1, 1 / count, count, dtype=np.float32).tolist(), 0.0]
        for t, t_next in itertools.pairwise(times):
            output = self._predicted(x_t, t, context)
            if self.config.output == "x0" and t_next == 0:
                return output
            velocity = ops.f32(output)
            if self.config.output == "x0":
                velocity = (ops.f32(x_t) - velocity) / t
            x_t = ops.like(ops.f32(x_t) - (t - t_next) * velocity, x_t)
        return x_t

    def _predicted(self, x_t: Array, t: float, context: Array) -> Array:
        patch = self.config.patch_size
        rows = self.shared_adaln(self.t_embedder(self.config.timestep_scale * t))
        x = by_frames(self.conv_in_x_t, patchify_pixels(x_t, patch), context.shape[-1])
        for block in self.diff_blocks:
            x = block(x, rows, context)
        x = by_frames(lambda part: self.conv_out(self.norm_out(part)), x, x.shape[-1])
        return unpatchify_pixels(x, patch)


def _channels_last(x: np.ndarray) -> np.ndarray:
    return rearrange(x, "b c f h w -> b f h w c")


def _per_tile(noise: Noise) -> TileNoise:
    return lambda shape, pixels: noise(shape)


def _cut_from_one(noise: Noise, batch: int, canvas: Canvas) -> TileNoise:
    """One draw for the canvas: tiles take their part, which is continued by its last frame."""
    drawn = noise((batch, canvas.config.out_channels, *canvas.size))

    def part(shape: tuple[int, ...], pixels: Sequence[Span]) -> np.ndarray:
        own = drawn[:, :, *(span.slice for span in pixels)]
        missing = [(0, want - has) for want, has in zip(shape, own.shape, strict=True)]
        return np.pad(own, missing, "edge")

    return part
