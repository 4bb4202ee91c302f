"""Sampling in tiles, for videos whose attention does not fit: a transformer call per tile.

Every tile is a complete run of its own with guidance and all, over its block of the latent and
the sound in full; the estimates of all tiles are blended after every call. Source: tiling spec,
section 6.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ltx2 import ops
from ltx2.diffusion.loop import Denoised
from ltx2.diffusion.state import LatentState
from ltx2.errors import UserError
from ltx2.models.latents import Grid
from ltx2.models.tiling import AXES, Span, normalised_windows, split_by_count
from ltx2.ops import Array
from ltx2.pipelines.denoiser import Denoiser, Observer
from ltx2.pipelines.settings import DenoiseTilesSettings, StageSettings

if TYPE_CHECKING:
    from ltx2.pipelines.plan import StagePlan

log = logging.getLogger(__name__)

USUAL_OVERLAP = 5  # latents
LATENTS = {"frames": "latent frames", "height": "latent rows", "width": "latent columns"}


@dataclass(frozen=True)
class TileGrid:
    """Spans of the latent frames, rows and columns; every combination is a tile."""

    axes: tuple[tuple[Span, ...], ...]

    @property
    def count(self) -> int:
        return prod(len(axis) for axis in self.axes)

    @property
    def tokens(self) -> float:
        """Video tokens of a tile, on average."""
        return prod(sum(s.end - s.start for s in axis) / len(axis) for axis in self.axes)

    def __iter__(self) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """Slices of (F, H, W) and weights (f, h, w) of every tile; time is the slowest."""
        windows = [normalised_windows(axis) for axis in self.axes]
        for index in product(*(range(len(axis)) for axis in self.axes)):
            own = [axis[i] for axis, i in zip(self.axes, index, strict=True)]
            frames, rows, columns = (w[i] for w, i in zip(windows, index, strict=True))
            weights = frames[:, None, None] * rows[:, None] * columns
            yield tuple(span.slice for span in own), weights


def stage_tiles(
    settings: DenoiseTilesSettings, stage: StageSettings, grid: Grid
) -> TileGrid | None:
    """The tiles of a stage that samples a latent `grid` at once; None leaves it whole.

    Raises UserError for counts and overlaps that the grid has no room for.
    """
    _check_counts(settings)
    counts = [getattr(settings, axis) for axis in AXES]
    small = prod(grid) <= settings.above_tokens
    if max(counts) == 1 or small or "video" not in stage.streams:
        return None
    return TileGrid(
        tuple(
            tuple(split_by_count(length, count, _overlap(settings, stage.name, axis, length)))
            for axis, count, length in zip(AXES, counts, grid, strict=True)
        )
    )


def _check_counts(settings: DenoiseTilesSettings) -> None:
    for axis in AXES:
        if getattr(settings, axis) < 1:
            value = getattr(settings, axis)
            raise UserError(f"denoise_tiles.{axis}={value} is not positive; use 1 (whole) or 2")
    if settings.above_tokens < 0:
        value = settings.above_tokens
        raise UserError(f"denoise_tiles.above_tokens={value} is negative; 0 tiles every stage")


def _overlap(settings: DenoiseTilesSettings, stage: str, axis: str, length: int) -> int:
    """Latents that neighbours share along an axis; the usual number is cut to what there is."""
    count, overlap = getattr(settings, axis), getattr(settings, f"{axis}_overlap")
    where = f"the {length} {LATENTS[axis]} of stage '{stage}'"
    escape = "or denoise_tiles.above_tokens to leave small stages whole"
    if count > length:
        raise UserError(
            f"denoise_tiles.{axis}={count} is more than {where}; use 1 to {length}, {escape}"
        )
    # Every tile needs a latent that it shares with no neighbour.
    room = 0 if count == 1 else length - count
    if overlap is None:
        return min(USUAL_OVERLAP, room)
    if not 0 <= overlap <= room:
        raise UserError(
            f"denoise_tiles.{axis}_overlap={overlap} does not suit {count} tiles of {where};"
            f" use 0 to {room}, {escape}"
        )
    return overlap


def tile_notices(settings: DenoiseTilesSettings, stages: Sequence[StagePlan]) -> tuple[str, ...]:
    """What to know of the tiled stages: none is large enough, tiles drift apart, whose sound."""
    if max(getattr(settings, axis) for axis in AXES) == 1:
        return ()
    tiled = [stage for stage in stages if stage.tiles is not None]
    notices = []
    if not tiled:
        most = settings.above_tokens
        notices.append(f"denoise_tiles: no stage has more than {most} video tokens: none is tiled")
    notices += [
        f"denoise_tiles: stage '{stage.name}' starts from pure noise, so its tiles may show"
        " different things; tile a stage that refines another"
        for stage in tiled
        if stage.sigmas is not None and stage.sigmas[0] == 1
    ]
    heard = {stage.settings.audio_from for stage in stages if stage.settings.do == "decode"}
    for stage in tiled:
        own = "audio" in stage.settings.streams and "audio" not in stage.settings.freeze
        if stage.name in heard and own:
            notices.append(
                f"denoise_tiles: the sound comes from stage '{stage.name}', whose tiles each see a"
                " part of the picture; the sound of an untiled stage is better"
            )
    for notice in notices:
        log.warning("%s", notice)
    return tuple(notices)


@dataclass(frozen=True)
class TokenTile:
    """One tile: the state cut to it, and how its n tokens go back among all T."""

    part: LatentState
    tokens: np.ndarray  # (n,) numbers of its tokens: generated ones, then kept conditioning
    places: np.ndarray  # (T,) where each token stands in the tile, 0 for those of other tiles
    weights: np.ndarray  # (T, 1) float32, 0 for those of other tiles

    def cut(self, state: LatentState) -> LatentState:
        """The tile of a state that differs from the first one in its latent only."""
        latent, clean = (ops.take(x, self.tokens, axis=1) for x in (state.latent, state.clean))
        return replace(self.part, latent=latent, clean=clean)

    def spread(self, x: Array) -> Array:
        """A weighted estimate (B, n, C) among all tokens (B, T, C), float32, 0 elsewhere."""
        return ops.take(ops.f32(x), self.places, axis=1) * ops.asarray(self.weights, x)


def token_tiles(video: LatentState, tiles: TileGrid) -> list[TokenTile]:
    """The tiles of `video`.

    A conditioning token belongs to every tile that it overlaps on all three axes, and to all tiles
    if its time is negative; its estimates are averaged. Positions count from the tile's start.
    """
    assert video.grid is not None, "only a video is tiled"
    target, total = video.target_tokens, video.latent.shape[1]
    numbers = np.arange(target).reshape(video.grid)
    owned = [(numbers[index].reshape(-1), weights.reshape(-1)) for index, weights in tiles]
    kept = [_kept(video, own) for own, _ in owned]
    keepers = np.sum(kept, axis=0)
    parts: list[TokenTile] = []
    for (own, own_weights), keep in zip(owned, kept, strict=True):
        tokens = np.concatenate([own, target + np.flatnonzero(keep)])
        places, weights = np.zeros(total, np.int64), np.zeros((total, 1), np.float32)
        places[tokens] = np.arange(len(tokens))
        weights[tokens, 0] = np.concatenate([own_weights, 1 / keepers[keep]])
        parts.append(TokenTile(_part(video, tokens, len(own)), tokens, places, weights))
    return parts


def _kept(video: LatentState, own: np.ndarray) -> np.ndarray:
    """(M,) which conditioning tokens the tile of the generated tokens `own` keeps."""
    tile = video.positions[:, :, own]
    low, high = tile[..., 0].min(axis=2), tile[..., 1].max(axis=2)  # (B, 3)
    start, end = np.moveaxis(video.positions[:, :, video.target_tokens :], -1, 0)  # (B, 3, M)
    overlaps = ((start < high[..., None]) & (end > low[..., None])).all(axis=1)
    return (overlaps | (start[:, 0] < 0)).any(axis=0)


def _part(video: LatentState, tokens: np.ndarray, own: int) -> LatentState:
    """The host tables of the tile. Masks are sliced: shifted positions no longer tell them."""
    positions = video.positions[:, :, tokens]
    origin = positions[:, :, :own, 0].min(axis=2)
    attention, keyframes = video.attention_mask, video.keyframes_mask
    return replace(
        video,
        mask=video.mask[:, tokens],
        positions=positions - origin[:, :, None, None],
        target_tokens=own,
        attention_mask=None if attention is None else attention[:, tokens][:, :, tokens],
        keyframes_mask=None if keyframes is None else keyframes[:, tokens],
        grid=None,
        slots=None,
    )


class TiledDenoiser:
    """A denoiser that runs `denoiser` tile by tile and blends the guided estimates.

    Each tile has a denoiser of its own: guidance may remember the estimates of earlier steps.
    """

    def __init__(self, denoiser: Denoiser, video: LatentState, tiles: TileGrid) -> None:
        self._tiles = token_tiles(video, tiles)
        self._denoisers = [replace(denoiser) for _ in self._tiles]
        self.observe: Observer | None = None
        reached = sum(tile.weights for tile in self._tiles)
        self._unreached = np.asarray(reached == 0, np.float32)  # (T, 1)

    def __call__(
        self, video: LatentState | None, audio: LatentState | None, sigma: float, step: int
    ) -> Denoised:
        """As `Denoiser`; sound is the mean over the tiles."""
        assert video is not None, "only a video is tiled"
        sums: dict[str, Array] = {}
        for index, (tile, denoiser) in enumerate(zip(self._tiles, self._denoisers, strict=True)):
            denoiser.observe = self._observer(index)
            for name, part in self._weighted(tile, denoiser(tile.cut(video), audio, sigma, step)):
                sums[name] = sums[name] + part if name in sums else part
            ops.evaluate(*sums.values())
        if self._unreached.any():
            # Conditioning that no tile sees, such as what lies behind the end, stays as it is.
            rest = ops.f32(video.clean) * ops.asarray(self._unreached, video.clean)
            sums |= {name: x + rest for name, x in sums.items() if name.endswith("video")}
        return Denoised(**{"video": None, "audio": None, **sums})

    def _weighted(self, tile: TokenTile, made: Denoised) -> Iterator[tuple[str, Array]]:
        """The tile's share of every estimate, by its name in `Denoised`."""
        for name in (item.name for item in fields(Denoised)):
            value = getattr(made, name)
            if value is not None and name.endswith("video"):
                yield name, tile.spread(value)
            elif value is not None:
                yield name, ops.f32(value) / len(self._tiles)

    def _observer(self, index: int) -> Observer | None:
        show = self.observe
        if show is None:
            return None
        return lambda stream, name, x: show(stream, f"tile{index}.{name}", x)
