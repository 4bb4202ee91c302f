"""Splitting video VAE work into overlapping tiles, and blending the results (spec tiling.md 1-4).

Spans are in latent positions unless a name says otherwise. Windows are made on the host in
float32 and divided by their sum per axis, so that blended weights are one everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.latents import Grid, VideoScale, video_latent_shape
from ltx2.models.video_vae import VideoDecoder, VideoEncoder, crop_frames
from ltx2.models.video_vae_blocks import Noise
from ltx2.ops import Array

if TYPE_CHECKING:
    from ltx2.models.diffusion_decoder import DiffusionDecoder

AUTO_LONG_SIDE_PX = 768
AXES = ("frames", "height", "width")


def trapezoid(length: int, left: int, right: int, from_zero: bool = False) -> np.ndarray:
    """(length,) weights: ones with a rising ramp of `left` and a falling one of `right` samples.

    `from_zero`: the left ramp begins at 0, and is one sample longer than its neighbour's right
    ramp: the first frame of a causally decoded tile is not usable.
    """
    if length <= 0:
        raise ValueError(f"a window of {length} samples")
    left, right = min(max(left, 0), length), min(max(right, 0), length)
    window = np.ones(length, np.float32)
    rise = np.arange(left) / max(left, 1) if from_zero else np.arange(1, left + 1) / (left + 1)
    window[:left] *= rise.astype(np.float32)
    fall = 1 - np.arange(1, right + 1) / (right + 1)
    window[length - right :] *= fall.astype(np.float32)
    return window


@dataclass(frozen=True)
class Span:
    """Interval [start, end) of an axis with the lengths of its blending ramps."""

    start: int
    end: int
    left: int = 0
    right: int = 0
    from_zero: bool = False

    @property
    def slice(self) -> slice:
        return slice(self.start, self.end)

    def window(self) -> np.ndarray:
        """(end - start,) float32 weights."""
        return trapezoid(self.end - self.start, self.left, self.right, self.from_zero)

    def in_frames(self, scale: int) -> Span:
        """The video frames that these latent frames decode to; the first makes one frame."""
        left = 1 + (self.left - 1) * scale if self.left else 0
        end = 1 + (self.end - 1) * scale
        return Span(self.start * scale, end, left, self.right * scale, True)

    def in_pixels(self, scale: int) -> Span:
        """The rows or columns of pixels that these latent ones decode to."""
        return Span(self.start * scale, self.end * scale, self.left * scale, self.right * scale)


def split_by_size(length: int, size: int, overlap: int, minimum: int = 1) -> list[Span]:
    """Tiles of `size` every `size - overlap`; the last one ends at `length` and may be shorter.

    A last tile below `minimum` is grown to the left, which widens its overlap.
    """
    if size <= 0 or not 0 <= overlap < size:
        raise UserError(f"tile size {size} with overlap {overlap}: need 0 <= overlap < size")
    if length <= size:
        return [Span(0, length)]
    step = size - overlap
    count = (length + size - 2 * overlap - 1) // step
    spans = [Span(i * step, i * step + size, overlap, overlap) for i in range(count)]
    spans[0] = replace(spans[0], left=0)
    last = replace(spans[-1], end=length, right=0)
    if length - last.start < minimum <= size:
        start = length - minimum
        grown = spans[-2].end - start
        spans[-2] = replace(spans[-2], right=grown)
        last = replace(last, start=start, left=grown)
    return [*spans[:-1], last]


def split_by_count(length: int, count: int, overlap: int) -> list[Span]:
    """`count` tiles of equal size, or the first ones longer by one where it does not divide."""
    if not 1 <= count <= length or overlap < 0:
        raise UserError(f"{count} tiles with overlap {overlap} on an axis of {length} latents")
    if count == 1:
        return [Span(0, length)]
    size, longer = divmod(length + overlap * (count - 1), count)
    if size <= overlap:
        raise UserError(
            f"overlap={overlap} leaves nothing of {count} tiles on an axis of {length} latents;"
            f" use at most {max(0, length - count)}"
        )
    spans = split_by_size(length - longer, size, overlap)
    return [
        replace(span, start=span.start + min(i, longer), end=span.end + min(i + 1, longer))
        for i, span in enumerate(spans)
    ]


def causal(spans: Sequence[Span]) -> list[Span]:
    """Every tile but the first begins one latent frame earlier, whose weight is zero.

    The first latent frame of an isolated tile decodes to one frame instead of a full group.
    """
    first, *rest = (replace(span, from_zero=True) for span in spans)
    return [first, *(replace(span, start=span.start - 1, left=span.left + 1) for span in rest)]


def balanced_split(count: int) -> tuple[int, int]:
    """The largest divisor of `count` up to its root, and the rest: 6 -> (2, 3)."""
    low = max(n for n in range(1, int(count**0.5) + 1) if count % n == 0)
    return low, count // low


@dataclass(frozen=True)
class TileAxis:
    """Tile and overlap along one axis in frames or pixels; `tile_size` 0 leaves it untiled."""

    tile_size: int = 0
    overlap: int = 0

    def check(self, name: str, factor: int, extent: int | None = None) -> None:
        """Raise UserError unless the sizes fit an axis of `factor` frames or pixels per latent."""
        size, overlap = self.tile_size, self.overlap
        if size == 0 and overlap == 0:
            return
        if size == 0:
            raise UserError(f"tiling {name}: overlap={overlap} without a tile_size; use overlap 0")
        if size < 2 * factor or size % factor:
            low = max(2 * factor, size // factor * factor)
            raise UserError(
                f"tiling {name}: tile_size={size} is not a multiple of {factor} from {2 * factor}"
                f" on; use {low}{f' or {low + factor}' if size > low else ''} (0 = untiled)"
            )
        if overlap < 0 or overlap % factor or overlap >= size:
            low = min(max(0, overlap // factor * factor), size - factor)
            high = f" or {low + factor}" if low < overlap < size - factor else ""
            raise UserError(
                f"tiling {name}: overlap={overlap} is not a multiple of {factor} below"
                f" tile_size={size}; use {low}{high}"
            )

    def split(self, length: int, factor: int, minimum: int = 1) -> list[Span]:
        if not self.tile_size:
            return [Span(0, length)]
        size, overlap = self.tile_size // factor, self.overlap // factor
        return split_by_size(length, max(2, overlap + 1, size), overlap, minimum)


@dataclass(frozen=True)
class TileCount:
    """Number of tiles along one axis; the overlap is in latent positions."""

    num_tiles: int = 1
    overlap: int = 0

    def check(self, name: str, factor: int, extent: int | None = None) -> None:
        """Raise UserError unless an axis of `extent` latents has room for the tiles."""
        count, overlap = self.num_tiles, self.overlap
        most = count if extent is None else extent
        if not 1 <= count <= most:
            raise UserError(f"tiling {name}: num_tiles={count} is not in 1 to {most}")
        room = overlap if extent is None or count == 1 else extent - count
        if not 0 <= overlap <= room or (count == 1 and overlap):
            most = 0 if count == 1 else max(room, 0)
            raise UserError(
                f"tiling {name}: overlap={overlap} of {count} tiles is not in 0 to {most} latents"
            )

    def split(self, length: int, factor: int, minimum: int = 1) -> list[Span]:
        return split_by_count(length, self.num_tiles, self.overlap)


Axis = TileAxis | TileCount


@dataclass(frozen=True)
class Tiling:
    """How each axis of a clip is tiled; None in place of a Tiling means one piece."""

    frames: Axis = field(default_factory=lambda: TileAxis(80, 24))
    height: Axis = field(default_factory=lambda: TileAxis(768, 64))
    width: Axis = field(default_factory=lambda: TileAxis(768, 64))

    def check(self, scale: VideoScale, grid: Grid | None = None) -> None:
        """Raise UserError naming the axis and number that do not fit; `grid` may be unknown."""
        for name, factor, extent in zip(AXES, _factors(scale), grid or (None,) * 3, strict=True):
            getattr(self, name).check(name, factor, extent)

    def check_encode(self, scale: VideoScale, grid: Grid | None = None) -> None:
        """As `check`; encoding also needs overlaps of two latents on every tiled axis."""
        self.check(scale, grid)
        for name, factor in zip(AXES, _factors(scale), strict=True):
            axis = getattr(self, name)
            if isinstance(axis, TileAxis) and axis.tile_size and axis.overlap < 2 * factor:
                raise UserError(
                    f"tiling {name}: overlap={axis.overlap} is too small for encoding;"
                    f" use at least {2 * factor}"
                )

    def split(self, grid: Grid, scale: VideoScale, minimum: int = 1) -> list[list[Span]]:
        """Spans of the three axes of a latent `grid`; tiles span `minimum` rows and columns."""
        self.check(scale, grid)
        sizes = zip(AXES, grid, _factors(scale), (1, minimum, minimum), strict=True)
        frames, rows, columns = (getattr(self, n).split(ln, f, least) for n, ln, f, least in sizes)
        return [causal(frames), rows, columns]


def _factors(scale: VideoScale) -> tuple[int, int, int]:
    return scale.time, scale.space, scale.space


def auto_tiling(
    height: int, width: int, scale: VideoScale, long_side: int = AUTO_LONG_SIDE_PX
) -> Tiling:
    """Tiles whose long side is `long_side` px and whose shape follows the frame (in pixels)."""
    default = Tiling()
    overlap = default.height.overlap
    span = max(height, width) // scale.space

    def axis(pixels: int) -> TileAxis:
        latents = round(long_side // scale.space * (pixels // scale.space) / span)
        least = max(2, overlap // scale.space + 1)
        return TileAxis(max(latents, least) * scale.space, overlap)

    return Tiling(default.frames, axis(height), axis(width))


def normalised_windows(spans: Sequence[Span]) -> list[np.ndarray]:
    """Windows of the tiles of one axis, divided by their sum at every position."""
    windows = [span.window() for span in spans]
    total = np.zeros(max(span.end for span in spans), np.float32)
    for span, window in zip(spans, windows, strict=True):
        total[span.slice] += window
    if np.all(np.abs(total - 1) <= 1e-5):
        return windows
    return [w / np.maximum(total[s.slice], 1e-8) for s, w in zip(spans, windows, strict=True)]


def stitch(spans: Sequence[Span], make: Callable[[int], Array], axis: int) -> Iterator[Array]:
    """Add up overlapping weighted pieces along `axis`; yields what no later piece touches.

    `make(i)` gives the piece of `spans[i]`; the pieces are made in order, one at a time. Parts
    of length zero are not yielded.
    """
    tail = None
    for index, span in enumerate(spans):
        piece = make(index)
        if tail is not None and (shared := tail.shape[axis]):
            head = tail + _along(piece, axis, 0, shared)
            piece = ops.concat([head, _along(piece, axis, shared, None)], axis)
        stop = spans[index + 1].start if index + 1 < len(spans) else span.end
        cut = stop - span.start
        # A copy: a view would keep the whole piece while the next one is made.
        tail = ops.take(piece, np.arange(cut, piece.shape[axis]), axis)
        piece = _along(piece, axis, 0, cut)
        if cut:
            yield piece
        piece = None


def _along(x: Array, axis: int, start: int, stop: int | None) -> Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def blend(
    axes: Sequence[Sequence[Span]], make: Callable[[int, int, int], Array]
) -> Iterator[Array]:
    """Weight, add up and join the tiles `make(f, r, c)` (B, F, H, W, C), time slowest.

    `axes` are the output spans of frames, rows and columns. Yields consecutive groups of frames;
    at most two groups are held at a time.
    """
    windows = [normalised_windows(spans) for spans in axes]

    def tile(f: int, r: int, c: int) -> Array:
        y = _weighted(make(f, r, c), windows[0][f], windows[1][r], windows[2][c])
        ops.evaluate(y)
        return y

    def band(f: int, r: int) -> Array:
        return _joined(stitch(axes[2], lambda c: tile(f, r, c), axis=3), axis=3)

    def group(f: int) -> Array:
        return _joined(stitch(axes[1], lambda r: band(f, r), axis=2), axis=2)

    return stitch(axes[0], group, axis=1)


def _joined(pieces: Iterator[Array], axis: int) -> Array:
    parts = list(pieces)
    return parts[0] if len(parts) == 1 else ops.concat(parts, axis)


def _weighted(y: Array, frames: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Array:
    """Float32 windows: in half precision their product would show as seams."""
    result = y
    for window in (frames[:, None, None, None], (rows[:, None] * columns)[:, :, None]):
        if np.any(window != 1):
            result = ops.f32(result) * ops.asarray(window, y)
    return ops.like(result, y)


def tiled_decode(
    decoder: VideoDecoder | DiffusionDecoder,
    latent: Array,
    tiling: Tiling,
    noise: Noise | None = None,
) -> Iterator[Array]:
    """(B, F, H, W, C) normalised latent -> chunks (B, f, H', W', 3) in order, never empty.

    A decoder that draws `noise` draws it per tile, so the tiling changes the result.
    Raises UserError at the call if the tiling does not fit.
    """
    if not isinstance(decoder, VideoDecoder):
        return decoder.tiled(latent, tiling, noise)
    scale = decoder.scale
    minimum = 2 if decoder.config.padding == "reflect" else 1
    spans = tiling.split(tuple(latent.shape[1:4]), scale, minimum)

    def make(*tile: int) -> Array:
        frames, rows, columns = (axis[i].slice for axis, i in zip(spans, tile, strict=True))
        return decoder(latent[:, frames, rows, columns], noise=noise)

    return blend(video_spans(spans, scale), make)


def tiled_encode(encoder: VideoEncoder, pixels: Array | np.ndarray, tiling: Tiling) -> Array:
    """(B, F, H, W, 3) pixels in [-1, 1] -> (B, F', H', W', C) normalised latent.

    NumPy pixels stay on the host; one tile at a time goes to the device.
    """
    scale = encoder.scale
    pixels = crop_frames(pixels, scale)
    frames, height, width = pixels.shape[1:4]
    grid = video_latent_shape(frames, height, width, scale)
    tiling.check_encode(scale, grid)
    spans = tiling.split(grid, scale)
    inputs = video_spans(spans, scale)

    def make(*tile: int) -> Array:
        frames, rows, columns = (axis[i].slice for axis, i in zip(inputs, tile, strict=True))
        part = pixels[:, frames, rows, columns]
        on_host = isinstance(part, np.ndarray)
        return encoder(ops.asarray(part, encoder.conv_in.conv.weight) if on_host else part)

    return _joined(blend(spans, make), axis=1)


def video_spans(axes: Sequence[Sequence[Span]], scale: VideoScale) -> list[list[Span]]:
    """The frames, pixel rows and pixel columns that latent spans of the three axes stand for."""
    frames, *sides = axes
    pixels = ([span.in_pixels(scale.space) for span in side] for side in sides)
    return [[span.in_frames(scale.time) for span in frames], *pixels]


def decode_frames(
    decoder: VideoDecoder | DiffusionDecoder,
    latent: Array,
    tiling: Tiling | None,
    noise: Noise | None = None,
) -> Iterator[np.ndarray]:
    """Chunks (f, H, W, 3) float32 in [0, 1] of batch element 0; one chunk without a tiling."""
    latent = latent[:1]
    if tiling is None:
        chunks: Iterator[Array] = (decoder(x, noise=noise) for x in (latent,))
    else:
        chunks = tiled_decode(decoder, latent, tiling, noise)
    return map(_shown, chunks)


def _shown(chunk: Array) -> np.ndarray:
    """(1, f, H, W, 3) in [-1, 1] -> (f, H, W, 3) in [0, 1], one frame at a time to save memory."""
    shown = np.empty(chunk.shape[1:], np.float32)
    for index in range(len(shown)):
        frame = ops.f32(chunk[0, index])
        shown[index] = ops.to_numpy(ops.clamp((frame + 1) / 2, 0.0, 1.0))
    return shown
