"""Canny edges of one picture in plain NumPy.

Thresholds are on the unnormalised 3x3 Sobel magnitude of luma in [0, 1]: a sharp step of height h
measures about 2.5 h after the default blur, so `high` 0.2 is a step of 20 of 255 levels.
"""

from __future__ import annotations

import math

import numpy as np

# Smoothed values are rounded to this grid: the two pixels beside a step then tie exactly instead of
# differing by float rounding, and thinning keeps the same side along the whole edge.
_GRID = np.float32(4096)
_TAN_22_5 = np.float32(math.tan(math.pi / 8))


def edges(luma: np.ndarray, low: float, high: float, sigma: float) -> np.ndarray:
    """Luma (H, W) float32 in [0, 1] -> bool (H, W): lines of one pixel, staircases where diagonal.

    Keeps ridges of the gradient of at least `high`, and those of at least `low` that touch them
    directly or through others. `sigma` is the blur in px, 0 none. Of the two pixels beside a step
    the left or upper one is marked. Source: J. Canny, 1986.
    """
    smooth = np.rint(blurred(luma, sigma) * _GRID)
    down, right = sobel(smooth)
    magnitude = np.hypot(down, right)
    ridge = _ridges(magnitude, down, right)
    weak = ridge & (magnitude >= np.float32(low) * _GRID)
    return connected(ridge & (magnitude >= np.float32(high) * _GRID), weak)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W), `sigma` in px, cut at 4 sigma, borders repeated."""
    if sigma == 0:
        return picture
    reach = math.ceil(4 * sigma)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    height, width = picture.shape
    tall = np.pad(picture, ((reach, reach), (0, 0)), mode="edge")
    picture = sum(tap * tall[i : i + height] for i, tap in enumerate(taps))
    wide = np.pad(picture, ((0, 0), (reach, reach)), mode="edge")
    return sum(tap * wide[:, i : i + width] for i, tap in enumerate(taps))


def sobel(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unnormalised 3x3 derivatives of (H, W) downwards and to the right, borders repeated."""
    padded = np.pad(picture, 1, mode="edge")
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    along = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return across[2:] - across[:-2], along[:, 2:] - along[:, :-2]


def connected(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """bool (H, W): `strong`, and the `weak` pixels that reach it through weak ones, diagonals too.

    Grows from the strong pixels and looks at every pixel once, whatever the shape of the edges.
    """
    kept = np.pad(strong, 1)
    shape, stride = kept.shape, kept.shape[1]
    waiting = np.pad(weak & ~strong, 1).ravel()
    kept = kept.ravel()
    around = np.array([row * stride + column for row in (-1, 0, 1) for column in (-1, 0, 1)])
    front = np.flatnonzero(kept)
    while front.size:
        reached = (front[:, None] + around).ravel()
        front = np.unique(reached[waiting[reached]])
        waiting[front] = False
        kept[front] = True
    return kept.reshape(shape)[1:-1, 1:-1]


def _ridges(magnitude: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Where the gradient is largest along its own direction, taken to the nearest 45 degrees."""
    height, width = magnitude.shape
    padded = np.pad(magnitude, 1)
    vertical, horizontal = np.abs(down), np.abs(right)
    flat = vertical <= _TAN_22_5 * horizontal
    steep = horizontal <= _TAN_22_5 * vertical
    falling = (down > 0) == (right > 0)
    diagonal = ~(flat | steep)
    ridge = np.zeros(magnitude.shape, bool)
    for sector, row, column in (
        (flat, 0, 1), (steep, 1, 0), (diagonal & falling, 1, 1), (diagonal & ~falling, 1, -1),
    ):  # fmt: skip
        before = padded[1 - row : 1 - row + height, 1 - column : 1 - column + width]
        after = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        ridge |= sector & (magnitude > before) & (magnitude >= after)
    return ridge
