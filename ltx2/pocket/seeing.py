"""What the pictures of a pocket clip show: background, and colour, outline and track of each thing.

Everything is measured relative to the clip itself (background by the frame's rim, outlines by how
far a pixel is on the way from background to thing), so that what a neural decoder or a video codec
does to edges and levels matters little. Lengths are in shorter sides, as in `world`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ltx2.errors import UserError
from ltx2.pocket.world import FLICKER

# Shorter sides are brought to 64..127 pixels: enough for every shape, quick, and less noise.
SHORT_SIDE = 64
# Less than so much of a square of the shorter side, or of the other thing, is no thing.
_LEAST_AREA, _LEAST_SHARE = 0.003, 0.06
_LEAST_DISTANCE = 0.1
# Brightness by which every other pair of frames differs from its neighbours in a flickering clip.
_FLICKERS = 0.5 * (1 + FLICKER)
# Where silhouettes are sampled. No shape reaches further than 1.56.
GRID = np.linspace(-1.75, 1.75, 29, dtype=np.float32)


@dataclass(frozen=True)
class Blob:
    """One thing as seen: colour (3,), centre and radius of the circle of equal area (F,).

    Where `visible` (F,) is False centre and radius mean nothing. `silhouette` (29, 29) is the mean
    cover around the centre, at GRID in such radii. `part`: left and right end of the columns that
    it was looked for in.
    """

    colour: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    visible: np.ndarray
    silhouette: np.ndarray
    part: tuple[float, float]

    @property
    def size(self) -> float:
        """Typical radius of the circle of equal area."""
        return float(np.median(self.radius[self.visible]))


@dataclass(frozen=True)
class View:
    """The clip as seen: colour of the background (3,), things from left to right.

    `flicker`: whether every other pair of frames is darker; levels here are without it. `height`
    and `width` of the frame are in shorter sides.
    """

    background: np.ndarray
    blobs: tuple[Blob, ...]
    flicker: bool
    height: float
    width: float


def shrunk(frames: np.ndarray) -> np.ndarray:
    """(F, H, W, 3), uint8 or in [0, 1] -> float32 in [0, 1], shorter side 64..127 where it can."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise UserError(f"frames of shape {frames.shape} are no clip; give (F, H, W, 3)")
    step = max(1, min(frames.shape[1:3]) // SHORT_SIDE)
    height, width = (side // step for side in frames.shape[1:3])
    scale = 1 / 255 if frames.dtype == np.uint8 else 1.0
    cut = frames[:, : height * step, : width * step].astype(np.float32)
    if step > 1:
        # One axis at a time: several times as quick as both.
        rows = cut.reshape(-1, height, step, width * step * 3).sum(axis=2)
        cut = rows.reshape(-1, height, width, step, 3).sum(axis=3)
        scale /= step**2
    return cut * np.float32(scale)


def view(frames: np.ndarray) -> View:
    """Look at a clip (F, H, W, 3), uint8 or in [0, 1]."""
    clip = _smoothed(shrunk(frames))
    gains = _flicker_gains(clip)
    clip = clip / gains[:, None, None, None]
    rims = _rims(clip)  # (F, 3)
    background = np.median(rims, axis=0)
    clip -= rims[:, None, None]
    distance = np.sqrt(np.square(clip).sum(-1))
    blobs = [_blob(clip, distance, part, background) for part in _parts(distance)]
    height, width = (side / min(clip.shape[1:3]) for side in clip.shape[1:3])
    found = tuple(blob for blob in blobs if blob is not None)
    return View(background, found, bool(gains.min() < 1), height, width)


def _smoothed(clip: np.ndarray) -> np.ndarray:
    """Binomial over 3 x 3 pixels: noise falls to 3/8."""
    for axis in (1, 2):
        first, last = (
            (slice(None),) * axis + (slice(1),),
            (slice(None),) * axis + (slice(-1, None),),
        )
        padded = np.concatenate([clip[first], clip, clip[last]], axis)
        low, mid, high = (
            padded[(slice(None),) * axis + (slice(k, k + clip.shape[axis]),)] for k in range(3)
        )
        clip = (low + high) * np.float32(0.25) + mid * np.float32(0.5)
    return clip


def _rims(clip: np.ndarray) -> np.ndarray:
    """(F, H, W, 3) -> the median colour of each frame's outermost pixels (F, 3)."""
    edge = max(1, min(clip.shape[1:3]) // 32)
    sides = (clip[:, :edge], clip[:, -edge:], clip[:, :, :edge], clip[:, :, -edge:])
    return np.median(np.concatenate([s.reshape(len(clip), -1, 3) for s in sides], 1), axis=1)


def _flicker_gains(clip: np.ndarray) -> np.ndarray:
    """Brightness of each frame (F,): 1, or less in the dark pairs of a flickering clip."""
    level = clip.mean(axis=(1, 2, 3)) + 1e-4
    gains = np.ones(len(level), np.float32)
    if len(level) < 8:
        return gains
    # Frames two before and two after are of the other kind.
    ratio = level / np.sqrt(np.roll(level, 2) * np.roll(level, -2))
    ratio[:2], ratio[-2:] = level[:2] / level[2:4], level[-2:] / level[-4:-2]
    if np.median(np.abs(np.log(ratio))) > -math.log(_FLICKERS):
        dark = ratio < 1
        gains[dark] = np.median(ratio[dark])
    return gains


def _parts(distance: np.ndarray) -> list[slice]:
    """Columns of each thing in (F, H, W) distances from the background; the frame if none is."""
    short, width = min(distance.shape[1:]), distance.shape[2]
    middle = width // 2
    whole, halves = slice(0, width), [slice(0, middle), slice(middle, width)]
    strengths = [_strength(distance[:, :, half]) for half in halves]
    if min(strengths) < _LEAST_DISTANCE:
        return [whole]
    level = np.repeat(strengths, [middle, width - middle]) / 2
    mask = distance > level
    area = np.stack([mask[:, :, half].sum(axis=(1, 2)) for half in halves])  # (2, F)
    both = (area > _LEAST_AREA * short**2).all(axis=0)
    is_apart = mask[:, :, middle - 1 : middle + 1].sum(axis=(1, 2)) <= max(2, short // 24)
    typical = np.median(area, axis=1)
    is_pair = np.mean(both & is_apart) > 0.5 and typical.min() > _LEAST_SHARE * typical.max()
    return halves if is_pair else [whole]


def _strength(distance: np.ndarray) -> float:
    """How far the thing is from the background, whatever a few pixels or frames are."""
    return float(np.percentile(distance.max(axis=(1, 2)), 80))


def _blob(
    away: np.ndarray, distance: np.ndarray, part: slice, background: np.ndarray
) -> Blob | None:
    """The thing in the columns `part` of pixels (F, H, W, 3) less background, if there is one."""
    short = min(away.shape[1:3])
    away, distance = away[:, :, part], distance[:, :, part]
    strength = _strength(distance)
    if strength < _LEAST_DISTANCE:
        return None
    colour = np.median(away[distance > 0.75 * strength], axis=0)
    cover = np.clip(away @ (colour / np.square(colour).sum()), -0.3, 1.2)  # (F, H, W)
    x, y, radius, visible = _measured(cover)
    visible &= np.pi * radius**2 > _LEAST_AREA * short**2
    if visible.mean() < 0.5:
        return None
    silhouette = _silhouette(cover, x, y, radius, visible)
    x, y, radius = (x + part.start) / short, y / short, radius / short
    ends = part.start / short, part.stop / short
    return Blob(colour + background, x, y, radius, visible, silhouette, ends)


def _measured(cover: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centre and radius (F,) in pixels of what covers (F, H, W), and whether there is anything."""
    rows = np.arange(cover.shape[1], dtype=np.float32)[None, :, None] + 0.5
    columns = np.arange(cover.shape[2], dtype=np.float32)[None, None, :] + 0.5
    weight = (cover > 0.5).astype(np.float32)
    visible = weight.sum(axis=(1, 2)) > 0
    for _ in range(3):
        total = np.maximum(weight.sum(axis=(1, 2)), 1e-3)
        x, y = (weight * columns).sum(axis=(1, 2)) / total, (weight * rows).sum(axis=(1, 2)) / total
        radius = np.sqrt(total / np.pi)
        # No thing reaches further than 1.6 of these radii; soft edges a little more.
        limit = (2 * radius + 2)[:, None, None]
        near = np.hypot(columns - x[:, None, None], rows - y[:, None, None]) < limit
        weight = cover * near
    return x, y, radius, visible


def _silhouette(
    cover: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray, visible: np.ndarray
) -> np.ndarray:
    """Mean of what covers (F, H, W) around the centre, in its radii; larger is sharper: weighs."""
    frames = np.flatnonzero(visible)
    _, height, width = cover.shape
    padded = np.pad(cover, ((0, 0), (1, 1), (1, 1)))
    at_x = np.clip(x[frames, None] + radius[frames, None] * GRID + 0.5, 0, width + 0.99)
    at_y = np.clip(y[frames, None] + radius[frames, None] * GRID + 0.5, 0, height + 0.99)
    column, row = at_x.astype(int), at_y.astype(int)
    right, below = (at_x - column)[:, None, :], (at_y - row)[:, :, None]
    picked = frames[:, None, None]
    corners = [
        padded[picked, (row + down)[:, :, None], (column + aside)[:, None, :]]
        for down, aside in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    top = corners[0] * (1 - right) + corners[1] * right
    bottom = corners[2] * (1 - right) + corners[3] * right
    samples = top * (1 - below) + bottom * below
    return np.average(samples, axis=0, weights=radius[frames] ** 2)
