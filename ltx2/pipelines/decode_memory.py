"""What decoding a clip needs, by decoder: bytes at the peak, work, and the tiles to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from ltx2.models.diffusion_decoder_blocks import RATIO, SLAB_ELEMENTS
from ltx2.models.diffusion_decoder_config import DiffusionDecoderConfig
from ltx2.models.diffusion_decoder_tiles import Canvas, in_video
from ltx2.models.latents import Grid
from ltx2.models.tiling import AUTO_LONG_SIDE_PX, Span, TileAxis, Tiling, auto_tiling, video_spans
from ltx2.models.video_vae_config import VideoDecoderConfig
from ltx2.pipelines.components.video import DecoderConfig

# Smaller tiles: their long side in pixels and their frames. Overlaps stay the default ones.
LONG_SIDES = range(AUTO_LONG_SIDE_PX, 192, -64)
FRAMES, FRAMES_SHARED = range(80, 24, -8), 24
# Copies of a group of finished frames, float32: being joined, blended, and shown by the host.
GROUPS = 4
# Copies of the diffusion stage's activation: input, context, finished slabs, and those joined.
HELD = 4
# Copies of a slab while it is worked on: norm, queries, keys, values, rotations, hidden units.
SLAB_COPIES = 12
# Tiles of the diffusion decoder grow in these steps, frames and pixels.
STEP_FRAMES, STEP_PX = 16, 64


class DecodeMemory(Protocol):
    """Estimates for one clip and decoder."""

    def of(self, tiling: Tiling | None) -> int:
        """Bytes at the peak."""

    def work(self, tiling: Tiling | None) -> int:
        """Decoded positions of all tiles together."""

    def smaller(self) -> Iterator[Tiling]:
        """Tilings to try where the planned one does not fit."""


def decode_memory(decoder: DecoderConfig, grid: Grid, backend: Any, dtype: str) -> DecodeMemory:
    """The estimates for decoding a latent `grid` with weights in `dtype`."""
    if isinstance(decoder, DiffusionDecoderConfig):
        return DiffusionMemory(decoder, grid, 4 if dtype == "fp32" else 2)
    return ConvolutionMemory(decoder, grid, backend.activation_bytes(dtype))


@dataclass(frozen=True)
class ConvolutionMemory:
    """`activation_bytes`: what the backend needs per element of the largest activation."""

    decoder: VideoDecoderConfig
    grid: Grid
    activation_bytes: int

    def of(self, tiling: Tiling | None) -> int:
        """The largest activation of a tile as often as the backend holds it, and the frames."""
        frames, rows, columns = _largest(self._spans(tiling))
        scale = self.decoder.scale
        _, height, width = self.grid
        group = frames * scale.time * height * width * scale.space**2 * self.decoder.out_channels
        largest = largest_activation(self.decoder, (frames, rows, columns))
        return largest * self.activation_bytes + GROUPS * 4 * group

    def work(self, tiling: Tiling | None) -> int:
        """Latents of all tiles together."""
        return _total(self._spans(tiling))

    def smaller(self) -> Iterator[Tiling]:
        """Tiles of at most the default size, the default itself left out."""
        scale = self.decoder.scale
        height, width = self.grid[1] * scale.space, self.grid[2] * scale.space
        for long_side in LONG_SIDES:
            for frames in FRAMES:
                tiling = auto_tiling(height, width, scale, long_side)
                tiling = replace(tiling, frames=TileAxis(frames, FRAMES_SHARED))
                if any(len(axis) > 1 for axis in self._spans(tiling)):
                    yield tiling

    def _spans(self, tiling: Tiling | None) -> Sequence[Sequence[Span]]:
        if tiling is None:
            return [[Span(0, length)] for length in self.grid]
        return tiling.split(self.grid, self.decoder.scale)


def largest_activation(decoder: VideoDecoderConfig, grid: Grid) -> int:
    """Elements of the largest activation that decoding a latent `grid` makes."""
    width, (frames, rows, columns) = decoder.bottleneck, grid
    largest = width * frames * rows * columns
    for block in reversed(decoder.blocks):
        time, down, across = block.stride
        frames, rows, columns = time * frames - time + 1, down * rows, across * columns
        width //= block.multiplier
        largest = max(largest, width * frames * rows * columns)
    return largest


@dataclass(frozen=True)
class DiffusionMemory:
    """`item_bytes`: of one element in the decoder's dtype."""

    decoder: DiffusionDecoderConfig
    grid: Grid
    item_bytes: int

    def of(self, tiling: Tiling | None) -> int:
        """Features of the whole clip, the diffusion stage of a tile, and the frames."""
        config, canvas = self.decoder, self._canvas
        frames, rows, columns = _largest(in_video(config, canvas.split(tiling)))
        frames += config.trailing * config.scale.time
        last, fourth = config.stages[-1], config.stages[-2]
        per_frame = rows * columns // config.patch_size**2 * last.width
        slab = min(frames * per_frame, SLAB_ELEMENTS + last.kernel[0] * per_frame)
        trailing = config.trailing * config.cell_latents[0]
        cells = (canvas.cells[0] + trailing) * prod(canvas.cells[1:])
        first = min(cells * fourth.width * RATIO, SLAB_ELEMENTS * RATIO)
        elements = HELD * frames * per_frame + SLAB_COPIES * slab + 2 * cells * fourth.width + first
        group = frames * prod(canvas.size[1:]) * config.out_channels
        return elements * self.item_bytes + GROUPS * 4 * group

    def work(self, tiling: Tiling | None) -> int:
        """Cells of all tiles together."""
        return _total(self._canvas.split(tiling))

    def smaller(self) -> Iterator[Tiling]:
        """Tiles from the largest that fits into the clip down to the smallest allowed."""
        config = self.decoder
        least, overlap = config.least_tile, config.least_overlap
        frames, rows, columns = self._canvas.size
        times = _axes(frames, least.time, overlap.time, STEP_FRAMES, config.scale.time)
        down, across = (
            _axes(size, least.space, overlap.space, STEP_PX, config.scale.space)
            for size in (rows, columns)
        )
        for time in times:
            for height in down:
                for width in across:
                    if time.tile_size or height.tile_size or width.tile_size:
                        yield Tiling(time, height, width)

    @property
    def _canvas(self) -> Canvas:
        return Canvas(self.decoder, self.grid)


def _axes(size: int, least: int, overlap: int, step: int, factor: int) -> list[TileAxis]:
    """The whole axis, and its tilings; sizes are multiples of the decoder's `factor`."""
    step = -(-step // factor) * factor
    return [TileAxis(), *(TileAxis(tile, overlap) for tile in range(least, size, step))]


def _largest(spans: Sequence[Sequence[Span]]) -> tuple[int, int, int]:
    frames, rows, columns = (max(s.end - s.start for s in axis) for axis in spans)
    return frames, rows, columns


def _total(spans: Sequence[Sequence[Span]]) -> int:
    return prod(sum(s.end - s.start for s in axis) for axis in spans)


def video_axes(decoder: DecoderConfig, tiling: Tiling, grid: Grid) -> list[list[Span]]:
    """Frames, rows and columns of the tiles, as the decoder makes them."""
    if not isinstance(decoder, DiffusionDecoderConfig):
        return video_spans(tiling.split(grid, decoder.scale), decoder.scale)
    return in_video(decoder, Canvas(decoder, grid).split(tiling))
