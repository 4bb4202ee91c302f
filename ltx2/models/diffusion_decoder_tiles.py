"""Geometry of the diffusion decoder: the canvas a clip is padded to, and its tiles in cells.

Only the last two stages are tiled. Unlike the convolutional decoder's, their tiles are symmetric
in time: no frame of a tile is thrown away (spec tiling.md section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ltx2.errors import UserError
from ltx2.models.diffusion_decoder_config import DiffusionDecoderConfig
from ltx2.models.latents import Grid, VideoScale
from ltx2.models.tiling import AXES, Span, TileAxis, Tiling

Spans = Sequence[Sequence[Span]]


@dataclass(frozen=True)
class Canvas:
    """The latent grid that is decoded: at least the decoder's floor, with the clip inside.

    Time is padded after the clip, height and width on both sides.
    """

    config: DiffusionDecoderConfig
    clip: Grid

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """Latents before and after the clip on each axis, without the trailing frames."""
        frames, *sides = (
            max(0, least - size) for least, size in zip(self.config.floor, self.clip, strict=True)
        )
        return (0, frames), *((need // 2, need - need // 2) for need in sides)

    @property
    def grid(self) -> Grid:
        """Latents of the canvas."""
        sizes = zip(self.clip, self.pads, strict=True)
        frames, height, width = (size + before + after for size, (before, after) in sizes)
        return frames, height, width

    @property
    def cells(self) -> Grid:
        """Cells of the canvas, without those of the trailing frames."""
        time, down, across = self.config.cell_latents
        frames, height, width = self.grid
        return 1 + (frames - 1) * time, height * down, width * across

    @property
    def size(self) -> Grid:
        """Frames, rows and columns of the decoded canvas."""
        return _decoded(self.grid, self.config.scale)

    @property
    def content(self) -> tuple[slice, slice, slice]:
        """Frames, rows and columns of the clip in the decoded canvas."""
        space = self.config.scale.space
        frames, height, width = _decoded(self.clip, self.config.scale)
        top, left = (before * space for before, _ in self.pads[1:])
        return slice(0, frames), slice(top, top + height), slice(left, left + width)

    def split(self, tiling: Tiling | None) -> Spans:
        """Tiles of the three axes in cells. Raises UserError for sizes that do not fit."""
        if tiling is None:
            return [[Span(0, length)] for length in self.cells]
        check_tiles(self.config, tiling, self.clip)
        factors = _per_axis(self.config.cell)
        axes = zip(AXES, self.cells, factors, self.config.cell_floor, strict=True)
        return [getattr(tiling, n).split(length, f, least) for n, length, f, least in axes]


def _decoded(grid: Grid, scale: VideoScale) -> Grid:
    return 1 + (grid[0] - 1) * scale.time, grid[1] * scale.space, grid[2] * scale.space


def check_tiles(config: DiffusionDecoderConfig, tiling: Tiling, grid: Grid | None = None) -> None:
    """Raise UserError for tiles that this decoder cannot blend: too small or sharing too little."""
    tiling.check(config.scale, grid)
    least, overlaps = _per_axis(_least_size(config)), _per_axis(config.least_overlap)
    for name, size, overlap in zip(AXES, least, overlaps, strict=True):
        axis = getattr(tiling, name)
        if not isinstance(axis, TileAxis):
            raise UserError(f"tiling {name}: the diffusion decoder is tiled by size, not by count")
        if axis.tile_size and axis.overlap < overlap:
            raise UserError(
                f"tiling {name}: overlap={axis.overlap} is too small for the diffusion decoder,"
                f" which sees further; use at least {overlap}"
            )
        if axis.tile_size and axis.tile_size < size:
            raise UserError(
                f"tiling {name}: tile_size={axis.tile_size} is too small for the diffusion decoder;"
                f" use at least {size}"
            )


def _least_size(config: DiffusionDecoderConfig) -> VideoScale:
    time, *sides = config.cell_floor
    return VideoScale(time * config.cell.time, max(sides) * config.cell.space)


def _per_axis(scale: VideoScale) -> tuple[int, int, int]:
    return scale.time, scale.space, scale.space


def in_video(config: DiffusionDecoderConfig, spans: Spans) -> list[list[Span]]:
    """The frames, rows and columns that spans of cells decode to."""
    frames, *sides = spans
    pixels = [[span.in_pixels(config.cell.space) for span in side] for side in sides]
    return [[_frames(span, config.cell.time) for span in frames], *pixels]


def _frames(span: Span, scale: int) -> Span:
    """The clip's first cell makes one frame, the others `scale`."""
    start, end = (max(0, edge * scale - scale + 1) for edge in (span.start, span.end))
    left, right = span.left * scale, span.right * scale
    return replace(span, start=start, end=end, left=left, right=right)
