"""How the video of a run is tiled when it is decoded."""

from __future__ import annotations

from ltx2.errors import UserError, nearest
from ltx2.models.latents import Grid, VideoScale
from ltx2.models.tiling import TileAxis, Tiling, auto_tiling
from ltx2.pipelines.settings import TilingSettings

MODES = ("off", "auto", "size")


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
    spans = tiling.split(grid, scale)
    return tiling if any(len(axis) > 1 for axis in spans) else None
