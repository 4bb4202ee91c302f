"""How the video of a run is tiled when it is decoded.

The plan settles the mode and its sizes. When the clip is decoded, `auto` looks at the free memory
and takes smaller tiles where the default ones would not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.models.latents import Grid, VideoScale
from ltx2.models.tiling import AUTO_LONG_SIDE_PX, AXES, Span, TileAxis, Tiling, auto_tiling
from ltx2.models.video_vae_config import VideoDecoderConfig
from ltx2.pipelines.settings import TilingSettings

log = logging.getLogger(__name__)

MODES = ("off", "auto", "size")
# Smaller tiles: their long side in pixels and their frames. Overlaps stay the default ones.
LONG_SIDES = range(AUTO_LONG_SIDE_PX, 192, -64)
FRAMES, FRAMES_SHARED = range(80, 24, -8), 24
# What is kept free for everything that the estimate does not see.
USABLE = 0.8
# Copies of a group of finished frames, float32: being joined, blended, and shown by the host.
GROUPS = 4


def decode_tiling(
    settings: TilingSettings, height: int, width: int, grid: Grid, scale: VideoScale
) -> Tiling | None:
    """The tiling of a clip of `height` x `width` pixels; None decodes it whole.

    `auto` tiles what is larger than one default tile. Raises UserError for sizes that do not fit.
    """
    sizes = {n: v for n, v in vars(settings).items() if n != "mode" and v != 0}
    if settings.mode not in MODES:
        hint = nearest(settings.mode, MODES)
        raise UserError(f"tiling.mode={settings.mode} is unknown{hint}; use {', '.join(MODES)}")
    if settings.mode != "size" and sizes:
        name, value = next(iter(sizes.items()))
        raise UserError(
            f"tiling.{name}={value} has no effect with tiling.mode={settings.mode}; set"
            " tiling.mode=size"
        )
    if settings.mode == "off":
        return None
    if settings.mode == "auto":
        tiling = auto_tiling(height, width, scale)
    else:
        tiling = Tiling(
            TileAxis(settings.frames, settings.frames_overlap),
            TileAxis(settings.height, settings.height_overlap),
            TileAxis(settings.width, settings.width_overlap),
        )
    tiling.check(scale, grid)
    return _needed(tiling, grid, scale)


def _needed(tiling: Tiling, grid: Grid, scale: VideoScale) -> Tiling | None:
    return tiling if any(len(axis) > 1 for axis in tiling.split(grid, scale)) else None


def tile_seams(
    tiling: Tiling | None, grid: Grid, scale: VideoScale
) -> tuple[list[int], list[int], list[int]]:
    """Frames, rows and columns at which a tile begins, the first one left out."""
    if tiling is None:
        return [], [], []
    frames, rows, columns = tiling.split(grid, scale)
    return (
        [span.in_frames(scale.time).start for span in frames[1:]],
        [span.in_pixels(scale.space).start for span in rows[1:]],
        [span.in_pixels(scale.space).start for span in columns[1:]],
    )


@dataclass(frozen=True)
class TileChoice:
    """A tiling, why it was taken, and what it is estimated to need."""

    tiling: Tiling | None
    reason: str
    needed_bytes: int
    free_bytes: int

    def record(self) -> dict[str, Any]:
        """What run.json keeps; sizes in frames and pixels with their overlaps, null if whole."""
        axes = {
            name: None if self.tiling is None else list(vars(getattr(self.tiling, name)).values())
            for name in AXES
        }
        figures = {"needed_bytes": self.needed_bytes, "free_bytes": self.free_bytes}
        return axes | {"reason": self.reason} | figures


def choose_tiling(
    mode: str,
    planned: Tiling | None,
    grid: Grid,
    decoder: VideoDecoderConfig,
    activation_bytes: int,
    free_bytes: int,
) -> TileChoice:
    """The tiling to decode a latent `grid` with: as planned, or smaller if `mode` is auto.

    `activation_bytes` is what the backend needs per element of the largest activation. Where even
    the smallest tiles do not fit they are tried all the same, with a warning.
    """
    need = DecodeMemory(decoder, grid, activation_bytes)
    planned_bytes = need.of(planned)

    def choice(tiling: Tiling | None, reason: str) -> TileChoice:
        made = TileChoice(tiling, reason, need.of(tiling), free_bytes)
        log.info("video decode in %s: %s", describe(tiling), reason)
        return made

    figures = f"about {_size(planned_bytes)}, {_size(free_bytes)} are free"
    if mode != "auto":
        return choice(planned, f"tiling.mode={mode} ({figures})")
    if planned_bytes <= USABLE * free_bytes:
        return choice(planned, f"the default fits ({figures})")
    smaller = list(_smaller(grid, decoder.scale))
    fitting = [tiling for tiling in smaller if need.of(tiling) <= USABLE * free_bytes]
    if fitting:
        best = min(fitting, key=lambda t: (need.work(t), need.of(t)))
        return choice(best, f"the default does not fit ({figures})")
    least = min([planned, *smaller], key=need.of)
    log.warning(
        "video decode may run out of memory: about %s are needed, %s are free",
        _size(need.of(least)),
        _size(free_bytes),
    )
    return choice(least, f"the smallest tiles, for nothing fits ({figures})")


@dataclass(frozen=True)
class DecodeMemory:
    """Estimates of a decode: bytes at its peak, and work in decoded latents."""

    decoder: VideoDecoderConfig
    grid: Grid
    activation_bytes: int

    def of(self, tiling: Tiling | None) -> int:
        """The largest activation of a tile as often as the backend holds it, and the frames."""
        frames, rows, columns = (max(s.end - s.start for s in axis) for axis in self._spans(tiling))
        scale = self.decoder.scale
        _, height, width = self.grid
        group = frames * scale.time * height * width * scale.space**2 * self.decoder.out_channels
        largest = largest_activation(self.decoder, (frames, rows, columns))
        return largest * self.activation_bytes + GROUPS * 4 * group

    def work(self, tiling: Tiling | None) -> int:
        """Latents of all tiles together."""
        return prod(sum(s.end - s.start for s in axis) for axis in self._spans(tiling))

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


def _smaller(grid: Grid, scale: VideoScale) -> Iterator[Tiling]:
    """Tilings with tiles of at most the default size, the default itself left out."""
    height, width = grid[1] * scale.space, grid[2] * scale.space
    for long_side in LONG_SIDES:
        for frames in FRAMES:
            tiling = auto_tiling(height, width, scale, long_side)
            tiling = replace(tiling, frames=TileAxis(frames, FRAMES_SHARED))
            if _needed(tiling, grid, scale) is not None:
                yield tiling


def describe(tiling: Tiling | None) -> str:
    """Tile sizes for a reader."""
    if tiling is None:
        return "one piece"
    sizes = [getattr(tiling, name) for name in AXES]
    frames, height, width = (getattr(axis, "tile_size", 0) or "all" for axis in sizes)
    return f"tiles of {frames} frames, {height} x {width} pixels"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
