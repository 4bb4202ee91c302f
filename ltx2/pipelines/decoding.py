"""How the video of a run is decoded: which tiles, and which border.

The plan settles the mode and its sizes. When the clip is decoded, `auto` looks at the free memory
and takes smaller tiles where the default ones would not fit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.models.diffusion_decoder import DiffusionDecoder, check_border
from ltx2.models.diffusion_decoder_config import DiffusionDecoderConfig
from ltx2.models.diffusion_decoder_tiles import Canvas, check_tiles
from ltx2.models.latents import Grid
from ltx2.models.tiling import AXES, TileAxis, Tiling, auto_tiling
from ltx2.models.video_vae import VideoDecoder
from ltx2.pipelines.components.video import DecoderConfig
from ltx2.pipelines.decode_memory import DecodeMemory, video_axes
from ltx2.pipelines.decode_memory import decode_memory as decode_memory
from ltx2.pipelines.settings import DecoderSettings, TilingSettings

log = logging.getLogger(__name__)

MODES = ("off", "auto", "size")
# What is kept free for everything that the estimate does not see.
USABLE = 0.8


def border_of(settings: DecoderSettings) -> str:
    """The border behaviour of a diffusion decoder."""
    return "shift" if settings.border is None else settings.border


def check_decoder(settings: DecoderSettings, decoder: DecoderConfig) -> None:
    """Raise UserError for an unknown border, or one that this decoder does not have."""
    if settings.border is None:
        return
    check_border(settings.border)
    if not isinstance(decoder, DiffusionDecoderConfig):
        raise UserError(
            f"decoder.border={settings.border} has no effect: the video decoder of this model is"
            " convolutional; drop it"
        )


def set_border(decoder: VideoDecoder | DiffusionDecoder, settings: DecoderSettings) -> None:
    """Give a diffusion decoder the border behaviour of the settings."""
    if isinstance(decoder, DiffusionDecoder):
        decoder.set_border(border_of(settings))


def decode_tiling(
    settings: TilingSettings, height: int, width: int, grid: Grid, decoder: DecoderConfig
) -> Tiling | None:
    """The tiling of a clip of `height` x `width` pixels; None decodes it whole.

    `auto` tiles what is larger than one default tile; the diffusion decoder, whose tiles share
    much, starts whole. Raises UserError for sizes that do not fit.
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
    diffusion = isinstance(decoder, DiffusionDecoderConfig)
    if settings.mode == "off" or (settings.mode == "auto" and diffusion):
        return None
    if settings.mode == "auto":
        tiling = auto_tiling(height, width, decoder.scale)
    else:
        tiling = Tiling(
            TileAxis(settings.frames, settings.frames_overlap),
            TileAxis(settings.height, settings.height_overlap),
            TileAxis(settings.width, settings.width_overlap),
        )
    return _needed(tiling, grid, decoder)


def _needed(tiling: Tiling, grid: Grid, decoder: DecoderConfig) -> Tiling | None:
    """The tiling, checked, if it makes more than one tile."""
    if isinstance(decoder, DiffusionDecoderConfig):
        check_tiles(decoder, tiling, grid)
        spans = Canvas(decoder, grid).split(tiling)
    else:
        tiling.check(decoder.scale, grid)
        spans = tiling.split(grid, decoder.scale)
    return tiling if any(len(axis) > 1 for axis in spans) else None


def tile_seams(
    tiling: Tiling | None, grid: Grid, decoder: DecoderConfig
) -> tuple[list[int], list[int], list[int]]:
    """Frames, rows and columns at which a tile begins, the first one left out."""
    if tiling is None:
        return [], [], []
    axes = video_axes(decoder, tiling, grid)
    frames, rows, columns = ([span.start for span in axis[1:]] for axis in axes)
    return frames, rows, columns


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
    mode: str, planned: Tiling | None, need: DecodeMemory, free_bytes: int
) -> TileChoice:
    """The tiling to decode a clip with: as planned, or smaller if `mode` is auto.

    Where even the smallest tiles do not fit they are tried all the same, with a warning.
    """
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
    smaller = list(need.smaller())
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


def describe(tiling: Tiling | None) -> str:
    """Tile sizes for a reader."""
    if tiling is None:
        return "one piece"
    sizes = [getattr(tiling, name) for name in AXES]
    frames, height, width = (getattr(axis, "tile_size", 0) or "all" for axis in sizes)
    return f"tiles of {frames} frames, {height} x {width} pixels"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
